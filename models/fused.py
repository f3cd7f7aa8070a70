"""Stacks of fused ONNX RNN, GRU and LSTM nodes with the glue that torch's exporter writes around them.

Between layers the direction axis of Y [T,dirs,B,H] goes: Squeeze for one direction, Transpose and Reshape
for two (torch/onnx/symbolic_opset9.py, `_generic_rnn`). x is [time,batch,D], y is [time,batch,dirs*H],
h_n and c_n are [L*dirs,batch,H], as in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import onnx

from .graph import GraphBuilder
from .weights import Packed

InitialState = Literal["omitted", "zeros", "input"]
_STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}


def fused_stack(
    op_type: str,
    layers: Sequence[Packed],
    *,
    initial_state: InitialState = "omitted",
    **attributes: Any,
) -> onnx.ModelProto:
    """A stack of fused nodes.

    Args:
        op_type: RNN, GRU or LSTM.
        layers: weights, from the bottom up.
        initial_state: left out of the nodes; zeros made from the batch size in the graph, as torch does when
            none is given; or graph inputs h_0 (and c_0) [L*dirs,batch,H].
        attributes: of every node.
    """
    builder = GraphBuilder()
    dirs, hidden = layers[0].w.shape[0], layers[0].r.shape[-1]
    value = builder.input("x", ["time", "batch", layers[0].w.shape[-1]])
    names = _STATES[op_type]
    shape = (len(layers) * dirs, "batch", hidden)
    initial = [_whole_initial(builder, f"{name}_0", shape, initial_state) for name in names]
    finals: dict[str, list[str]] = {name: [] for name in names}
    for index, weights in enumerate(layers):
        states = [_of_layer(builder, whole, index, dirs) for whole in initial]
        y, *last = _node(builder, op_type, index, value, weights, states, attributes)
        for name, final in zip(names, last, strict=True):
            finals[name].append(final)
        value = _glue(builder, y, index, dirs, is_last=index == len(layers) - 1)
    builder.output("y", ["time", "batch", dirs * hidden])
    for name in names:
        builder.op("Concat", finals[name], f"{name}_n", axis=0)
        builder.output(f"{name}_n", shape)
    return builder.model()


def _whole_initial(
    builder: GraphBuilder, name: str, shape: tuple[int | str, ...], initial_state: InitialState
) -> str:
    """The initial state of all layers [L*dirs,batch,H]; empty where it is left out."""
    if initial_state == "omitted":
        return ""
    if initial_state == "input":
        return builder.input(name, shape)
    batch = builder.op("Shape", ["x"], f"{name}_batch", start=1, end=2)
    sizes = [builder.integers([int(shape[0])]), batch, builder.integers([int(shape[2])])]
    return builder.op("ConstantOfShape", [builder.op("Concat", sizes, f"{name}_shape", axis=0)], name)


def _of_layer(builder: GraphBuilder, whole: str, index: int, dirs: int) -> str:
    """One layer's slice [dirs,batch,H] of the initial state."""
    if not whole:
        return ""
    starts, ends = builder.integers([index * dirs]), builder.integers([(index + 1) * dirs])
    return builder.op("Slice", [whole, starts, ends, builder.integers([0])], f"layer_{index}/{whole}")


def _node(
    builder: GraphBuilder,
    op_type: str,
    index: int,
    value: str,
    weights: Packed,
    states: list[str],
    attributes: dict[str, Any],
) -> tuple[str, ...]:
    prefix, dirs = f"layer_{index}", weights.w.shape[0]
    w = builder.weight(f"{prefix}.weight_ih", weights.w)
    r = builder.weight(f"{prefix}.weight_hh", weights.r)
    b = "" if weights.b is None else builder.weight(f"{prefix}.bias", weights.b)
    inputs = [value, w, r, b, "", *states]
    while not inputs[-1]:
        inputs.pop()
    outputs = [f"{prefix}/Y", *(f"{prefix}/Y_{name}" for name in _STATES[op_type])]
    direction = "bidirectional" if dirs == 2 else "forward"
    size = weights.r.shape[-1]
    return builder.ops(op_type, inputs, outputs, hidden_size=size, direction=direction, **attributes)


def _glue(builder: GraphBuilder, y: str, index: int, dirs: int, *, is_last: bool) -> str:
    """Y [T,dirs,B,H] to [T,B,dirs*H]."""
    name = "y" if is_last else f"layer_{index}/out"
    if dirs == 1:
        return builder.op("Squeeze", [y, builder.integers([1])], name)
    turned = builder.op("Transpose", [y], f"layer_{index}/Y_transposed", perm=[0, 2, 1, 3])
    return builder.op("Reshape", [turned, builder.integers([0, 0, -1])], name)
