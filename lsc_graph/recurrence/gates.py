"""One step of RNN, GRU and LSTM in plain operators, and the weights that it captures.

Equations, gate order (GRU z r h; LSTM i o f c; peepholes i o f) and names are those of
https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html and onnx__RNN.html.
The clip threshold bounds every gate's pre-activation, biases and peepholes included. As in ONNX Runtime
it does not bound the cell state on its way into LSTM's output activation h.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.activations import Activation, write_activation
from lsc_graph.recurrence.fused_spec import FusedOp
from lsc_graph.recurrence.writer import GraphWriter

Values = Mapping[str, ir.Value]


def write_weights(writer: GraphWriter, op: FusedOp, direction: int) -> dict[str, ir.Value]:
    """Prepare one direction's weights in the graph around the step.

    Returns:
        `W` [D, gH] and `R` [H, gH], transposed; `bias` = Wb + Rb [gH]; peepholes `P_i`, `P_o`, `P_f` [H].
        GRU with linear_before_reset: `Wb` and `Rb` [gH] instead of `bias`; without it: `R_zr` [H, 2H] and
        `R_h` [H, H] instead of `R`.
    """
    hidden, rows = op.hidden_size, op.num_gates * op.hidden_size
    weights = {name: _transposed(writer, op, name, direction) for name in ("W", "R")}
    if op.op_type == "GRU" and not op.linear_before_reset:
        recurrent = weights.pop("R")
        weights["R_zr"], weights["R_h"] = writer.split(recurrent, [2 * hidden, hidden], 1, ["R_zr", "R_h"])
    if "B" in op.inputs:
        biases = _take(writer, op, "B", direction, (2 * rows,))
        weights["Wb"], weights["Rb"] = writer.split(biases, [rows, rows], 0, ["Wb", "Rb"])
        if not op.linear_before_reset:
            pair = [weights.pop("Wb"), weights.pop("Rb")]
            weights["bias"] = writer.op("Add", pair, "bias", [rows])
    if "P" in op.inputs:
        peepholes = _take(writer, op, "P", direction, (3 * hidden,))
        names = ["P_i", "P_o", "P_f"]
        weights |= zip(names, writer.split(peepholes, [hidden] * 3, 0, names), strict=True)
    return weights


def _transposed(writer: GraphWriter, op: FusedOp, name: str, direction: int) -> ir.Value:
    shape = op.inputs[name].shape
    columns = shape[2] if shape is not None else None
    rows = op.num_gates * op.hidden_size
    one_way = _take(writer, op, name, direction, (rows, columns))
    return writer.op("Transpose", [one_way], f"{name}_T", [columns, rows], perm=[1, 0])


def _take(
    writer: GraphWriter,
    op: FusedOp,
    name: str,
    direction: int,
    shape: tuple[int | ir.SymbolicDim | None, ...],
) -> ir.Value:
    """One direction of an input whose leading axis is the directions."""
    value = op.inputs[name]
    if len(op.directions) == 1:
        return writer.op("Squeeze", [value, writer.integers([0])], name, shape)
    index = writer.constant(np.array(direction), "direction")
    return writer.op("Gather", [value, index], name, shape, axis=0)


def write_step(
    writer: GraphWriter, op: FusedOp, direction: int, x: ir.Value, states: Values, weights: Values
) -> dict[str, ir.Value]:
    """Write one step into a body.

    Args:
        writer: writes into the body.
        op: what to compute.
        direction: index into the ONNX directions.
        x: the input slice [B,D].
        states: `h` (and `c`), [B,H], before the step.
        weights: from `write_weights`.

    Returns: the states after the step.
    """
    step = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}[op.op_type]
    return step(writer, op, op.activations[direction], x, states, weights)


def _rnn_step(
    writer: GraphWriter,
    op: FusedOp,
    acts: tuple[Activation, ...],
    x: ir.Value,
    states: Values,
    weights: Values,
) -> dict[str, ir.Value]:
    """h' = f(x W^T + h R^T + Wb + Rb)."""
    total = _projected(writer, x, weights["W"], weights.get("bias"), "x_projected")
    recurrent = _projected(writer, states["h"], weights["R"], None, "h_projected")
    gate = writer.op("Add", [total, recurrent], "pre", recurrent.shape)
    return {"h": _activated(writer, op, acts[0], gate, "h_new")}


