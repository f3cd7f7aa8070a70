"""One network of stacked tanh layers, written with loops over its layers in many ways, and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.results import Analysis

T, H = 7, 6
Nodes = list[onnx.NodeProto]


def weights(num_layers: int, *, is_tied: bool = False) -> dict[str, np.ndarray]:
    """W, U [L,H,H] and b [L,1,H], stacked over the layers."""
    generator = np.random.default_rng(num_layers)
    shapes = {"W": (H, H), "U": (H, H), "b": (1, H)}
    drawn = {name: 0.4 * generator.standard_normal((num_layers, *shape)) for name, shape in shapes.items()}
    if is_tied:
        drawn = {name: np.repeat(array[:1], num_layers, 0) for name, array in drawn.items()}
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def info(name: str, *shape: int | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A value's declaration."""
    return helper.make_tensor_value_info(name, kind, shape)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node of values named in two texts."""
    return helper.make_node(
        op_type, inputs.split(), outputs.split(), name=f"{outputs.split()[0]}.{op_type}", **attributes
    )


def cell(x: str = "x", h: str = "h", w: str = "w", u: str = "u", b: str = "c", new: str = "h_new") -> Nodes:
    """new = tanh(x w + h u + b)"""
    return [
        node("MatMul", f"{x} {w}", f"{new}.1"),
        node("MatMul", f"{h} {u}", f"{new}.2"),
        node("Add", f"{new}.1 {new}.2", f"{new}.3"),
        node("Add", f"{new}.3 {b}", f"{new}.4"),
        node("Tanh", f"{new}.4", new),
    ]


def graph(
    nodes: Nodes, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.GraphProto:
    """A body."""
    return helper.make_graph(nodes, "body", list(inputs), list(outputs))


def scan(
    name: str, inputs: str, outputs: str, body: onnx.GraphProto, count: int, **attributes: Any
) -> onnx.NodeProto:
    """A Scan over its last `count` inputs."""
    return helper.make_node(
        "Scan", inputs.split(), outputs.split(), name=name, body=body, num_scan_inputs=count, **attributes
    )


def loop(name: str, count: str, inputs: str, outputs: str, body: onnx.GraphProto) -> onnx.NodeProto:
    """A Loop that runs `count` times; the body's condition is its own."""
    return helper.make_node("Loop", [count, "", *inputs.split()], outputs.split(), name=name, body=body)


