"""States that are affine functions of another one: a step computes them again instead of taking them over.

Exporters merge equal computations of neighbouring steps, so that a step takes over what it would compute
from the state itself: a threshold beside the adaptation that it follows, a product with the recurrent weight
beside the state. The same network without that merging has the smaller state. So it is with any function of
a given first state that the file computes as it computes the later ones: what was given is the state.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.affine import is_affine
from lsc_graph.recurrence.unrolled.first_step import are_equal, loose_constants, stepped
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads
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
class _Choice:
    """What is to be merged: `own` is the state that holds `base` already, if any; `start` is its first."""

    base: ir.Value
    own: ir.Value | None
    start: ir.Value
    derived: Mapping[ir.Value, tuple[ir.Node, ...]]

    def shares_states_with(self, other: _Choice) -> bool:
        """Whether a state plays a part in both."""
        mine, theirs = ({*choice.derived, choice.own} - {None} for choice in (self, other))
        return bool(mine & theirs)


def merge_derived(
    model: ir.Model, steps: Steps, reads: Reads, nodes: Sequence[ir.Node], writer: GraphWriter, trial: Trial
) -> None:
    """Leave out states that others determine, where the first step shows that it makes no difference.

    Several groups, such as the layers of a stack whose states are taken over together, are independent.
    """
    taken: list[_Choice] = []
    of_savings = (_choice(merger, steps, writer) for merger in _mergers(steps, reads))
    for choice in itertools.chain(_of_given(steps, reads), of_savings):
        if choice is None or any(choice.shares_states_with(other) for other in taken):
            continue
        if _makes_no_difference(model, steps, reads, nodes, [*taken, choice], trial):
            taken.append(choice)
    for choice in taken:
        _merge(steps, choice)


def _choice(merger: _Merger, steps: Steps, writer: GraphWriter) -> _Choice | None:
    own = next((key for key in merger.members if steps.after[key] is merger.base), None)
    start = steps.states[own][0] if own is not None else _zeros(merger.base, writer)
    derived = {key: path for key, path in merger.members.items() if key is not own}
    if start is None or static_shape(start) != static_shape(merger.base):
        return None
    return _Choice(merger.base, own, start, derived)


def _of_given(steps: Steps, reads: Reads) -> Iterator[_Choice]:
    """States whose first value the file computes from a model input, as each step computes the next one."""
    for key, value in steps.after.items():
        start = steps.states[key][0]
        path: tuple[ir.Node, ...] = ()
        while (one := _same_function(value, start, reads)) is not None:
            node, value, start = one
            path = (node, *path)
            if value in steps.values and start.is_graph_input():
                yield _Choice(value, _started(steps, value, start), start, {key: path})


def _same_function(
    value: ir.Value, start: ir.Value | None, reads: Reads
) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """The node that computes a value from one other of the step, that one, and what it is for `start`."""
    node, first = value.producer(), start.producer() if start is not None else None
    if node is None or first is None or not is_alike(node, first):
        return None
    pairs = list(zip(node.inputs, first.inputs, strict=True))
    inner = [(own, other) for own, other in pairs if own is not None and own not in reads.captures]
    outer = [(own, other) for own, other in pairs if own is not None and own in reads.captures]
    if len(inner) != 1 or any(reads.captures[own] is not other for own, other in outer):
        return None
    own, other = inner[0]
    return (node, own, other) if other is not None else None


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


def _makes_no_difference(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    choices: Sequence[_Choice],
    trial: Trial,
) -> bool:
    """Whether the first step, begun from the bases' starts, computes what it does from the given starts."""
    given = {key: lane[0] for key, lane in steps.states.items() if lane[0] is not None}
    if len(given) < len(steps.states) or reads.stacks:
        return False  # what each step has of its own is not followed
    wanted = [value for key, value in steps.after.items() if value in steps.values]
    wanted += [value for node in steps.heads for value in node.outputs]
    writer = GraphWriter("lsc_graph.derived", None)
    instead = dict(given)
    for choice in choices:
        for key, path in choice.derived.items():
            known = dict(reads.captures) | {choice.base: choice.start}
            writer.repeat(path, known)
            instead[key] = known[steps.after[key]]
    pairs = []
    for initial in (given, instead):
        known = stepped(steps, reads, nodes, initial, writer)
        pairs.append([known[value] for value in wanted])
    constants = loose_constants([*given.values(), *(choice.start for choice in choices)])
    return are_equal(model, [*constants, *writer.nodes], pairs[0], pairs[1], trial)


def _merge(steps: Steps, choice: _Choice) -> None:
    images = steps.values[choice.base]
    key = choice.own if choice.own is not None else images[steps.position - 1]
    if key is None:
        return
    if choice.own is None:
        steps.states[key], steps.after[key] = [choice.start, *images[:-1]], choice.base
    for each, path in choice.derived.items():
        steps.derived[each] = Derivation(key, choice.base, path, steps.after[each])
        del steps.states[each], steps.after[each]


def _size(value: ir.Value) -> int:
    return math.prod(static_shape(value) or (0,))


def _zeros(value: ir.Value, writer: GraphWriter) -> ir.Value:
    dtype = value.dtype or ir.DataType.FLOAT
    zeros = np.zeros(static_shape(value) or (), dtype=dtype.numpy())
    return writer.constant(zeros, f"{value.name}.zeros")
