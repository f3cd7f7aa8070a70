"""Networks whose steps read what was there before, written as one step that carries it on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from lsc_graph.models.forms import State, Step, in_form
from lsc_graph.models.graph import GraphBuilder
from onnx import TensorProto, helper, numpy_helper
from written_as import as_dynamo_writes, as_jax_writes, as_keras_writes

from lsc_graph.results import Form

T, D, H = 7, 3, 4
FORMS: dict[str, Callable[[Step], onnx.ModelProto]] = {
    "Scan": lambda step: in_form(step, Form.SCAN, T),
    "Loop of torch": lambda step: in_form(step, Form.LOOP, T),
    "Loop of JAX": lambda step: as_jax_writes(step, T),
    "Loop of Keras": lambda step: as_keras_writes(step, T),
    "unrolled": lambda step: in_form(step, Form.UNROLLED, T),
    "steps of the dynamo exporter": lambda step: as_dynamo_writes(step, T),
    "streaming": lambda step: in_form(step, Form.STREAMING, T),
}


def asked(form: str) -> dict[str, object]:
    """The shapes and steps that make a form one of T steps."""
    if form == "streaming":
        return {"input_shapes": {"x": (1, D)}, "num_steps": T}
    return {"input_shapes": {"x": (T, 1, D)}}


def backwards(model: onnx.ModelProto) -> onnx.ModelProto:
    """A Scan that starts at the last time."""
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    for name in ("scan_input_directions", "scan_output_directions"):
        scan.attribute.append(helper.make_attribute(name, [1]))
    return model


def in_a_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose y is computed in a branch that is taken where the sum of x is not very small."""
    graph = model.graph
    y = next(value for value in graph.output if value.name == "y")
    then = helper.make_graph(list(graph.node), "then", [], [y])
    other = helper.make_node("ReduceSum", ["x"], ["other_sum"], keepdims=0)
    spread = helper.make_node("Expand", ["other_sum", "shape"], ["other"])
    like = helper.make_tensor_value_info("other", TensorProto.FLOAT, [T, 1, H])
    total = helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)
    is_taken = helper.make_node("Greater", ["total", "bound"], ["is_taken"])
    choice = helper.make_node(
        "If",
        ["is_taken"],
        ["chosen"],
        then_branch=then,
        else_branch=helper.make_graph([other, spread], "else", [], [like]),
    )
    constants = {"bound": np.array(-1e9, np.float32), "shape": np.array([T, 1, H])}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    outputs = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [T, 1, H])]
    whole = helper.make_graph(
        [total, is_taken, choice], "main", graph.input, outputs, [*graph.initializer, *tensors]
    )
    return helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)


class Writer(GraphBuilder):
    """A step of plain operators; weights are drawn as they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(5)
        self.states: list[State] = []

    def drawn(self, *shape: int) -> str:
        array = self.generator.standard_normal(shape) / np.sqrt(shape[-1])
        return self.weight(f"w{len(self.initializers)}", array)

    def new(self, op_type: str, *inputs: str, **attributes: object) -> str:
        return self.op(op_type, inputs, f"v{len(self.nodes)}", **attributes)

    def sum_of(self, *values: str) -> str:
        total = values[0]
        for value in values[1:]:
            total = self.new("Add", total, value)
        return total

    def gate(self, op_type: str, *reads: tuple[str, int]) -> str:
        """A nonlinearity of the sum of products with weights [H, n] of its own, and a bias."""
        products = [self.new("Gemm", value, self.drawn(H, size), transB=1) for value, size in reads]
        return self.new(op_type, self.sum_of(*products, self.drawn(H)))

    def kept(self, name: str, value: str, size: int) -> None:
        """What the next step takes over as `name`."""
        after = self.op("Identity", [value], f"{name}n")
        self.states.append(State(name, after, size))

    def step(self, output: str, size: int = H) -> Step:
        self.op("Identity", [output], "y")
        return Step(self, tuple(self.states), D, size)


def leaky(net: Writer, name: str, forget: str, value: str) -> str:
    """c' = f c + (1 - f) z."""
    rest = net.new("Mul", net.new("Sub", net.weight("one", [1.0]), forget), value)
    new = net.sum_of(net.new("Mul", forget, name), rest)
    net.kept(name, new, H)
    return new