def _gru_step(
    writer: GraphWriter,
    op: FusedOp,
    acts: tuple[Activation, ...],
    x: ir.Value,
    states: Values,
    weights: Values,
) -> dict[str, ir.Value]:
    """h' = (1 - z) n + z h, with the reset gate before or behind the recurrent product."""
    hidden, h = op.hidden_size, states["h"]
    from_x = _projected(writer, x, weights["W"], weights.get("Wb", weights.get("bias")), "x_projected")
    x_z, x_r, x_n = writer.split(from_x, [hidden] * 3, 1, ["x_z", "x_r", "x_n"])
    if op.linear_before_reset:
        from_h = _projected(writer, h, weights["R"], weights.get("Rb"), "h_projected")
        h_z, h_r, h_n = writer.split(from_h, [hidden] * 3, 1, ["h_z", "h_r", "h_n"])
        r = _gate(writer, op, acts[0], x_r, h_r, "r")
        h_n = writer.op("Mul", [r, h_n], "h_n_reset", h.shape)
    else:
        from_h = _projected(writer, h, weights["R_zr"], None, "h_projected")
        h_z, h_r = writer.split(from_h, [hidden] * 2, 1, ["h_z", "h_r"])
        r = _gate(writer, op, acts[0], x_r, h_r, "r")
        reset = writer.op("Mul", [r, h], "h_reset", h.shape)
        h_n = _projected(writer, reset, weights["R_h"], None, "h_n")
    z = _gate(writer, op, acts[0], x_z, h_z, "z")
    n = _gate(writer, op, acts[1], x_n, h_n, "n")
    keep = writer.op("Mul", [z, h], "h_kept", h.shape)
    rest = writer.op("Sub", [writer.number(1.0), z], "z_rest", h.shape)
    new = writer.op("Mul", [rest, n], "n_taken", h.shape)
    return {"h": writer.op("Add", [new, keep], "h_new", h.shape)}


def _lstm_step(
    writer: GraphWriter,
    op: FusedOp,
    acts: tuple[Activation, ...],
    x: ir.Value,
    states: Values,
    weights: Values,
) -> dict[str, ir.Value]:
    """c' = f c + i g;  h' = o tanh(c'); with input_forget f = 1 - i."""
    h, c = states["h"], states["c"]
    from_x = _projected(writer, x, weights["W"], weights.get("bias"), "x_projected")
    from_h = _projected(writer, h, weights["R"], None, "h_projected")
    total = writer.op("Add", [from_x, from_h], "pre", from_h.shape)
    names = ["i_pre", "o_pre", "f_pre", "g_pre"]
    i_pre, o_pre, f_pre, g_pre = writer.split(total, [op.hidden_size] * 4, 1, names)
    i = _activated(writer, op, acts[0], _peeped(writer, i_pre, c, weights.get("P_i")), "i")
    if op.input_forget:
        f = writer.op("Sub", [writer.number(1.0), i], "f", c.shape)
    else:
        f = _activated(writer, op, acts[0], _peeped(writer, f_pre, c, weights.get("P_f")), "f")
    g = _activated(writer, op, acts[1], g_pre, "g")
    kept = writer.op("Mul", [f, c], "c_kept", c.shape)
    taken = writer.op("Mul", [i, g], "g_taken", c.shape)
    new_c = writer.op("Add", [kept, taken], "c_new", c.shape)
    o = _activated(writer, op, acts[0], _peeped(writer, o_pre, new_c, weights.get("P_o")), "o")
    shown = write_activation(writer, acts[2], new_c, "c_shown")
    return {"h": writer.op("Mul", [o, shown], "h_new", h.shape), "c": new_c}


def _projected(
    writer: GraphWriter, x: ir.Value, weight: ir.Value, bias: ir.Value | None, name: str
) -> ir.Value:
    """x W (+ bias): [B,K] times [K,N]."""
    batch = x.shape[0] if x.shape is not None else None
    columns = weight.shape[1] if weight.shape is not None else None
    product = writer.op("MatMul", [x, weight], name, [batch, columns])
    if bias is None:
        return product
    return writer.op("Add", [product, bias], f"{name}_biased", product.shape)


def _gate(
    writer: GraphWriter, op: FusedOp, activation: Activation, x: ir.Value, h: ir.Value, name: str
) -> ir.Value:
    total = writer.op("Add", [x, h], f"{name}_pre", h.shape)
    return _activated(writer, op, activation, total, name)


def _activated(writer: GraphWriter, op: FusedOp, activation: Activation, x: ir.Value, name: str) -> ir.Value:
    if op.clip is not None:
        bounds = [writer.number(-op.clip), writer.number(op.clip)]
        x = writer.op("Clip", [x, *bounds], f"{name}_clipped", x.shape)
    return write_activation(writer, activation, x, name)


def _peeped(writer: GraphWriter, x: ir.Value, c: ir.Value, peephole: ir.Value | None) -> ir.Value:
    if peephole is None:
        return x
    product = writer.op("Mul", [c, peephole], f"{_short(x)}_peephole", c.shape)
    return writer.op("Add", [x, product], f"{_short(x)}_peeped", c.shape)


def _short(value: ir.Value) -> str:
    return str(value.name).rpartition(".")[2].removesuffix("_pre")
