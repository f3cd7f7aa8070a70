"""Tensors of the file that are copies of a trained weight: they get its new values, so that ties stay ties.

Constant folding writes weights again: the bias that a first step from zeros comes down to, or a weight once
for every step. Where the recurrence that was found computes with one of them in place of all, nothing reads
the others any more; what the model does read is a parameter of its own, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np
from onnx import ModelProto

from lsc_graph.canonical.origins import Origin, tensors_by_origin
from lsc_graph.pretraining.trainable import Weight
from lsc_graph.writeback.tensors import is_writable, values_of

_Content = tuple[str, str]


def find_copies(
    proto: ModelProto, weights: Sequence[Weight], used: Iterable[Origin]
) -> dict[Origin, tuple[int, tuple[int, ...]]]:
    """Copies by their place in the file: the number of the weight, and the copy's own shape.

    Args:
        proto: the model as it was read.
        weights: what is trained.
        used: the places of all tensors that the torch view computes with.
    """
    taken = {*used, *(weight.origin for weight in weights)}
    numbers: dict[_Content, int] = {}
    others: list[tuple[Origin, _Content, tuple[int, ...]]] = []
    origins = {weight.origin: number for number, weight in enumerate(weights) if not weight.place}
    for origin, tensor in tensors_by_origin(proto):
        if (origin in taken and origin not in origins) or not is_writable(tensor):
            continue
        values = values_of(tensor)
        content = _content(values)
        if content is not None and origin in origins:
            numbers.setdefault(content, origins[origin])
        elif content is not None:
            others.append((origin, content, values.shape))
    return {origin: (numbers[content], shape) for origin, content, shape in others if content in numbers}


def _content(values: np.ndarray) -> _Content | None:
    """What tells tensors apart, their shapes aside; None if all elements are the same, which says nothing."""
    if values.size < 2 or (values == values.flat[0]).all():
        return None
    return str(values.dtype), sha256(values.tobytes()).hexdigest()
