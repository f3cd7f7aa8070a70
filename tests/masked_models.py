"""A masked layer, as exporters write it: what it keeps, and what it puts out, each in a way of its own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T, D, H = 10, 3, 4
KEPT = {
    "where": "h_new = Where(m, h, h_old)",
    "arithmetic": "yes = Cast<to=1>(m)\nno = Not(m)\nrest = Cast<to=1>(no)\n"
    "a = Mul(yes, h)\nb = Mul(h_old, rest)\nh_new = Add(a, b)",
}
PUT_OUT = {
    "state": "y = Identity(h_new)",
    "zeros": "y = Where(m, h, zeros)",
    "negated": "n = Not(m)\ny = Where(n, zeros, h)",
    "last": "y_new = Where(m, h, y_old)\ny = Identity(y_new)",
}


def masked(kept: str = "where", put_out: str = "state", level: float = -100.0) -> onnx.ModelProto:
    """h' = tanh(x W + h U) where min(x) > level, else h; below an RNN."""
    lines = ["p = MatMul(x_t, W)", "q = MatMul(h_old, U)", "s = Add(p, q)", "h = Tanh(s)"]
    lines += [*KEPT[kept].splitlines(), *PUT_OUT[put_out].splitlines()]
    states = ["h", "y"] if put_out == "last" else ["h"]
    text = f"<ir_version: 8, opset_import: ['' : 17]>\nstep () => () {{\n{chr(10).join(lines)}\n}}".replace(
        "'", '"'
    )
    body = onnx.parser.parse_model(text).graph
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    body.input.extend([info(f"{name}_old", kind, [1, H]) for name in states])
    body.input.extend([info("x_t", kind, [1, D]), info("m", TensorProto.BOOL, [1, 1])])
    body.output.extend([info(f"{name}_new", kind, [1, H]) for name in states] + [info("y", kind, [1, H])])
    generator = np.random.default_rng(0)
    constants = {
        "W": generator.standard_normal((D, H)),
        "U": 0.5 * generator.standard_normal((H, H)),
        "zeros": np.zeros((1, H)),
        "above.W": generator.standard_normal((1, H, H)),
        "above.R": 0.5 * generator.standard_normal((1, H, H)),
    }
    nodes = [
        helper.make_node("ReduceMin", ["x", "axes"], ["least"], keepdims=1),
        helper.make_node("Less", ["level", "least"], ["mask"]),
        helper.make_node(
            "Scan",
            [*(["zeros"] * len(states)), "x", "mask"],
            [*(f"{name}_last" for name in states), "below"],
            body=body,
            num_scan_inputs=2,
        ),
        helper.make_node("RNN", ["below", "above.W", "above.R"], ["above"], hidden_size=H),
        helper.make_node("Squeeze", ["above", "one"], ["out"]),
    ]
    small = {"axes": np.array([2]), "one": np.array([1]), "level": np.array(level, np.float32)}
    tensors = {name: array.astype(np.float32) for name, array in constants.items()} | small
    graph = helper.make_graph(
        nodes,
        "masked",
        [info("x", kind, [T, 1, D])],
        [info("out", kind, [T, 1, H])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
