"""Fused ONNX recurrences (RNN, GRU, LSTM) rewritten as Scan nodes over a step of plain operators.

One Scan per direction (ONNX operator Scan, opset >= 9). States come first, h then c, [B,H] each; the step
reads x_t [B,D] and captures its weights from the graph around it, so that they lead back to their
initializers whatever computes them. Sequences are in true time order, also in the reverse direction, on
the axis that is time in X. Semantics are those of ONNX Runtime's CPU kernels (1.31); see also
activations.py and gates.py:

- sequence_lens: a step past a sample's length leaves its states as they are and gives 0 in Y, in both
  directions; the reverse direction so starts at the last valid step from the initial state.
- A sequence of length 0 ends in state 0, not in its initial state.
- layout = 1 follows the specification: ONNX Runtime has no kernel for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.recurrence.fused_scan import write_direction, write_masks
from lsc_graph.recurrence.fused_spec import NUM_GATES, read_fused_op
from lsc_graph.recurrence.inline_scan import inline_single_step_scans
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output
from lsc_graph.results import Direction

__all__ = ["MIN_OPSET", "LoweredOp", "inline_single_step_scans", "lower_fused_ops"]

MIN_OPSET = 13


@dataclass(frozen=True)
class LoweredOp:
    """A fused node and the Scan nodes, one per direction in ONNX order, that took its place.

    The Scans are in the graph that held the node: `scans[0].graph` tells a nested one. Their outputs are
    the final states, then the sequence of every state, then, where there are sequence lengths, the
    sequence y with zeros past the end (without, y is the sequence of h).

    `outputs` took the place of the node's own outputs. `node_name` is unique in the model; `original_name`
    is that of the node, which the file may repeat.
    """

    node_name: str
    original_name: str
    op_type: str
    direction: Direction
    scans: tuple[ir.Node, ...]
    state_names: tuple[str, ...]
    outputs: tuple[ir.Value, ...]


def lower_fused_ops(model: ir.Model) -> tuple[LoweredOp, ...]:
    """Rewrite every RNN, GRU and LSTM of a model in place, those in nested graphs included.

    Raises:
        UnsupportedOpsetError: there is one, and the model's opset is below 13.
        AnalysisError: a node asks for what ONNX does not define, or its hidden size is not known.
    """
    fused = [
        node
        for node in model.graph.all_nodes()
        if node.domain in ("", "ai.onnx") and node.op_type in NUM_GATES
    ]
    version = model.opset_imports.get("", 0)
    if fused and version < MIN_OPSET:
        raise UnsupportedOpsetError(
            "Recurrent operators are only rewritten for newer operator sets",
            where=str(fused[0].name or fused[0].op_type),
            got=f"opset {version}",
            expected=f"opset {MIN_OPSET} or newer",
            do="convert the model first, for instance with onnx.version_converter",
        )
    names = Names(model.graph)
    return tuple(_lower(node, names) for node in fused)


def _lower(node: ir.Node, names: Names) -> LoweredOp:
    op = read_fused_op(node, names.unique_prefix(node.name or node.op_type))
    writer = GraphWriter(op.name, op.dtype)
    masks = write_masks(writer, op)
    runs = [write_direction(writer, op, index, masks) for index in range(len(op.directions))]
    results = [([run.y for run in runs], "Y", op.layout + 1)]
    results += [([run.finals[state] for run in runs], f"Y_{state}", op.layout) for state in op.state_names]
    joined = [
        (old, _joined(writer, *result))
        for old, result in zip(node.outputs, results, strict=False)
        if old.name
    ]
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, writer.nodes)
    for old, new in joined:
        replace_output(old, new)
    graph.remove(node, safe=True)
    return LoweredOp(
        node_name=op.name,
        original_name=node.name or op.name,
        op_type=op.op_type,
        direction=op.direction,
        scans=tuple(run.scan for run in runs),
        state_names=op.state_names,
        outputs=tuple(new for _, new in joined),
    )


def _joined(writer: GraphWriter, values: list[ir.Value], name: str, axis: int) -> ir.Value:
    """The values of all directions on a new axis."""
    separate = [_unsqueezed(writer, value, axis, name) for value in values]
    if len(separate) == 1:
        return separate[0]
    shape = [len(values) if index == axis else dim for index, dim in enumerate(separate[0].shape or ())]
    return writer.op("Concat", separate, name, shape, axis=axis)


def _unsqueezed(writer: GraphWriter, value: ir.Value, axis: int, name: str) -> ir.Value:
    shape = list(value.shape or ())
    shape.insert(axis, 1)
    return writer.op("Unsqueeze", [value, writer.integers([axis])], f"{name}_unsqueezed", shape)
