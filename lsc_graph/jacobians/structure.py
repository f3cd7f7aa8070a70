"""Cells whose state variables meet unit by unit, found from the operators between old and new state.

Where only elementwise operators lie on every way from a layer's old states to its new ones, as in the
diagonal recurrence of linear recurrent units, M_time consists of one small block for each unit, and is never
built whole.
"""

from __future__ import annotations

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.layers.cells import Cell, size
from lsc_graph.recurrence.dataflow import body_values, inputs_of, subgraphs_of

_ELEMENTWISE = frozenset(
    name
    for line in (
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Elu Equal",
        "Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less",
        "LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink",
        "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor",
    )
    for name in line.split()
)
_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def is_unitwise(cell: Cell) -> bool:
    """Whether the graph says that each element of a layer's new states reads its own unit's old ones only."""
    sizes = {size(state.shape) for state in cell.layer.states}
    if len(sizes) != 1:
        return False
    graph = cell.site.body.graph
    values = body_values(graph)
    kept = {values[state.before] for state in cell.layer.states}
    mixed: set[ir.Value] = set()
    for node in graph:
        read = set(inputs_of(node))
        if read & mixed or (read & kept and not _keeps_units(node, kept, sizes)):
            mixed.update(node.outputs)
        elif read & kept:
            kept.update(node.outputs)
    return not any(values[state.after] in mixed for state in cell.layer.states)


def _keeps_units(node: ir.Node, kept: set[ir.Value], sizes: set[int]) -> bool:
    """Whether every output has the units of the inputs in `kept`, in their order."""
    if node.domain not in ("", "ai.onnx") or any(True for _ in subgraphs_of(node)):
        return False
    if node.op_type in _RESHAPING:
        return node.inputs[0] in kept and not any(value in kept for value in node.inputs[1:])
    shapes = [static_shape(value) for value in (*(v for v in node.inputs if v in kept), *node.outputs)]
    whole = all(shape is None or size(shape) in sizes for shape in shapes)
    return node.op_type in _ELEMENTWISE and whole
