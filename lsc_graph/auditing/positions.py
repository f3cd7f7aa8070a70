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

from lsc_graph.auditing.changes import moved
from lsc_graph.prepare import Prepared
from lsc_graph.running.inputs import synthetic
from lsc_graph.running.reference import Array, Reference, with_outputs
from lsc_graph.running.sampling import Sample

_GROWN = 1.5
_FURTHER = (1.0, 30.0, 1000.0)
"""By how much inputs are changed, as multiples of how they vary: what is flat near them may not be beyond."""
_TRIES = 8
"""Draws of a few tokens may give the same ones."""
_OF_SHAPES = frozenset(("Shape", "Size"))


@dataclass(frozen=True)
class Place:
    """A value of the main graph, and which axis of it is time, where a recurrence says so."""

    name: str
    axis: int | None = None


class Kind(Enum):
    """What a change of one position of something changes of something else; first what tells most."""

    APART = "positions that read no other one"
    SEVERAL = "several positions that read others, too"
    JOINED = "one position that reads others, too"
    ALL = "all positions, as others do"
    ONE = "all positions, as no other does"


_TOLD = frozenset((Kind.APART, Kind.SEVERAL, Kind.JOINED))


@dataclass(frozen=True)
class Mixing:
    """Of one value, a position of which changes `num_changed` of `num_positions` positions of another."""

    source: str
    target: str
    axis: int
    position: int
    num_changed: int
    num_positions: int


