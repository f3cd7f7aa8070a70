"""Which tensors of a file are trained, which are not, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from lsc_graph.canonical.origins import Origin, Place, find_tensor, indices_of, label_of, origin_of, place_of
from lsc_graph.errors import UsageError
from lsc_graph.prepare import Prepared, initializers_of
from lsc_graph.pretraining.read_cuts import read_cuts
from lsc_graph.recurrence.not_weights import why_not_a_weight
from lsc_graph.to_torch.segment import Parameters
from lsc_graph.writeback.tensors import is_writable, values_of


@dataclass(frozen=True)
class Weight:
    """One trained tensor of the file, or the part of it at `place`.

    `names` are the initializers that were made from it: ties stay ties. `cuts` are the places at which the
    model cuts its axes apart.
    """

    origin: Origin
    names: tuple[str, ...]
    value: Tensor
    place: Place = ()
    cuts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The tensor's place in the file."""
        return label_of(self.origin, self.place)

    @property
    def num_axes(self) -> int:
        """Axes of more than one element."""
        return sum(size != 1 for size in self.value.shape)


@dataclass(frozen=True)
class Choice:
    """What is trained, and the reason for every floating-point tensor that is not."""

    weights: tuple[Weight, ...]
    left_out: dict[str, str]


def choose(
    prepared: Prepared, parameters: Parameters, train: Sequence[str] = (), freeze: Sequence[str] = ()
) -> Choice:
    """Sort the floating-point initializers of the torch view into weights and others.

    Args:
        prepared: the model.
        parameters: the torch view's store; its values are the weights' first ones.
        train: patterns of tensor names (`*` and `?`); if there are any, nothing else is trained.
        freeze: patterns of tensor names that are not trained.

    Raises:
        UsageError: a pattern fits no tensor.
    """
    values = initializers_of(prepared)
    groups: defaultdict[tuple[Origin, Place], list[str]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for name in parameters.names():
        value = values.get(name)
        origin = None if value is None else origin_of(value)
        reason = _reason(prepared, parameters, name, value, origin)
        if reason is not None or origin is None:
            label = label_of(origin, place_of(value)) if origin and value is not None else name
            left_out[label] = reason or "it was computed, not stored"
        elif value is not None:
            groups[origin, place_of(value)].append(name)
    labels = [name for group in groups for name in {label_of(*group), label_of(group[0], ())}]
    _check_patterns(train, labels)
    _check_patterns(freeze, [*labels, *left_out])
    weights = []
    for (origin, place), names in sorted(groups.items(), key=lambda item: item[1]):
        label, own = label_of(origin, place), {label_of(origin, place), label_of(origin, ())}
        if train and not any(_fits(name, train) for name in own):
            left_out[label] = "not among the patterns to train"
        elif any(_fits(name, freeze) for name in own):
            left_out[label] = "frozen"
        elif label not in left_out:
            cuts = read_cuts(values[name] for name in names)
            first = parameters[names[0]].detach().clone()
            weights.append(Weight(origin, tuple(names), first, place, cuts))
    return Choice(tuple(weights), left_out)


def _fits(label: str, patterns: Iterable[str]) -> bool:
    return any(label == pattern or fnmatchcase(label, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], labels: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_fits(label, [pattern]) for label in labels):
            shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise UsageError("A pattern fits no weight", got=pattern, expected=f"one that fits: {shown}")


def _reason(
    prepared: Prepared, parameters: Parameters, name: str, value: ir.Value | None, origin: Origin | None
) -> str | None:
    """Why an initializer is not a weight; None if it is one."""
    current = parameters[name]
    if value is None or origin is None:
        return "it was computed, not stored"
    tensor = find_tensor(prepared.loaded.proto, origin)
    if tensor is None or not is_writable(tensor):
        return "the file holds no such tensor of a floating-point type"
    stored = values_of(tensor).astype(np.float32)[indices_of(place_of(value))]
    reason = why_not_a_weight(value, stored, parameters.fixed)
    if reason is None and not current.requires_grad:
        return "running statistics"
    if reason is None and not np.array_equal(stored, current.detach().cpu().numpy()):
        return "its values in the file are not those that the model computes with"
    return reason


def by_name(weights: Sequence[Weight], values: Sequence[Tensor]) -> dict[str, Tensor]:
    """New values by the name of every initializer that was made from them."""
    return {name: value for weight, value in zip(weights, values, strict=True) for name in weight.names}


def as_trained(weights: Sequence[Weight]) -> list[Tensor]:
    """The weights' current values."""
    return [torch.clone(weight.value) for weight in weights]
