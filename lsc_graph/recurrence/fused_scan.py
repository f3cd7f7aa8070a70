"""One direction of a fused ONNX operator as a Scan node, with what it needs before and behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.fused_spec import FusedOp
from lsc_graph.recurrence.gates import write_step, write_weights
from lsc_graph.recurrence.writer import GraphWriter
from lsc_graph.results import Direction

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Masks:
    """What sequence_lens says: `valid` [T,B,1] ([B,T,1] in layout 1), and `nonempty` [B,1]."""

    valid: ir.Value
    nonempty: ir.Value


@dataclass(frozen=True)
class Run:
    """One direction: `y` [T,B,H] ([B,T,H] in layout 1), and by state name the last states [B,H]."""

    scan: ir.Node
    y: ir.Value
    finals: dict[str, ir.Value]


def write_masks(writer: GraphWriter, op: FusedOp) -> Masks | None:
    """Compare sequence_lens [B] with the step numbers; None where every sequence has full length."""
    lens = op.inputs.get("sequence_lens")
    if lens is None:
        return None
    batch, steps = op.batch_size, op.num_steps
    batch_axis, time_axis = 1 - op.time_axis, op.time_axis
    columns_shape = [1, batch, 1] if time_axis == 0 else [batch, 1, 1]
    rows_shape = [steps, 1, 1] if time_axis == 0 else [1, steps, 1]
    shape = [steps, batch, 1] if time_axis == 0 else [batch, steps, 1]
    int32 = ir.DataType.INT32
    columns = writer.op("Unsqueeze", [lens, writer.integers([time_axis, 2])], "lens", columns_shape, int32)
    times = _write_times(writer, op)
    rows = writer.op("Unsqueeze", [times, writer.integers([batch_axis, 2])], "times", rows_shape, int32)
    valid = writer.op("Less", [rows, columns], "valid", shape, ir.DataType.BOOL)
    column = writer.op("Unsqueeze", [lens, writer.integers([1])], "lens_column", [batch, 1], int32)
    zero = writer.constant(np.array(0, dtype=np.int32), "zero")
    return Masks(valid, writer.op("Greater", [column, zero], "nonempty", [batch, 1], ir.DataType.BOOL))


def _write_times(writer: GraphWriter, op: FusedOp) -> ir.Value:
    """0 .. T-1, int32 as sequence_lens is."""
    steps = op.num_steps
    if isinstance(steps, int):
        return writer.constant(np.arange(steps, dtype=np.int32), "range")
    start, step = (writer.constant(np.array(n, dtype=np.int32), "number") for n in (0, 1))
    length = writer.op(
        "Squeeze", [_write_extent(writer, op, op.time_axis)], "num_steps", [], ir.DataType.INT64
    )
    length = writer.op("Cast", [length], "num_steps", [], ir.DataType.INT32, to=ir.DataType.INT32.value)
    return writer.op("Range", [start, length, step], "range", [None], ir.DataType.INT32)


def _write_extent(writer: GraphWriter, op: FusedOp, axis: int) -> ir.Value:
    """The extent of X along an axis, [1]."""
    shape = writer.op("Shape", [op.inputs["X"]], "X_shape", [3], ir.DataType.INT64)
    return writer.op("Gather", [shape, writer.integers([axis])], "extent", [1], ir.DataType.INT64, axis=0)


def write_direction(outer: GraphWriter, op: FusedOp, index: int, masks: Masks | None) -> Run:
    """Write the weights, initial states, Scan and last states of the ONNX direction `index`."""
    writer = outer.child(op.directions[index].value)
    weights = write_weights(writer, op, index)
    initial = {state: _write_initial(writer, op, index, state) for state in op.state_names}
    body = _write_body(writer, op, index, weights, is_masked=masks is not None)
    outputs = _scan_outputs(writer, op, is_masked=masks is not None)
    sequences = [op.inputs["X"], *([masks.valid] if masks else [])]
    num_states, is_reverse = len(initial), int(op.directions[index] is Direction.REVERSE)
    scan = writer.append(
        "Scan",
        [*initial.values(), *sequences],
        outputs,
        body=body,
        num_scan_inputs=len(sequences),
        scan_input_axes=[op.time_axis] * len(sequences),
        scan_input_directions=[is_reverse] * len(sequences),
        scan_output_axes=[op.time_axis] * (len(outputs) - num_states),
        scan_output_directions=[is_reverse] * (len(outputs) - num_states),
    )
    scan.name = writer.prefix
    _inherit_scopes(scan, op.node)
    finals = dict(zip(initial, outputs[:num_states], strict=True))
    if masks is not None:
        finals = {state: _zero_unless(writer, masks.nonempty, finals[state], state) for state in finals}
    return Run(scan, outputs[-1] if masks else outputs[num_states], finals)


def _inherit_scopes(scan: ir.Node, node: ir.Node) -> None:
    if _NAME_SCOPES in node.metadata_props:
        scan.metadata_props[_NAME_SCOPES] = node.metadata_props[_NAME_SCOPES]


def _write_initial(writer: GraphWriter, op: FusedOp, index: int, state: str) -> ir.Value:
    """The initial state [B,H] of one direction; zeros where the node has none."""
    given, shape, name = (
        op.inputs.get(f"initial_{state}"),
        [op.batch_size, op.hidden_size],
        f"{state}_initial",
    )
    if given is not None and len(op.directions) == 1:
        return writer.op("Squeeze", [given, writer.integers([op.layout])], name, shape)
    if given is not None:
        direction = writer.constant(np.array(index), "direction")
        return writer.op("Gather", [given, direction], name, shape, axis=op.layout)
    zero = ir.tensor(np.zeros(1, dtype=op.dtype.numpy()))
    if isinstance(op.batch_size, int):
        zeros = ir.tensor(np.zeros((op.batch_size, op.hidden_size), dtype=op.dtype.numpy()))
        return writer.op("Constant", [], name, shape, value=zeros)
    batch = _write_extent(writer, op, 1 - op.time_axis)
    extents = [batch, writer.integers([op.hidden_size])]
    extent = writer.op("Concat", extents, f"{name}_shape", [2], ir.DataType.INT64, axis=0)
    return writer.op("ConstantOfShape", [extent], name, shape, value=zero)


def _write_body(
    outer: GraphWriter, op: FusedOp, index: int, weights: dict[str, ir.Value], *, is_masked: bool
) -> ir.Graph:
    """One step: (states, x_t, valid_t) -> (states, states once more for the sequences, y_t)."""
    writer = GraphWriter(f"{outer.prefix}.step", op.dtype)
    batch, x_shape = op.batch_size, op.inputs["X"].shape
    x = writer.value("x", [batch, x_shape[2] if x_shape is not None else None])
    states = {state: writer.value(f"{state}_before", [batch, op.hidden_size]) for state in op.state_names}
    inputs = [*states.values(), x]
    after = write_step(writer, op, index, x, states, weights)
    emitted = []
    if is_masked:
        valid = writer.value("valid", [batch, 1], ir.DataType.BOOL)
        inputs.append(valid)
        emitted.append(_zero_unless(writer, valid, after["h"], "y"))
        after = {
            state: writer.op("Where", [valid, value, states[state]], state, value.shape)
            for state, value in after.items()
        }
    sequences = [writer.op("Identity", [after[s]], f"{s}_emitted", after[s].shape) for s in op.state_names]
    outputs = [*(after[state] for state in op.state_names), *sequences, *emitted]
    return ir.Graph(inputs, outputs, nodes=writer.nodes, name=writer.prefix)


def _scan_outputs(writer: GraphWriter, op: FusedOp, *, is_masked: bool) -> list[ir.Value]:
    batch, hidden, steps = op.batch_size, op.hidden_size, op.num_steps
    shape = [steps, batch, hidden] if op.time_axis == 0 else [batch, steps, hidden]
    finals = [writer.value(f"{state}_final", [batch, hidden]) for state in op.state_names]
    names = [*op.state_names, *(["y"] if is_masked else [])]
    return [*finals, *(writer.value(name, shape) for name in names)]


def _zero_unless(writer: GraphWriter, condition: ir.Value, value: ir.Value, name: str) -> ir.Value:
    return writer.op("Where", [condition, value, writer.number(0.0)], name, value.shape)