@dataclass(frozen=True)
class _Effect:
    """What a value does to another along one of its axes, its shape being this."""

    kind: Kind
    axis: int
    shape: tuple[int, ...]
    mixing: Mixing | None


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
        self._scales: tuple[float, ...] = _FURTHER[:1]
        self._base = self._run(self._feed)

    def look_further(self) -> None:
        """From here on, change values by more, too: a ReLU that lets nothing through hides what follows."""
        self._found, self._scales = {}, _FURTHER

    def seen(self, sources: Sequence[Place], targets: Sequence[Place]) -> Seen:
        """What changes of positions of some values do to others."""
        is_settled, mixings = True, []
        for target in dict.fromkeys(own for own in targets if own.name in self._targets):
            found = [self._between(source, target) for source in dict.fromkeys(sources)]
            known = [own for own in found if own is not None]
            told = [own for own in known if own.kind in _TOLD]
            is_settled &= bool(known) or self._is_apart(sources, target)
            for own in known:
                if own.mixing is not None and (own.kind is Kind.SEVERAL or _is_time(own, told)):
                    mixings.append(own.mixing)
                else:
                    is_settled &= own.kind is Kind.APART
        return Seen(is_settled, tuple(mixings))

    def grown_at(self, mixing: Mixing) -> list[str]:
        """The values that change by a larger share than one position is, made of some that do not."""
        nodes = self._proto.graph.node
        names = [name for node in nodes for name in node.output if name]
        model = Reference(with_outputs(self._proto, names))
        most, first = _GROWN / self._feed[mixing.source].shape[mixing.axis], model.run(self._feed, names)
        for scale in self._scales:
            changed = self._changed(Place(mixing.source), mixing.axis, mixing.position, scale)
            second = model.run(changed, names) if changed is not None else first
            wide = {name for name in names if float(moved(first[name], second[name]).mean()) > most}
            if wide:
                return [name for n in nodes if not wide & {*n.input} for name in n.output if name in wide]
        return []

    def _between(self, source: Place, target: Place) -> _Effect | None:
        """What a value does to another, along the axis that tells most; None if nothing."""
        every = range(self._feed[source.name].ndim)
        axes = every if source.axis is None else [source.axis]
        if source.axis is None and target.axis is None:
            axes = self._time_axes(source) or every
        found = [effect for axis in axes for effect in self._along(source, axis, target)]
        return min(found, key=lambda own: ([*Kind].index(own.kind), own.mixing is None), default=None)

    def _time_axes(self, source: Place) -> list[int]:
        """The axes along which times of what layers read follow it, else those with as many elements."""
        shape = self._feed[source.name].shape
        read = [place for place in self.read if place.axis is not None]
        told = {a: [k.kind for own in read for k in self._along(source, a, own)] for a in range(len(shape))}
        followed = [axis for axis, kinds in told.items() if any(kind in _TOLD for kind in kinds)]
        return followed or [axis for axis, size in enumerate(shape) if size in self._lengths]

    def _along(self, source: Place, axis: int, target: Place) -> Iterator[_Effect]:
        """What changes along an axis do along each axis of another value that may be the same one.

        Of an axis that changes everywhere it is only known by its length to be positions, too.
        """
        shape = self._feed[source.name].shape
        if shape[axis] < 2 or target.name not in self._targets:
            return
        found = {i: self._moved_by(source, axis, i, target.name) for i in _indices(shape[axis])}
        told = {i: own for i, own in found.items() if own is not None and own.any()}
        if not told:
            return
        sizes = self._base[target.name].shape
        alike = [own for own, size in enumerate(sizes) if size == shape[axis]]
        axes = [target.axis] if target.axis is not None else alike
        if not axes:
            yield _Effect(Kind.ALL, axis, shape, None)
        for own_axis in axes:
            at = {i: _along_axis(own, own_axis) for i, own in told.items()}
            index = max(at, key=lambda i: int(at[i].sum()))
            most, size = int(at[index].sum()), sizes[own_axis]
            kind = self._kind(source, axis, target.name, own_axis, at)
            mixing = Mixing(source.name, target.name, axis, index, most, size)
            is_named = kind is Kind.SEVERAL or (kind is Kind.ALL and size == shape[axis])
            yield _Effect(kind, axis, shape, mixing if is_named else None)

    def _kind(self, source: Place, axis: int, target: str, target_axis: int, at: Mapping[int, Array]) -> Kind:
        """Told by what else moves the positions of another value that one position moves."""
        is_everywhere = all(own.all() for own in at.values()) and next(iter(at.values())).size > 1
        joined = [i for i in at if self._reads_more(source, axis, i, target, target_axis, at[i])]
        if is_everywhere:
            return Kind.ALL if joined else Kind.ONE
        if any(at[i].sum() > 1 for i in joined):
            return Kind.SEVERAL
        return Kind.JOINED if joined else Kind.APART

    def _reads_more(
        self, source: Place, axis: int, index: int, target: str, target_axis: int, at: Array
    ) -> bool:
        """Whether any of the positions that one position moves is also moved by the others."""
        others = self._moved_by(source, axis, ~index, target)
        return others is not None and bool((_along_axis(others, target_axis) & at).any())

    def _moved_by(self, source: Place, axis: int, index: int, target: str) -> Array | None:
        """What a change at one position moves, or, of the inverse of its index, at all others."""
        key = (source.name, axis, index)
        if key not in self._found:
            self._found[key] = {}
            for changed in (self._changed(source, axis, index, scale) for scale in self._scales):
                for name, own in (self._run(changed) if changed is not None else {}).items():
                    known = self._found[key].get(name, False)
                    self._found[key][name] = known | moved(self._base[name], own)
        return self._found[key].get(target)

    def _changed(self, source: Place, axis: int, index: int, scale: float) -> dict[str, Array] | None:
        """What the model is given, with other values there; None where there are none."""
        value = self._feed[source.name]
        generator = np.random.default_rng((axis, max(index, ~index)))
        is_there = np.arange(value.shape[axis]) == max(index, ~index)
        is_there = (is_there if index >= 0 else ~is_there).reshape(-1, *[1] * (value.ndim - axis - 1))
        for _ in range(_TRIES):
            other = self._others(source.name, generator, scale)
            changed = value if other is None else np.where(is_there, other, value)
            if not np.array_equal(changed, value):
                return self._feed | {source.name: changed}
        return None

    def _others(self, name: str, generator: np.random.Generator, scale: float) -> Array | None:
        value = self._feed[name]
        if np.issubdtype(value.dtype, np.floating):
            noise = scale * (float(value.std()) or 1.0) * generator.standard_normal(value.shape)
            return np.asarray(value + noise, value.dtype)
        domain = self._domains.get(name)
        return None if domain is None else synthetic(domain, value.shape, value.dtype, generator)

    def _is_apart(self, sources: Sequence[Place], target: Place) -> bool:
        """Whether nothing leads from some values to another one."""
        names = {source.name for source in sources}
        for node in self._proto.graph.node:
            if node.op_type not in _OF_SHAPES and names & {*node.input}:
                names |= {*node.output}
        return target.name not in names

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self._model.run(feed, self._targets) if self._model is not None else {}


def _indices(length: int) -> list[int]:
    """The first, the last, and neighbours in the middle, for not every position is read by as many."""
    middle = length // 2
    return sorted({0, max(middle - 1, 0), middle, min(middle + 1, length - 1), length - 1})


def _is_time(effect: _Effect, told: Sequence[_Effect]) -> bool:
    """Whether an axis that changes everything is time: that of something like it is, or nothing else is."""
    if effect.kind is not Kind.ALL:
        return False
    alike = [own for own in told if (len(own.shape), own.axis) == (len(effect.shape), effect.axis)]
    length = effect.shape[effect.axis]
    return not told or any(own.shape[own.axis] == length for own in alike)


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


def _along_axis(changed: Array, axis: int) -> Array:
    """At which positions of an axis anything is changed."""
    return np.asarray(changed.any(axis=tuple(b for b in range(changed.ndim) if b != axis)))
