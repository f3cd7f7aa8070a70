"""Whether positions are put together outside of the layers: seen by changing one position after another.

Recurrences are cut out of the model: what they put out is given to what is left of it. A position of an
input, or of what a layer puts out, is changed, and what the layers read and the model puts out is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
import onnx_ir as ir

from lsc_graph.prepare import Prepared
from lsc_graph.running.inputs import synthetic
from lsc_graph.running.reference import Array, Reference, with_outputs
from lsc_graph.running.sampling import Sample

MOST_CHANGED = 4
"""Positions of an axis that are changed, one at a time, from the first to the last."""
_ROUNDING = 1e-6
_GROWN = 1.5


@dataclass(frozen=True)
class Place:
    """A value of the main graph, and which axis of it is time, where a recurrence says so."""

    name: str
    axis: int | None = None


class Kind(Enum):
    """What a change of one position of something changes of something else."""

    APART = "one position"
    SEVERAL = "several positions"
    ALL = "all positions"


@dataclass(frozen=True)
class Mixing:
    """Of one value, a position of which changes `num_changed` of `num_positions` positions of another."""

    source: str
    target: str
    axis: int
    position: int
    num_changed: int
    num_positions: int
    target_axis: int


@dataclass(frozen=True)
class Seen:
    """What was seen between some values: whether it tells everything, and where positions are mixed."""

    is_settled: bool
    mixings: tuple[Mixing, ...]


class Positions:
    """A model without its recurrences, run on one sample with positions changed.

    Raises:
        AnalysisError: what is left does not run.
    """

    def __init__(self, prepared: Prepared, sample: Sample) -> None:
        whole = ir.to_proto(prepared.findings.model)
        sites = prepared.findings.sites
        self.written = [Place(s.main, s.axis) for own in sites for s in own.outputs]
        self.read = [Place(s.main, s.axis) for own in sites if not own.over_depth for s in own.inputs]
        held = [name for own in sites for name in own.captures.values()]
        held += [s.initial for own in sites for s in own.states if s.initial is not None]
        self.read += [Place(name) for name in held]
        known = {place.name: place.axis for place in self.read}
        self.given = [Place(name, known.get(name)) for name in sample.inputs]
        self.outputs = [Place(value.name) for value in whole.graph.output]
        self._domains = prepared.domains
        self._lengths = {own.num_steps for own in sites if not own.over_depth}
        ends = {s.final for own in sites for s in own.states if s.final}
        ends |= {place.name for place in self.written}
        cut = [node for node in whole.graph.node if ends & {*node.output}]
        between = [name for node in cut for name in node.output if name]
        self._feed = dict(sample.inputs | sample.initial)
        self._feed |= Reference(with_outputs(whole, between)).run(self._feed, between)
        self._proto = _without(whole, cut, {name: self._feed[name] for name in between})
        made = {name for node in self._proto.graph.node for name in node.output}
        targets = [place.name for place in (*self.read, *self.outputs) if place.name in made]
        self._targets = list(dict.fromkeys(targets))
        self._model = Reference(with_outputs(self._proto, self._targets)) if targets else None
        self._found: dict[tuple[str, int, int], dict[str, Array]] = {}
        self._base = self._run(self._feed)

    def seen(self, sources: Sequence[Place], targets: Sequence[Place]) -> Seen:
        """What changes of positions of some values do to others."""
        is_settled, mixings = True, []
        for target in dict.fromkeys(own for own in targets if own.name in self._targets):
            found = [self._between(source, target) for source in dict.fromkeys(sources)]
            known = [own for own in found if own is not None]
            is_told = any(kind is Kind.APART for kind, _ in known)
            for kind, mixing in known:
                if kind is Kind.SEVERAL or (kind is Kind.ALL and mixing is not None and not is_told):
                    assert mixing is not None
                    mixings.append(mixing)
                else:
                    is_settled &= kind is Kind.APART
        return Seen(is_settled, tuple(mixings))

    def grown_at(self, mixing: Mixing) -> list[str]:
        """The values that change by a larger share than one position is, made of some that do not."""
        nodes = self._proto.graph.node
        names = [name for node in nodes for name in node.output if name]
        model = Reference(with_outputs(self._proto, names))
        changed = self._changed(Place(mixing.source), mixing.axis, mixing.position)
        if changed is None:
            return []
        first, second = model.run(self._feed, names), model.run(changed, names)
        share = {name: float(_moved(first[name], second[name]).mean()) for name in names}
        most = _GROWN / self._feed[mixing.source].shape[mixing.axis]
        wide = {name for name in names if share[name] > most}
        return [name for node in nodes if not wide & {*node.input} for name in node.output if name in wide]

    def _between(self, source: Place, target: Place) -> tuple[Kind, Mixing | None] | None:
        """What a value does to another, along the axes that tell most; None if nothing."""
        found: dict[Kind, Mixing | None] = {}
        every = range(self._feed[source.name].ndim)
        axes = every if source.axis is None else [source.axis]
        if source.axis is None and target.axis is None:
            axes = self._time_axes(source) or every
        for axis in axes:
            for kind, mixing in self._along(source, axis, target):
                found[kind] = found.get(kind) or mixing
        return next(((kind, found[kind]) for kind in Kind if kind in found), None)

    def _time_axes(self, source: Place) -> list[int]:
        """The axes along which times of what layers read follow it, else those with as many elements."""
        shape = self._feed[source.name].shape
        read = [place for place in self.read if place.axis is not None]
        told = {a: [k for own in read for k, _ in self._along(source, a, own)] for a in range(len(shape))}
        followed = [axis for axis, kinds in told.items() if any(kind is not Kind.ALL for kind in kinds)]
        return followed or [axis for axis, size in enumerate(shape) if size in self._lengths]

    def _along(self, source: Place, axis: int, target: Place) -> Iterator[tuple[Kind, Mixing | None]]:
        """What changes along an axis do along each axis of another value that may be the same one.

        Of an axis that changes everywhere it is only known by its length to be positions, too.
        """
        length = self._feed[source.name].shape[axis]
        if length < 2 or target.name not in self._targets:
            return
        indices = [int(i) for i in np.unique(np.linspace(0, length - 1, MOST_CHANGED).astype(int))]
        moved = [own for i in indices if (own := self._moved_by(source, axis, i, target.name)) is not None]
        if not any(own.any() for own in moved):
            return
        shape = self._base[target.name].shape
        axes = [target.axis] if target.axis is not None else [b for b, n in enumerate(shape) if n == length]
        if not axes:
            yield Kind.ALL, None
        for own_axis in axes:
            counts = [int(_along_axis(own, own_axis).sum()) for own in moved]
            size = shape[own_axis]
            kind = _kind(counts, size)
            index = indices[max(range(len(counts)), key=counts.__getitem__)]
            mixing = Mixing(source.name, target.name, axis, index, max(counts), size, own_axis)
            yield kind, mixing if kind is not Kind.ALL or size == length else None

    def _moved_by(self, source: Place, axis: int, index: int, target: str) -> Array | None:
        key = (source.name, axis, index)
        if key not in self._found:
            changed = self._changed(source, axis, index)
            found = self._run(changed) if changed is not None else {}
            self._found[key] = {name: _moved(self._base[name], own) for name, own in found.items()}
        return self._found[key].get(target)

    def _changed(self, source: Place, axis: int, index: int) -> dict[str, Array] | None:
        """What the model is given, with another value at one position; None where there is no other."""
        value = self._feed[source.name]
        generator = np.random.default_rng((axis, index))
        place = (slice(None),) * axis + (index,)
        shape = value[place].shape
        other = value.copy()
        if np.issubdtype(value.dtype, np.floating):
            other[place] += (float(value.std()) or 1.0) * generator.standard_normal(shape)
        elif source.name in self._domains:
            other[place] = synthetic(self._domains[source.name], shape, value.dtype, generator)
        return None if np.array_equal(other, value) else self._feed | {source.name: other}

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self._model.run(feed, self._targets) if self._model is not None else {}


def _kind(counts: Sequence[int], size: int) -> Kind:
    """Of how many positions were changed each time, out of so many."""
    told = [count for count in counts if count]
    if all(count == size for count in told) and size > 1:
        return Kind.ALL
    return Kind.SEVERAL if max(told) > 1 else Kind.APART


def _without(
    whole: onnx.ModelProto, cut: Sequence[onnx.NodeProto], given: Mapping[str, Array]
) -> onnx.ModelProto:
    """The model without some operators: what they put out is given."""
    left = onnx.ModelProto()
    left.CopyFrom(whole)
    names = {name for node in cut for name in node.output}
    kept = [node for node in whole.graph.node if not names & {*node.output}]
    outputs = [value for value in whole.graph.output if value.name not in names]
    del left.graph.node[:]
    left.graph.node.extend(kept)
    del left.graph.output[:]
    left.graph.output.extend(outputs)
    left.graph.input.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in given.items()
    )
    return left


def _moved(first: Array, second: Array) -> Array:
    """Which elements are others, by more than rounding; of values that changed their shape, all."""
    if first.shape != second.shape:
        return np.ones(first.shape, bool)
    if not np.issubdtype(first.dtype, np.floating):
        return np.asarray(first != second)
    scale = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        return np.asarray(~np.isclose(first, second, rtol=0.0, atol=_ROUNDING * scale, equal_nan=True))


def _along_axis(moved: Array, axis: int) -> Array:
    """At which positions of an axis anything is changed."""
    return np.asarray(moved.any(axis=tuple(b for b in range(moved.ndim) if b != axis)))