def qrnn(taps: int) -> Step:
    """Two quasi-recurrent layers (Bradbury et al., arXiv 1611.01576): gates read windows of what is below."""
    net, below, size = Writer(), "x", D
    for layer in range(2):
        delays = [f"s{layer}_{tap}" for tap in range(1, taps)]
        reads = [(value, size) for value in (below, *delays)]
        forget, value, out = (net.gate(op_type, *reads) for op_type in ("Sigmoid", "Tanh", "Sigmoid"))
        new = leaky(net, f"c{layer}", forget, value)
        for delay, earlier in zip(delays, (below, *delays), strict=False):
            net.kept(delay, earlier, size)
        below, size = net.new("Mul", out, new), H
    return net.step(below)


def token_shift() -> Step:
    """Two residual blocks as of RWKV (arXiv 2305.13048): each mixes its input with the one before."""
    net = Writer()
    below = net.new("Gemm", "x", net.drawn(H, D), transB=1)
    for layer in range(2):
        normed = net.new("LayerNormalization", below, net.drawn(H), net.drawn(H))
        mixed = net.sum_of(net.new("Mul", normed, net.drawn(H)), net.new("Mul", f"s{layer}", net.drawn(H)))
        key, gate = net.gate("Tanh", (mixed, H)), net.gate("Sigmoid", (mixed, H))
        new = leaky(net, f"h{layer}", net.new("Sigmoid", net.drawn(1, H)), key)
        net.kept(f"s{layer}", normed, H)
        out = net.new("Gemm", net.new("Mul", gate, new), net.drawn(H, H), transB=1)
        below = net.sum_of(below, out)
    return net.step(below)


def taps_of_a_layer() -> Step:
    """The upper layer reads the lower one now, one and two steps ago."""
    net = Writer()
    lower = net.gate("Tanh", ("x", D), ("h0", H))
    upper = net.gate("Tanh", (lower, H), ("s1", H), ("s2", H), ("h1", H))
    for name, value in (("s2", "s1"), ("s1", lower), ("h0", lower), ("h1", upper)):
        net.kept(name, value, H)
    return net.step(upper)


def read_by_the_output() -> Step:
    """What the output alone reads of the step before."""
    net = Writer()
    new = net.gate("Tanh", ("x", D), ("h0", H))
    net.kept("h0", new, H)
    net.kept("s0", new, H)
    return net.step(net.gate("Sigmoid", (new, H), ("s0", H)))


def of_second_order() -> Step:
    """h[t] is computed from h[t-1] and h[t-2]: what is carried of it comes back to itself."""
    net = Writer()
    new = net.gate("Tanh", ("x", D), ("h0", H), ("s0", H))
    net.kept("h0", new, H)
    net.kept("s0", "h0", H)
    return net.step(new)


def with_last_seen() -> Step:
    """As of GRU-D (Che et al., arXiv 1606.01865): the last value seen is kept where there is no new one."""
    net = Writer()
    mask = net.gate("Sigmoid", ("x", D))
    last = leaky(net, "s0", mask, net.gate("Tanh", ("x", D)))
    new = net.gate("Tanh", (last, H), ("h0", H))
    net.kept("h0", new, H)
    return net.step(new)


DELAYED = {
    "a window of 2": (lambda: qrnn(2), 2, [(), ((0, -1),)]),
    "a window of 3": (lambda: qrnn(3), 2, [(), ((0, -1, -2),)]),
    "token shift": (token_shift, 2, [(), ((0, -1),)]),
    "taps of a layer": (taps_of_a_layer, 2, [(), ((0, -1, -2),)]),
    "read by the output": (read_by_the_output, 1, [()]),
}
NEAR_MISSES = {"of second order": (of_second_order, [2 * H]), "the last value seen": (with_last_seen, [H, H])}
