"""Values that a person says are no states: a step computes them again from what else it hands on.

No file tells a function of a state that the next step reads from a state beside it (an output that is fed
back). Here a person tells, and the model's first step shows whether it can be so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import networkx as nx
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.derived import Base, Merge, apply, between, makes_no_difference, zeros
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.steps import Steps, num_elements
from lsc_graph.recurrence.writer import GraphWriter

_LEAVES = ("leaves", None)
_Vertex = tuple[str, ir.Value | None]


def leave_out(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    writer: GraphWriter,
    trial: Trial,
    names: Sequence[str],
) -> tuple[str, ...]:
    """Leave the states out that hold values of these names at some step; returns the names that occur.

    Raises:
        UsageError: such a value is no state of the steps, or has to be one.
    """
    found = {name: key for name in names if (key := _state(steps, name)) is not None}
    refused = set(found.values())
    for name, key in found.items():
        if key in steps.derived:
            continue
        merge = _Leaving(steps, reads, nodes, writer, refused).merge(key, name)
        if not makes_no_difference(model, steps, reads, nodes, [merge], trial):
            raise _refusal(name, "the steps compute something else if they begin without it")
        apply(merge, steps)
    return tuple(found)


def _state(steps: Steps, name: str) -> ir.Value | None:
    """The state that a name stands for; None if none of the steps' values has it."""
    lanes = {**steps.values, **steps.states}
    keys = [key for key, lane in lanes.items() if any(v is not None and v.name == name for v in lane)]
    if not keys:
        return None
    held = [key for key, after in steps.after.items() if after in keys]
    if not held:
        raise _refusal(name, "no step takes it over from the one before")
    if len(held) > 1 or held[0] in steps.after.values():
        raise _refusal(name, "it is handed on for more than one step")
    return held[0]


def _refusal(name: str, reason: str) -> UsageError:
    return UsageError(
        "What --state calls no state has to be one",
        got=f"--state {name}:none; {reason}",
        expected="a state of written-out steps that others determine",
        do="leave it out, and see what `lsc-graph inspect` says of the states",
    )


class _Leaving:
    """Finds what a step has to hand on instead of a state.

    Args:
        steps, reads, nodes: the recurrence, and the nodes of its step in order.
        writer: for first states that are zeros.
        refused: the states that are to be left out, of which none may stand for another.
    """

    def __init__(
        self,
        steps: Steps,
        reads: Reads,
        nodes: Sequence[ir.Node],
        writer: GraphWriter,
        refused: Collection[ir.Value],
    ) -> None:
        self.steps, self.reads, self.nodes, self.writer = steps, reads, nodes, writer
        self.held = {after: own for own, after in steps.after.items() if own not in refused}
        self.refused = {after for own, after in steps.after.items() if own in refused}

    def merge(self, key: ir.Value, name: str) -> Merge:
        after = self.steps.after[key]
        values = self._smallest_cut(after)
        if values is None or sum(num_elements(v) for v in values if v not in self.held) > num_elements(after):
            raise _refusal(name, "nothing else that is as small determines it")
        starts: dict[ir.Value, ir.Value] = {}
        self._match(after, self.steps.states[key][0], values, starts)
        bases = [self._base(value, starts.get(value), name) for value in values]
        return Merge(tuple(bases), {key: between(after, values, self.steps, self.nodes)})

    def _base(self, value: ir.Value, start: ir.Value | None, name: str) -> Base:
        own = self.held.get(value)
        if own is not None:
            start = self.steps.states[own][0]
        elif start is None and static_shape(value) is not None:
            start = zeros(value, self.writer)
        is_taken_over = own is not None or self.steps.values[value][self.steps.position - 1] is not None
        if start is None or not is_taken_over:
            raise _refusal(name, f"it is not known what {value.name} starts from")
        return Base(value, own, start)

    def _smallest_cut(self, value: ir.Value) -> list[ir.Value] | None:
        """The fewest elements that determine a value, the states that are handed on anyway not counted.

        Of several such choices it is the one nearest to the value. None if nothing but it does.
        """
        flow: nx.DiGraph[_Vertex] = nx.DiGraph()
        seen, pending = {value}, [value]
        while pending:
            own = pending.pop()
            flow.add_edge(("in", own), ("out", own), **self._capacity(own, value))
            for source in self._sources(own):
                flow.add_edge(("out", source) if source is not None else _LEAVES, ("in", own))
                if source is not None and source not in seen:
                    seen.add(source)
                    pending.append(source)
        if _LEAVES not in flow:
            return []
        try:
            _, (_, behind) = nx.minimum_cut(flow, _LEAVES, ("out", value))
        except nx.NetworkXUnbounded:
            return None
        return [own for own in seen if ("in", own) not in behind and ("out", own) in behind]

    def _capacity(self, own: ir.Value, value: ir.Value) -> dict[str, int]:
        """What it costs to hand a value on; without a number, it cannot be."""
        if own in self.held:
            return {"capacity": 0}
        if own is value or own in self.refused or own not in self.steps.values:
            return {}
        return {"capacity": num_elements(own)}

    def _sources(self, value: ir.Value) -> list[ir.Value | None]:
        """What a value is computed from in its step, constants aside; None stands for what is not."""
        node = value.producer() if value in self.steps.values else None
        if node is None:
            return [None]
        return [v for v in node.inputs if v is not None and v not in self.reads.captures]

    def _match(
        self,
        value: ir.Value,
        first: ir.Value | None,
        bases: Collection[ir.Value],
        found: dict[ir.Value, ir.Value],
    ) -> None:
        """Find what the bases are where a value is `first`, as far as both are computed alike."""
        if first is None or value in self.reads.captures:
            return
        if value in bases:
            found.setdefault(value, first)
            return
        node, other = value.producer(), first.producer()
        is_same = node is not None and other is not None and is_alike(node, other)
        if node is not None and other is not None and is_same and value.index() == first.index():
            for own, image in zip(node.inputs, other.inputs, strict=True):
                if own is not None:
                    self._match(own, image, bases, found)
