"""One condition that selects the states of layers which are Scans of their own, as unrolled steps become.

What the steps of one Scan put out is read by those of another. Where it is computed from a new state before
that is selected, and kept only where it is, it is computed from the state: as within one body (`selections`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import remove_unused_in
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import direct_sources
from lsc_graph.recurrence.selections import SelectedPlaces, branches_of, condition_of, selecting
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.value_keys import ValueKeys
from lsc_graph.recurrence.written_selections import asked


def read_selected_sequences(model: ir.Model) -> None:
    """Let what other Scans keep where a state is selected be computed from that state, in place."""
    constants, numbers = Constants(model.graph), dict[Hashable, int]()
    nodes = [node for node in model.graph if node.op_type == "Scan" and node.domain in ("", "ai.onnx")]
    if len(nodes) < 2:
        return
    main = ValueKeys(model.graph, {}, constants, numbers)
    scans = {node: _Scan.of(node, main) for node in nodes}
    changed = dict[ir.Node, _Scan]()
    while found := {node: scan for node, scan in reversed(scans.items()) if _read_anew(scan, scans)}:
        changed |= found
    if changed:
        passes.TopologicalSortPass()(model)
    for scan in changed.values():
        remove_unused_in(scan.body)


@dataclass(frozen=True)
class _Scan:
    """A Scan of the main graph, and keys of its values that are comparable with those of others."""

    node: ir.Node
    body: ir.Graph
    num_states: int
    keys: ValueKeys

    @staticmethod
    def of(node: ir.Node, main: ValueKeys) -> _Scan:
        body = node.attributes["body"].as_graph()
        num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
        bound: dict[ir.Value, Hashable] = {
            value: ("state", id(node), index) for index, value in enumerate(body.inputs[:num_states])
        }
        read = zip(body.inputs[num_states:], node.inputs[num_states:], strict=True)
        for index, (inner, outer) in enumerate(read):
            own = main.of(outer) if outer is not None else None
            bound[inner] = ("slice", own, _way(node, "input", index))
        return _Scan(node, body, num_states, ValueKeys(body, bound, main.constants, main.numbers))

    @property
    def afters(self) -> list[ir.Value]:
        """The new states."""
        return list(dict.fromkeys(self.body.outputs[: self.num_states]))

    def condition(self, where: ir.Node) -> tuple[Hashable, int]:
        """The key of what a Where asks for, and which branch it takes where that holds.

        Of two values, whether one is greater: so two comparisons may ask for the same.
        """
        value = condition_of(where)
        assert value is not None
        comparison = asked(value.producer())
        if comparison is None:
            return self.keys.of(value), 0
        greater, less, is_greater = comparison
        return ("greater", self.keys.of(greater), self.keys.of(less)), int(not is_greater)

    def selections(self, condition: Hashable) -> Iterator[tuple[ir.Node, int]]:
        """The nodes that select by a condition, and the branches that they take where it holds."""
        wheres = (node for node in self.body if node.op_type == "Where" and node.inputs[0] is not None)
        found = ((node, *self.condition(node)) for node in wheres)
        yield from ((node, branch) for node, own, branch in found if own == condition)


def _way(node: ir.Node, what: str, index: int) -> tuple[int, int]:
    """Axis and direction of one of the sequences that a Scan reads or puts out."""
    axes, directions = (
        node.attributes.get_ints(f"scan_{what}_{word}", None) for word in ("axes", "directions")
    )
    return (axes[index] if axes else 0, directions[index] if directions else 0)


def _read_anew(scan: _Scan, scans: dict[ir.Node, _Scan]) -> bool:
    """Whether anything of a Scan is changed: then what it reads may be kept where it was not before."""
    return any(_reads(scan, after, scans) for after in scan.afters)


def _reads(scan: _Scan, after: ir.Value, scans: dict[ir.Node, _Scan]) -> bool:
    """f(c) as f(s) in a sequence that others keep where m, the new state s being Where(m, c, b)."""
    node = selecting(after)
    if node is None:
        return False
    condition, branch = scan.condition(node)
    is_changed = False
    for chosen, value in enumerate(branches_of(node)):
        if value is None or value.producer() is None or static_shape(value) != static_shape(node.outputs[0]):
            continue
        places = SelectedPlaces(scan.body, node, chosen)
        for use in list(value.uses()):
            if use.node is node or direct_sources(node.outputs[0], set(use.node.outputs)):
                continue
            found = places.put_out_of(use.node, use.idx, value)
            if found and all(_is_kept(scan, own, condition, chosen ^ branch, scans) for own in found):
                use.node.replace_input_with(use.idx, node.outputs[0])
                is_changed = True
    return is_changed


def _is_kept(
    scan: _Scan, value: ir.Value, condition: Hashable, other: int, scans: dict[ir.Node, _Scan]
) -> bool:
    """Whether an output of a body is a sequence that only other Scans read, and keep where a condition is.

    Or is not, with `other` 1.
    """
    for index, own in enumerate(scan.body.outputs):
        if own is not value:
            continue
        sequence, way = scan.node.outputs[index], _way(scan.node, "output", index - scan.num_states)
        if index < scan.num_states or sequence.is_graph_output():
            return False
        for use in sequence.uses():
            reader = scans.get(use.node)
            place = use.idx - reader.num_states if reader is not None else -1
            if reader is None or place < 0 or _way(use.node, "input", place) != way:
                return False
            if not _is_kept_in(reader, reader.body.inputs[use.idx], condition, other):
                return False
    return True


def _is_kept_in(scan: _Scan, value: ir.Value, condition: Hashable, other: int) -> bool:
    """Whether a body takes a slice only where a condition holds, or does not."""
    where, branch = next(scan.selections(condition), (None, 0))
    if where is None or value.is_graph_output():
        return False
    places = SelectedPlaces(scan.body, where, other ^ branch)
    return all(
        places.is_kept(use.node, use.idx) or places.holds_all_of(use.node, use.idx, value)
        for use in value.uses()
    )
