"""Selections between a new state and an old one, as masked layers make: read from the state that they give.

A masked layer keeps its state where the mask says so, and may put out something else there, such as zeros.
What it puts out elsewhere is its new state, and is read from it: else the layers above would seem to read
past the state. So they would where one condition selects the states of several layers: what is computed
from a new state before it is selected, and is kept where it is, is computed from the state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import remove_unused_in
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import RESHAPING, copied, direct_sources
from lsc_graph.recurrence.singular import may_be_singular
from lsc_graph.recurrence.written_selections import scans_of, without_negations

_STANDARD = ("", "ai.onnx")
# fmt: off
_BY_ELEMENT = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
})
# fmt: on
_BY_ROW = frozenset(("MatMul", "Gemm", "LayerNormalization", "RMSNormalization"))
"""Of their first input, each row gives the row of the result."""
_ALONG_ROWS = frozenset(("Concat", "LogSoftmax", "Slice", "Softmax", "Split"))
"""So it does of any input, where their axis runs along rows."""


def read_selected_states(model: ir.Model) -> None:
    """Let what selects as a new state of a Scan does read that state, in place."""
    changed = [body for num, body in scans_of(model) if _read_states(body, body.outputs[:num])]
    if changed:
        passes.TopologicalSortPass()(model)
    for body in changed:
        remove_unused_in(body)


def read_selected_states_of_step(model: ir.Model, afters: Sequence[ir.Value]) -> None:
    """The same of a model that is one step, with the outputs that are its new states."""
    if _read_states(model.graph, afters):
        passes.TopologicalSortPass()(model)


def _read_states(body: ir.Graph, outputs: Sequence[ir.Value]) -> bool:
    afters = list(dict.fromkeys(outputs))
    read = [_read_selected(body, after, afters) for after in afters]
    return any(read)


def _read_selected(body: ir.Graph, after: ir.Value, afters: Sequence[ir.Value]) -> bool:
    """Where(m, a, z) as Where(m, s, z), where the new state s is Where(m, a, b)."""
    node = selecting(after)
    if node is None:
        return False
    selected = node.outputs[0]
    before = [_read_before(body, node, selected, chosen) for chosen in (0, 1)]
    is_changed = any(before)
    for chosen in (0, 1):
        value = branches_of(node)[chosen]
        for other in [use.node for use in value.uses()] if value is not None else ():
            if other is node or other.op_type != "Where" or other.graph is not body:
                continue
            is_alike = condition_of(other) is condition_of(node) and branches_of(other)[chosen] is value
            if is_alike and not _is_before(other, node, afters):
                index = next(i for i in (1, 2) if other.inputs[i] is value)
                other.replace_input_with(index, selected)
                is_changed = True
    return is_changed


def _read_before(body: ir.Graph, node: ir.Node, selected: ir.Value, chosen: int) -> bool:
    """Where(m, a, f(b)) as Where(m, a, f(s)), where the new state s is Where(m, c, b)."""
    value = branches_of(node)[chosen]
    if value is None or value.producer() is None or static_shape(value) != static_shape(selected):
        return False
    where = SelectedPlaces(body, node, chosen)
    is_changed = False
    for use in list(value.uses()):
        results = use.node.outputs
        if where.is_kept(use.node, use.idx) or not where.holds_all_of(use.node, use.idx, value):
            continue
        if not direct_sources(node.outputs[0], set(results)):
            use.node.replace_input_with(use.idx, selected)
            is_changed = True
    return is_changed


def selecting(after: ir.Value) -> ir.Node | None:
    """The Where that a new state is the result of, in whatever shape."""
    value: ir.Value | None = after
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in RESHAPING and copied(value) is None:
            break
        value = node.inputs[0]
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "Where" and node.inputs[0] is not None else None


class SelectedPlaces:
    """The elements at which a selection takes one of its branches."""

    def __init__(self, body: ir.Graph, node: ir.Node, chosen: int) -> None:
        self.body, self.node, self.chosen = body, node, chosen
        assert node.inputs[0] is not None
        self.mask = static_shape(node.inputs[0])

    def is_kept(self, node: ir.Node, index: int) -> bool:
        """Whether a node takes its input of this index there and nowhere else."""
        if node.op_type != "Where" or node.graph is not self.body or index == 0:
            return False
        is_same = condition_of(node) is condition_of(self.node)
        operand = node.inputs[index]
        return is_same and operand is not None and branches_of(node)[1 - self.chosen] is not operand

    def holds_all_of(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        """Whether all that a node computes from an input is taken there only, from elements there."""
        return self.put_out_of(node, index, value) == set()

    def put_out_of(self, node: ir.Node, index: int, value: ir.Value) -> set[ir.Value] | None:
        """The outputs of the body that a node's input is computed into, with elements there kept apart.

        None where they are not, or where something in the body takes others than those.
        """
        seen, pending, found = {(node, index)}, [(node, index)], set[ir.Value]()
        while pending:
            reader, operand = pending.pop()
            if reader.graph is not self.body or not self._keeps_places(reader, operand, value):
                return None
            found |= {result for result in reader.outputs if result.is_graph_output()}
            uses = {(use.node, use.idx) for result in reader.outputs for use in result.uses()} - seen
            seen |= uses
            pending += [use for use in uses if not self.is_kept(*use)]
        return found

    def _keeps_places(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        """Whether elements that the condition selects apart are computed apart.

        Those that it does not select hold the old state then, at which there may be no gradient.
        """
        if self.mask is None or may_be_singular(node, index, value):
            return False
        if math.prod(self.mask) == 1:
            return True
        before, shape = _without_ones_in_front(value), _without_ones_in_front(node.outputs[0])
        if node.domain not in _STANDARD or before is None or shape is None:
            return False
        mask = self.mask[max(0, len(self.mask) - len(before)) :]
        is_by_row = mask[-1:] == (1,) and shape[:-1] == before[:-1]
        if node.op_type in _BY_ELEMENT | RESHAPING:
            return shape == before or is_by_row
        if not is_by_row or len(mask) != len(before):
            return False
        if node.op_type in _BY_ROW and (index > 0 or node.attributes.get_int("transA", False)):
            return False
        given = static_shape(node.inputs[index])
        return node.op_type in _BY_ROW | _ALONG_ROWS and given is not None and _is_last(node, len(given))


def _without_ones_in_front(value: ir.Value) -> tuple[int, ...] | None:
    """A shape as far as it tells elements apart: axes of one element in front do not."""
    shape = static_shape(value)
    return None if shape is None else tuple(itertools.dropwhile(lambda size: size == 1, shape))


def _is_last(node: ir.Node, rank: int) -> bool:
    """Whether a node works along the last axis alone."""
    default = 0 if node.op_type == "Split" else -1
    axes = [node.attributes.get_int("axis", default)]
    if node.op_type == "Slice":
        given = node.inputs[3] if len(node.inputs) > 3 else None
        axes = (
            [*range(rank)]
            if given is None
            else [*given.const_value.numpy()]
            if given.const_value is not None
            else []
        )
    return bool(axes) and {axis % rank for axis in axes} == {rank - 1}


def condition_of(where: ir.Node) -> ir.Value | None:
    """The condition of a Where, without its negations."""
    return without_negations(where.inputs[0])[0] if where.inputs[0] is not None else None


def branches_of(where: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """What is selected if the condition without its negations holds, and if not."""
    is_plain = where.inputs[0] is not None and without_negations(where.inputs[0])[1]
    return (where.inputs[1], where.inputs[2]) if is_plain else (where.inputs[2], where.inputs[1])


def _is_before(other: ir.Node, node: ir.Node, afters: Sequence[ir.Value]) -> bool:
    """Whether a node's result is a new state itself, or what another node is computed from."""
    is_state = any(selecting(after) is other for after in afters)
    return is_state or bool(direct_sources(node.outputs[0], {other.outputs[0]}))