def loop_body(
    number: str, nodes: Nodes, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.GraphProto:
    """The body of a Loop that goes on as long as it is counted."""
    conditions = [info(f"{number}.{way}", kind=TensorProto.BOOL) for way in ("go", "on")]
    nodes = [*nodes, node("Identity", f"{number}.go", f"{number}.on")]
    count = info(number, kind=TensorProto.INT64)
    return graph(nodes, [count, conditions[0], *inputs], [conditions[1], *outputs])


def model(
    nodes: Nodes,
    constants: dict[str, np.ndarray],
    outputs: Sequence[onnx.ValueInfoProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A model from the sequence xs [T,1,H] to ys, or to other outputs."""
    main = helper.make_graph(
        nodes,
        "main",
        [info("xs", T, 1, H), *inputs],
        list(outputs) or [info("ys", T, 1, H)],
        [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in constants.items()],
    )
    made = helper.make_model(main, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def over_time(name: str, xs: str, ys: str, w: str, u: str, b: str, start: str = "zero") -> onnx.NodeProto:
    """One layer: a Scan over time."""
    nodes = [*cell(w=w, u=u, b=b), node("Identity", "h_new", "y")]
    body = graph(nodes, [info("h", 1, H), info("x", 1, H)], [info("h_new", 1, H), info("y", 1, H)])
    return scan(name, f"{start} {xs}", f"{ys}.last {ys}", body, 1)


def numbers(num_layers: int) -> dict[str, np.ndarray]:
    """Constants that many ways need."""
    return {
        "zero": np.zeros((1, H), np.float32),
        "zeros": np.zeros((num_layers, 1, H), np.float32),
        "count": np.array(num_layers),
        "steps": np.array(T),
        "first": np.array([0]),
        "both": np.array([0, 1]),
    }


def plain(num_layers: int, *, is_tied: bool = False) -> onnx.ModelProto:
    """Every layer a Scan of its own."""
    stacked, nodes, constants = weights(num_layers, is_tied=is_tied), [], numbers(num_layers)
    for layer in range(num_layers):
        own = [f"{name}{layer}" for name in stacked]
        constants |= {name: array[layer] for name, array in zip(own, stacked.values(), strict=True)}
        xs, ys = f"ys{layer}" if layer else "xs", "ys" if layer == num_layers - 1 else f"ys{layer + 1}"
        nodes.append(over_time(f"layer{layer}", xs, ys, *own))
    return model(nodes, constants)


def time_scan(inner: Nodes, shape: Sequence[int], extra: str = "", starts: str = "zeros") -> onnx.NodeProto:
    """The Scan over time whose step, `inner`, makes hs_new and y of hs and x_t."""
    carried = [info("hs", *shape), *(info(f"{name}.in", H, H) for name in extra.split())]
    left = [info("hs_new", *shape), *(info(f"{name}.out", H, H) for name in extra.split())]
    body = graph(inner, [*carried, info("x_t", 1, H)], [*left, info("y", 1, H)])
    return scan("time", f"{starts} xs", "hs_last ys", body, 1)


def layer_scan(order: str, axes: Sequence[int], out_axis: int, *, is_reverse: bool = False) -> onnx.NodeProto:
    """A Scan over layers inside the step: stacks named in `order`, of which S are the states."""
    kinds = {"W": ("w", (H, H)), "U": ("u", (H, H)), "b": ("c", (1, H)), "S": ("h", (1, H))}
    nodes = [*cell(), node("Identity", "h_new", "h_out")]
    inputs = [info("x", 1, H), *(info(name, *shape) for name, shape in (kinds[each] for each in order))]
    body = graph(nodes, inputs, [info("h_new", 1, H), info("h_out", 1, H)])
    names = " ".join(each if each != "S" else "hs" for each in order)
    return scan(
        "layers", f"x_t {names}", "y hs_new", body, len(order), scan_input_axes=list(axes),
        scan_output_axes=[out_axis], scan_input_directions=[int(is_reverse)] * len(order),
        scan_output_directions=[int(is_reverse)],
    )  # fmt: skip


def scans_inside(num_layers: int) -> onnx.ModelProto:
    """A Scan over layers in a Scan over time."""
    return model(
        [time_scan([layer_scan("USbW", [0] * 4, 0)], (num_layers, 1, H))],
        weights(num_layers) | numbers(num_layers),
    )


def scans_along_other_axes(num_layers: int) -> onnx.ModelProto:
    """The same with stacks along axes of their own, the last ones among them."""
    stacked = weights(num_layers)
    moved = {"W": np.moveaxis(stacked["W"], 0, 2), "U": np.moveaxis(stacked["U"], 0, 1), "b": stacked["b"]}
    constants = numbers(num_layers) | {"zeros": np.zeros((1, num_layers, H), np.float32)}
    inner = layer_scan("bWSU", [0, -1, 1, 1], 1)
    return model([time_scan([inner], (1, num_layers, H))], moved | constants)


def scans_from_the_last(num_layers: int) -> onnx.ModelProto:
    """Stacks in which the lowest layer comes last."""
    stacked = {name: array[::-1] for name, array in weights(num_layers).items()}
    inner = layer_scan("WUbS", [0] * 4, 0, is_reverse=True)
    return model([time_scan([inner], (num_layers, 1, H))], stacked | numbers(num_layers))


def gathers(stack_of_states: str) -> Nodes:
    """What iteration k reads: rows of weights from outside, and of the states."""
    return [
        node("Gather", "W k", "w", axis=0),
        node("Gather", "U k", "u", axis=0),
        node("Gather", "b k", "c", axis=0),
        node("Gather", f"{stack_of_states} k", "h", axis=0),
    ]


def layer_loop_scattering() -> onnx.NodeProto:
    """A Loop over layers that reads its row of the states, and writes it with ScatterND."""
    nodes = [
        *gathers("s"),
        *cell(),
        node("Unsqueeze", "k both", "place"),
        node("Unsqueeze", "h_new first", "row"),
        node("ScatterND", "s place row", "s_new"),
    ]
    body = loop_body(
        "k", nodes, [info("x", 1, H), info("s", None, 1, H)], [info("h_new", 1, H), info("s_new", None, 1, H)]
    )
    return loop("layers", "count", "x_t hs", "y hs_new", body)


def layer_loop_joining() -> onnx.NodeProto:
    """A Loop over layers that appends each new state to a stack that grows."""
    nodes = [
        *gathers("hs"),
        *cell(),
        node("Unsqueeze", "h_new first", "row"),
        node("Concat", "s row", "s_new", axis=0),
    ]
    body = loop_body(
        "k", nodes, [info("x", 1, H), info("s", None, 1, H)], [info("h_new", 1, H), info("s_new", None, 1, H)]
    )
    return loop("layers", "count", "x_t nothing", "y hs_new", body)


def layer_loop_collecting() -> onnx.NodeProto:
    """A Loop over layers whose new states are collected."""
    nodes = [*gathers("hs"), *cell(), node("Identity", "h_new", "h_out")]
    body = loop_body("k", nodes, [info("x", 1, H)], [info("h_new", 1, H), info("h_out", 1, H)])
    return loop("layers", "count", "x_t", "y hs_new", body)


def loops_inside(num_layers: int, kind: str, *, is_loop_over_time: bool = False) -> onnx.ModelProto:
    """A Loop over layers in a Scan or Loop over time."""
    kinds = {
        "scattering": layer_loop_scattering,
        "joining": layer_loop_joining,
        "collecting": layer_loop_collecting,
    }
    constants = weights(num_layers) | numbers(num_layers) | {"nothing": np.zeros((0, 1, H), np.float32)}
    shape = (num_layers, 1, H)
    if not is_loop_over_time:
        return model([time_scan([kinds[kind]()], shape)], constants)
    nodes = [node("Gather", "xs t", "x_t", axis=0), kinds[kind]()]
    body = loop_body("t", nodes, [info("hs", *shape)], [info("hs_new", *shape), info("y", 1, H)])
    return model([loop("time", "steps", "zeros", "hs_last ys", body)], constants)


def weights_passed_through(num_layers: int) -> onnx.ModelProto:
    """The stacks are carried along by the Loop over time, as jax2onnx writes them."""
    stacked, names = weights(num_layers), ("W", "U", "b")
    shapes = {name: array.shape for name, array in stacked.items()}
    inner = layer_scan("WUbS", [0] * 4, 0)
    nodes = [
        node("Gather", "xs t", "x_t", axis=0),
        inner,
        *(node("Identity", name, f"{name}_out") for name in names),
    ]
    state = num_layers, 1, H
    body = loop_body(
        "t",
        nodes,
        [*(info(name, *shapes[name]) for name in names), info("hs", *state)],
        [*(info(f"{name}_out", *shapes[name]) for name in names), info("hs_new", *state), info("y", 1, H)],
    )
    outer = loop("time", "steps", "W_0 U_0 b_0 zeros", "W_n U_n b_n hs_last ys", body)
    return model([outer], {f"{name}_0": array for name, array in stacked.items()} | numbers(num_layers))


def weights_reshaped(num_layers: int) -> onnx.ModelProto:
    """The stacks are one long matrix each, and are cut and turned inside the model."""
    stacked = weights(num_layers)
    flat = {"W_0": stacked["W"].reshape(-1, H), "U_0": np.swapaxes(stacked["U"], 1, 2), "b": stacked["b"]}
    shape = np.array([num_layers, H, H])
    before = [node("Reshape", "W_0 shape", "W"), node("Transpose", "U_0", "U", perm=[0, 2, 1])]
    step = time_scan([layer_scan("SWUb", [0] * 4, 0)], (num_layers, 1, H))
    return model([*before, step], flat | {"shape": shape} | numbers(num_layers))


def around(num_layers: int, kind: str = "scan") -> onnx.ModelProto:
    """A loop over layers around a loop over time: the whole sequence is carried from layer to layer."""
    constants = weights(num_layers) | numbers(num_layers)
    states = [info("v", T, 1, H)], [info("v_new", T, 1, H)]
    if kind == "scan":
        each = [info("w", H, H), info("u", H, H), info("c", 1, H)]
        body = graph([over_time("time", "v", "v_new", "w", "u", "c")], [*states[0], *each], states[1])
        return model([scan("layers", "xs W U b", "ys", body, 3)], constants)
    rows = [
        node("Gather", "W k", "w", axis=0),
        node("Gather", "U k", "u", axis=0),
        node("Gather", "b k", "c", axis=0),
    ]
    body = loop_body("k", [*rows, over_time("time", "v", "v_new", "w", "u", "c")], *states)
    return model([loop("layers", "count", "xs", "ys", body)], constants)


def around_operators(num_layers: int, *, is_plain: bool = False) -> onnx.ModelProto:
    """RNN operators in a Scan over layers, or one after another."""
    stacked = weights(num_layers)
    zero = np.zeros((num_layers, 1, H), np.float32)
    packed = {
        "W": np.swapaxes(stacked["W"], 1, 2)[:, None],
        "R": np.swapaxes(stacked["U"], 1, 2)[:, None],
        "B": np.concatenate([stacked["b"], zero], 2),
    }
    nodes, constants = [], {"axis": np.array([1])}
    if is_plain:
        for layer in range(num_layers):
            constants |= {f"{name}{layer}": array[layer] for name, array in packed.items()}
            xs, ys = f"ys{layer}" if layer else "xs", "ys" if layer == num_layers - 1 else f"ys{layer + 1}"
            nodes.append(node("RNN", f"{xs} W{layer} R{layer} B{layer}", f"{ys}.4", hidden_size=H))
            nodes.append(node("Squeeze", f"{ys}.4 axis", ys))
        return model(nodes, constants)
    inner = [node("RNN", "v w r c", "v4", hidden_size=H), node("Squeeze", "v4 axis", "v_new")]
    each = [info("w", 1, H, H), info("r", 1, H, H), info("c", 1, 2 * H)]
    body = graph(inner, [info("v", T, 1, H), *each], [info("v_new", T, 1, H)])
    return model([scan("layers", "xs W R B", "ys", body, 3)], packed | constants)


def states_given(num_layers: int) -> onnx.ModelProto:
    """First states are an input, last ones an output, both stacked; the Scan over layers is outside."""
    inner = over_time("time", "v", "v_new", "w", "u", "c", start="h0")
    inner.output[0] = "h_last"
    each = [info("w", H, H), info("u", H, H), info("c", 1, H), info("h0", 1, H)]
    body = graph([inner], [info("v", T, 1, H), *each], [info("v_new", T, 1, H), info("h_last", 1, H)])
    outer = scan("layers", "xs W U b h0s", "ys h_n", body, 4)
    stack = num_layers, 1, H
    return model(
        [outer], weights(num_layers), [info("ys", T, 1, H), info("h_n", *stack)], [info("h0s", *stack)]
    )


def states_in_a_row(num_layers: int) -> onnx.ModelProto:
    """The states of all layers lie one behind the other in [1,L*H]: read by slices, written by a Concat."""
    ends = [
        node("Mul", "k size", "start"),
        node("Add", "start size", "end"),
        node("Unsqueeze", "start first", "starts"),
        node("Unsqueeze", "end first", "ends"),
        node("Slice", "hs starts ends one", "h"),
    ]
    rows = gathers("hs")[:3]
    nodes = [*ends, *rows, *cell(), node("Concat", "s h_new", "s_new", axis=1)]
    body = loop_body(
        "k", nodes, [info("x", 1, H), info("s", 1, None)], [info("h_new", 1, H), info("s_new", 1, None)]
    )
    constants = {
        "size": np.array(H),
        "one": np.array([1]),
        "none": np.zeros((1, num_layers * H), np.float32),
        "nothing": np.zeros((1, 0), np.float32),
    }
    inner = loop("layers", "count", "x_t nothing", "y hs_new", body)
    step = time_scan([inner], (1, num_layers * H), starts="none")
    return model([step], weights(num_layers) | numbers(num_layers) | constants)


def groups(num_layers: int) -> onnx.ModelProto:
    """Two stacks in one another: a Scan over single layers inside one over groups of two."""
    stacked = {name: array.reshape(-1, 2, *array.shape[1:]) for name, array in weights(num_layers).items()}
    inner = layer_scan("WUbS", [0] * 4, 0)
    inner.input[:] = ["v", "gw", "gu", "gb", "gs"]
    inner.output[:] = ["v_new", "gs_new"]
    each = [info("gw", 2, H, H), info("gu", 2, H, H), info("gb", 2, 1, H), info("gs", 2, 1, H)]
    body = graph([inner], [info("v", 1, H), *each], [info("v_new", 1, H), info("gs_new", 2, 1, H)])
    middle = scan("groups", "x_t W U b hs", "y hs_new", body, 4)
    zeros = {"zeros": np.zeros((num_layers // 2, 2, 1, H), np.float32)}
    return model([time_scan([middle], (num_layers // 2, 2, 1, H))], stacked | zeros)


def masked(num_layers: int, *, is_plain: bool = False) -> onnx.ModelProto:
    """The stack of new states is mixed with that of the old ones, which is read as a whole for it."""
    mixed = [node("Mul", "new most", "m1"), node("Mul", "old rest", "m2"), node("Add", "m1 m2", "mix")]
    constants = numbers(num_layers) | {"most": np.array(0.7, np.float32), "rest": np.array(0.3, np.float32)}
    stacked = weights(num_layers)
    if not is_plain:
        inner = layer_scan("WUbS", [0] * 4, 0)
        inner.output[1] = "new"
        old = node("Identity", "hs", "old")
        step = time_scan([inner, old, *mixed, node("Identity", "mix", "hs_new")], (num_layers, 1, H))
        return model([step], stacked | constants)
    nodes = []
    for layer in range(num_layers):
        own = [f"{name}{layer}" for name in stacked]
        constants |= {name: array[layer] for name, array in zip(own, stacked.values(), strict=True)}
        xs, ys = f"ys{layer}" if layer else "xs", "ys" if layer == num_layers - 1 else f"ys{layer + 1}"
        inside = [*cell(w=own[0], u=own[1], b=own[2], new="new"), node("Identity", "h", "old"), *mixed]
        inside += [node("Identity", "mix", "h_new"), node("Identity", "new", "y")]
        body = graph(inside, [info("h", 1, H), info("x", 1, H)], [info("h_new", 1, H), info("y", 1, H)])
        nodes.append(scan(f"layer{layer}", f"zero {xs}", f"{ys}.last {ys}", body, 1))
    return model(nodes, constants)


def tied_inside(num_layers: int) -> onnx.ModelProto:
    """Layers with states of their own, but the same weights."""
    own = {name: array[0] for name, array in weights(num_layers, is_tied=True).items()}
    nodes = [*cell(w="W", u="U", b="b"), node("Identity", "h_new", "h_out")]
    body = graph(nodes, [info("x", 1, H), info("h", 1, H)], [info("h_new", 1, H), info("h_out", 1, H)])
    inner = scan("layers", "x_t hs", "y hs_new", body, 1)
    return model([time_scan([inner], (num_layers, 1, H))], own | numbers(num_layers))


WAYS = {
    "scans": scans_inside,
    "scans along other axes": scans_along_other_axes,
    "scans from the last layer": scans_from_the_last,
    "loop that scatters": lambda n: loops_inside(n, "scattering"),
    "loop that joins": lambda n: loops_inside(n, "joining"),
    "loop that collects": lambda n: loops_inside(n, "collecting"),
    "loop that scatters in a loop": lambda n: loops_inside(n, "scattering", is_loop_over_time=True),
    "loop that joins in a loop": lambda n: loops_inside(n, "joining", is_loop_over_time=True),
    "loop that collects in a loop": lambda n: loops_inside(n, "collecting", is_loop_over_time=True),
    "weights passed through": weights_passed_through,
    "weights reshaped": weights_reshaped,
    "scan around scan": around,
    "loop around scan": lambda n: around(n, "loop"),
    "states given": states_given,
    "states in a row": states_in_a_row,
}


def assert_alike(one: Analysis, two: Analysis) -> None:
    """The same grid, and the same radii and gains of every layer."""
    assert one.grid == two.grid
    assert [layer.state_size for layer in one.layers] == [layer.state_size for layer in two.layers]
    for a, b in zip(one.layers, two.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, abs=1e-5), quantity
