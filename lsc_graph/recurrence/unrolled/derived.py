"""States that are affine functions of another one: a step computes them again instead of taking them over.

Exporters merge equal computations of neighbouring steps, so that a step takes over what it would compute
from the state itself: a threshold beside the adaptation that it follows, a product with the recurrent weight
beside the state. The same network without that merging has the smaller state. So it is with any function of
a first state, given or constant, that the file computes as it computes the later ones: that is the state.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.affine import is_affine
from lsc_graph.recurrence.unrolled.constants import Constants, is_offset
from lsc_graph.recurrence.unrolled.first_step import are_equal, stepped
from lsc_graph.recurrence.unrolled.implied import implied
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.reapplied import as_fed_back, as_open, fed_back, reapplied
from lsc_graph.recurrence.unrolled.steps import Derivation, Steps
from lsc_graph.recurrence.writer import GraphWriter


@dataclass(frozen=True)
class _Merger:
    """States, each with the nodes that lead from `base`, a value of the step, to what is handed on for it."""

    base: ir.Value
    members: Mapping[ir.Value, tuple[ir.Node, ...]]

    @property
    def saving(self) -> int:
        """How many elements fewer the state has."""
        return sum(_size(key) for key in self.members) - _size(self.base)


@dataclass(frozen=True)
class Base:
    """A value of the step that is handed on: `own` is the state that holds it already, if any."""

    value: ir.Value
    own: ir.Value | None
    start: ir.Value


@dataclass(frozen=True)
class Merge:
    """States that are left out, each with the nodes that lead from the bases to what is handed on for it.

    Where a person may say otherwise, `source` names what is assumed to be handed on.
    """

    bases: tuple[Base, ...]
    derived: Mapping[ir.Value, tuple[ir.Node, ...]]
    source: str | None = None

    def shares_states_with(self, other: Merge) -> bool:
        """Whether a state plays a part in both."""
        mine, theirs = ({*m.derived, *(base.own for base in m.bases)} - {None} for m in (self, other))
        return bool(mine & theirs)


def merge_derived(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    constants: Constants,
    writer: GraphWriter,
    trial: Trial,
) -> None:
    """Leave out states that others determine, where the first step shows that it makes no difference.

    Several groups, such as the layers of a stack whose states are taken over together, are independent.
    """
    taken: list[Merge] = []
    if not all(map(is_offset, reads.stacks)):
        return  # what each step has of its own is not followed
    of_savings = (_merge_of(merger, steps, writer) for merger in _mergers(steps, reads))
    ancestors = {key: _ancestors(after, steps, reads) for key, after in steps.after.items()}
    of_weights = (
        _begun_from_zeros(*own, writer, is_open=True) for own in reapplied(steps, reads, constants, ancestors)
    )
    of_implied = _of_implied(steps, reads, nodes, constants, writer)
    of_given = _of_given(steps, reads, nodes, constants)
    for merge in itertools.chain(of_given, of_savings, of_weights, of_implied):
        if merge is None or any(merge.shares_states_with(other) for other in taken):
            continue
        if makes_no_difference(model, steps, reads, nodes, [*taken, merge], trial):
            taken.append(merge)
    for key, value, path in fed_back(steps, reads, constants, ancestors):
        merge = _begun_from_zeros(key, value, path, writer)
        is_free = not any(merge.shares_states_with(other) for other in taken)
        if is_free and makes_no_difference(model, steps, reads, nodes, [*taken, merge], trial):
            steps.open = (*steps.open, as_fed_back(steps, value, steps.after[key]))
    for merge in taken:
        if merge.source is not None:
            steps.open += tuple(as_open(steps, merge.source, steps.after[key]) for key in merge.derived)
        apply(merge, steps)


def _begun_from_zeros(
    key: ir.Value, value: ir.Value, path: tuple[ir.Node, ...], writer: GraphWriter, *, is_open: bool = False
) -> Merge:
    source = str(value.name) if is_open else None
    return Merge((Base(value, None, zeros(value, writer)),), {key: path}, source)


def _of_implied(
    steps: Steps, reads: Reads, nodes: Sequence[ir.Node], constants: Constants, writer: GraphWriter
) -> Iterator[Merge]:
    for key, starts, is_open in implied(steps, reads, constants, writer):
        source = " and ".join(str(value.name) for value in starts) if is_open else None
        path = between(steps.after[key], starts, steps, nodes)
        yield Merge(tuple(_bases(starts, steps)), {key: path}, source)


def _merge_of(merger: _Merger, steps: Steps, writer: GraphWriter) -> Merge | None:
    own = next((key for key in merger.members if steps.after[key] is merger.base), None)
    start = steps.states[own][0] if own is not None else zeros(merger.base, writer)
    derived = {key: path for key, path in merger.members.items() if key is not own}
    if start is None or static_shape(start) != static_shape(merger.base):
        return None
    return Merge((Base(merger.base, own, start),), derived)


def _of_given(steps: Steps, reads: Reads, nodes: Sequence[ir.Node], constants: Constants) -> Iterator[Merge]:
    """States whose first value the file computes from model inputs or constants, as each step computes the
    next one.
    """
    for key, value in steps.after.items():
        given: dict[ir.Value, ir.Value] = {}
        if value not in steps.values or not _is_of_given(
            value, steps.states[key][0], steps, reads, given, constants
        ):
            continue
        if value not in given:
            yield Merge(tuple(_bases(given, steps)), {key: between(value, given, steps, nodes)})


def _bases(starts: Mapping[ir.Value, ir.Value], steps: Steps) -> Iterator[Base]:
    for value, start in starts.items():
        yield Base(value, _started(steps, value, start), start)


def _is_of_given(
    value: ir.Value,
    start: ir.Value | None,
    steps: Steps,
    reads: Reads,
    given: dict[ir.Value, ir.Value],
    constants: Constants,
) -> bool:
    """Whether a value is computed as its start is; `given` gets what inputs and constants stand for."""
    if start is None or value in reads.captures:
        return start is not None and reads.captures[value] is start
    if start.is_graph_input():
        return value in steps.values and given.setdefault(value, start) is start
    node, first = value.producer(), start.producer()
    if node is None or first is None or not is_alike(node, first) or value.index() != start.index():
        is_start = start in constants and value in steps.values
        return is_start and given.setdefault(value, start) is start
    return value in steps.values and all(
        own is None or _is_of_given(own, other, steps, reads, given, constants)
        for own, other in zip(node.inputs, first.inputs, strict=True)
    )


def between(
    value: ir.Value, bases: Collection[ir.Value], steps: Steps, nodes: Sequence[ir.Node]
) -> tuple[ir.Node, ...]:
    """Those nodes of a step, in order, that lead from the bases to a value."""
    seen, pending, needed = set(bases), [value], set[ir.Node]()
    while pending:
        own = pending.pop()
        node = own.producer()
        if own not in seen and own in steps.values and node is not None:
            needed.add(node)
            pending += [v for v in node.inputs if v is not None]
        seen.add(own)
    return tuple(node for node in nodes if node in needed)


def _started(steps: Steps, base: ir.Value, start: ir.Value) -> ir.Value | None:
    """The state that is handed on as `base`, and starts from `start`."""
    found = (key for key, after in steps.after.items() if after is base and steps.states[key][0] is start)
    return next(found, None)


def _mergers(steps: Steps, reads: Reads) -> list[_Merger]:
    """What could be merged, the largest saving first."""
    found: defaultdict[ir.Value, dict[ir.Value, tuple[ir.Node, ...]]] = defaultdict(dict)
    for key, after in steps.after.items():
        for base, path in _ancestors(after, steps, reads).items():
            found[base][key] = path
    mergers = [_Merger(base, members) for base, members in found.items() if len(members) > 1]
    return sorted((m for m in mergers if m.saving > 0), key=lambda m: -m.saving)


def _ancestors(value: ir.Value, steps: Steps, reads: Reads) -> dict[ir.Value, tuple[ir.Node, ...]]:
    """Values of the step that another one is an affine function of, itself too, with the nodes between."""
    found: dict[ir.Value, tuple[ir.Node, ...]] = {}
    path: tuple[ir.Node, ...] = ()
    while value in steps.values:
        found[value] = path
        node = value.producer()
        inner = [v for v in node.inputs if v is not None and v not in reads.captures] if node else []
        if node is None or len(inner) != 1 or not is_affine(node, inner[0]):
            break
        path = (node, *path)
        value = inner[0]
    return found


def makes_no_difference(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    merges: Sequence[Merge],
    trial: Trial,
) -> bool:
    """Whether the first step, begun from the bases' starts, computes what it does from the given starts."""
    given = {key: lane[0] for key, lane in steps.states.items() if lane[0] is not None}
    if len(given) < len(steps.states):
        return False
    wanted = [value for key, value in steps.after.items() if value in steps.values]
    wanted += [value for node in steps.heads for value in node.outputs]
    writer = GraphWriter("lsc_graph.derived", None)
    instead = dict(given)
    for merge in merges:
        starts = {base.value: base.start for base in merge.bases}
        for key, path in merge.derived.items():
            known = dict(reads.captures) | starts
            writer.repeat(path, known)
            instead[key] = known[steps.after[key]]
    pairs = []
    for initial in (given, instead):
        known = stepped(steps, reads, nodes, initial, writer)
        pairs.append([known[value] for value in wanted])
    is_equal = are_equal(model, pairs[0], pairs[1], trial)
    writer.discard()
    return is_equal


def apply(merge: Merge, steps: Steps) -> None:
    """Leave the derived states out of the steps."""
    keys = {base.value: _handed_on(base, steps) for base in merge.bases}
    known = {base: key for base, key in keys.items() if key is not None}
    if len(known) < len(keys):
        return
    for base in merge.bases:
        if base.own is None:
            steps.states[known[base.value]] = [base.start, *steps.values[base.value][:-1]]
            steps.after[known[base.value]] = base.value
    for each, path in merge.derived.items():
        steps.derived[each] = Derivation(known, path, steps.after[each], steps.states[each])
        del steps.states[each], steps.after[each]


def _handed_on(base: Base, steps: Steps) -> ir.Value | None:
    """The value that the step takes over for a base."""
    return base.own if base.own is not None else steps.values[base.value][steps.position - 1]


def _size(value: ir.Value) -> int:
    return math.prod(static_shape(value) or (0,))


def zeros(value: ir.Value, writer: GraphWriter) -> ir.Value:
    """What a state starts from if nothing is known of it."""
    dtype = value.dtype or ir.DataType.FLOAT
    return writer.constant(np.zeros(static_shape(value) or (), dtype=dtype.numpy()), f"{value.name}.zeros")
