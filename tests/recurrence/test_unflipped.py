"""Flips are taken out where each time is computed alone; what keeps the order of times leaves them in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from onnx.parser import parse_model
from torch import Tensor, nn

from lsc_graph.audit_model import audit
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.fused_ops import lower_fused_ops
from lsc_graph.recurrence.reversal import turn_around
from lsc_graph.results import Analysis, Direction
from lsc_graph.running.reference import Reference

T, D, H = 5, 2, 3
# what stands between the flipped sequence f [T,1,D] and what the operator reads, r [T,1,D]
BY_TIME = {
    "elementwise": "a = Tanh(f) r = Add(a, row)",
    "weights": "r = MatMul(f, square)",
    "a full product": "a = Squeeze(f, one) b = Gemm(a, square, row) r = Unsqueeze(b, one)",
    "axes": "a = Transpose <perm = [1, 0, 2]> (f) b = Tanh(a) r = Transpose <perm = [1, 0, 2]> (b)",
    "shapes": "a = Reshape(f, flat) b = Relu(a) r = Reshape(b, full)",
    "normalisation": "a = LayerNormalization <axis = -1> (f, row) b = Softmax <axis = 2> (a) r = Exp(b)",
    "statistics": "a = ReduceMean(f, two) r = Sub(f, a)",
    "two ways": "a = Tanh(f) b = Sigmoid(f) r = Mul(a, b)",
    "columns": "a = Concat <axis = 2> (f, f) r = Slice(a, one, three, two, one)",
    "choice": "a = Gather <axis = 2> (f, swapped) r = Cast <to = 1> (a)",
    "comparison": "a = Greater(f, row) r = Where(a, f, row)",
    "einsum": 'r = Einsum <equation = "tbd,de->tbe"> (f, square)',
    "batch statistics": "a = Squeeze(f, one) b = BatchNormalization(a, row, row, row, ones) "
    "r = Unsqueeze(b, one)",
}
IN_ORDER = {
    "softmax": "r = Softmax <axis = 0> (f)",
    "cumulated": "r = CumSum(f, zero_number)",
    "a constant over time": "r = Add(f, ramp)",
    "normalisation over time": "a = LayerNormalization <axis = 0> (f, ramp) r = Neg(a)",
    "convolution": "a = Transpose <perm = [1, 2, 0]> (f) b = Conv <pads = [1, 1]> (a, kernel) "
    "r = Transpose <perm = [2, 0, 1]> (b)",
    "delay": "a = Pad(f, pads_front) r = Slice(a, zero, length, zero, one)",
}
ACROSS_TIME = {
    "weights over time": "a = Transpose <perm = [1, 2, 0]> (f) b = MatMul(a, times) "
    "r = Transpose <perm = [2, 0, 1]> (b)",
    "one that is not flipped": "r = Add(f, x)",
    "flipped, moved and flipped": "a = Pad(f, pads_front) b = Slice(a, zero, length, zero, one) "
    "r = Slice(b, minus_one, start, zero, minus_one)",
    "batch for time": "a = Reshape(f, swapped_shape) b = Reshape(a, swapped_again) r = Neg(b)",
    "both axes": "a = Squeeze(f, one) b = Gather <axis = 0> (a, two_first) "
    "c = Transpose <perm = [1, 0]> (b) d = Add(b, c) e = Pad(d, pads) r = Unsqueeze(e, one)",
}


def model_of(between: str, cell: str = "GRU") -> onnx.ModelProto:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[cell]
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        m (float[{T},1,{D}] x) => (float[{T},1,{H}] y, float[1,1,{H}] last) {{
            f = Slice(x, minus_one, start, zero, minus_one)
            {between}
            out, last = {cell} <hidden_size = {H}> (r, W, R)
            z = Squeeze(out, one) n = Mul(z, two_thirds)
            y = Slice(n, minus_one, start, zero, minus_one) }}"""
    )
    generator = np.random.default_rng(0)
    integers = {
        "minus_one": [-1], "start": [-(2**40)], "zero": [0], "one": [1], "two": [2], "three": [3],
        "zero_number": 0, "flat": [T, D], "full": [T, 1, D], "swapped": [1, 0], "two_first": [1, 0],
        "swapped_shape": [D, 1, T], "swapped_again": [T, 1, D], "pads": [0, 0, T - 2, 0],
        "pads_front": [1, 0, 0, 0, 0, 0], "length": [T],
    }  # fmt: skip
    floats = {
        "row": [D], "square": [D, D], "times": [T, T], "ramp": [T, 1, D], "two_thirds": [1],
        "W": [1, gates * H, D], "R": [1, gates * H, H], "kernel": [D, D, 3],
    }  # fmt: skip
    used = {name for node in proto.graph.node for name in node.input}
    constants = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
    constants |= {
        name: generator.standard_normal(shape).astype(np.float32) / 2 for name, shape in floats.items()
    }
    constants["ones"] = np.ones(D, dtype=np.float32)
    for name in sorted(used & constants.keys()):
        proto.graph.initializer.append(numpy_helper.from_array(constants[name], name))
    return proto


def turned_and_checked(proto: onnx.ModelProto) -> ir.Model:
    """The model after it was turned around, which computes the same."""
    feed = {"x": np.random.default_rng(1).standard_normal((T, 1, D)).astype(np.float32)}
    model = normalize(proto, {"x": (T, 1, D)}, {})
    (lowered,) = lower_fused_ops(model)
    turn_around(model, set(lowered.outputs))
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    expected, actual = Reference(proto).run(feed), Reference(after).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return model


def directions(model: ir.Model) -> tuple[int, ...]:
    (scan,) = (node for node in model.graph if node.op_type == "Scan")
    return tuple(scan.attributes["scan_input_directions"].as_ints())


@pytest.mark.parametrize("cell", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("name", BY_TIME)
def test_what_works_on_every_time_alone_is_computed_without_the_flip(name: str, cell: str) -> None:
    model = turned_and_checked(model_of(BY_TIME[name], cell))
    assert directions(model) == (1,)
    steps = [node.inputs[4] for node in model.graph if node.op_type == "Slice" and len(node.inputs) > 4]
    assert not [step for step in steps if step is not None and step.name == "minus_one"]


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_keeps_the_order_of_times_leaves_the_recurrence_in_reverse(name: str) -> None:
    assert directions(turned_and_checked(model_of(IN_ORDER[name]))) == (1,)


@pytest.mark.parametrize("name", ACROSS_TIME)
def test_what_is_in_no_order_or_in_that_of_the_input_is_read_as_it_is(name: str) -> None:
    assert directions(turned_and_checked(model_of(ACROSS_TIME[name]))) == (0,)


def test_what_is_the_same_at_every_time_is_read_as_it_is() -> None:
    model = turned_and_checked(model_of("a = ReduceMean(f, zero) r = Sub(f, a)"))
    assert directions(model) == (1,)


def test_attention_reads_at_each_time_what_is_flipped() -> None:
    """Its queries are in the order of time again, its keys and values need not be."""
    attention = """a = Transpose <perm = [1, 0, 2]> (f) b = Transpose <perm = [1, 2, 0]> (f)
        c = MatMul(a, b) d = Softmax <axis = 2> (c) e = MatMul(d, a) r = Transpose <perm = [1, 0, 2]> (e)"""
    assert directions(turned_and_checked(model_of(attention))) == (1,)


class _Alternating(nn.Module):
    """The second of three layers reads from the end. Without a batch, axes come and go."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.GRU(D, H), nn.GRU(H, H), nn.GRU(H, H)])

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.layers
        return three(two(one(x)[0].flip(0))[0].flip(0))[0]


def test_a_flip_that_undoes_an_earlier_one_is_no_reverse(tmp_path: Path) -> None:
    path, given = tmp_path / "alternating.onnx", torch.zeros(T, D)
    torch.onnx.export(
        _Alternating().eval(), (given,), path, dynamo=False, opset_version=17, input_names=["x"]
    )
    found = audit(path, num_samples=1)
    expected = [Direction.FORWARD, Direction.REVERSE, Direction.FORWARD]
    assert [own.direction for own in found.recurrences] == expected


def test_what_others_read_flipped_stays_for_them() -> None:
    proto = model_of(BY_TIME["weights"])
    proto.graph.output.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [T, 1, D]))
    model = turned_and_checked(proto)
    assert directions(model) == (1,)
    assert Counter(node.op_type for node in model.graph)["MatMul"] == 2


def test_what_ran_in_reverse_over_a_flipped_sequence_runs_forward() -> None:
    proto = model_of(BY_TIME["elementwise"])
    (gru,) = (node for node in proto.graph.node if node.op_type == "GRU")
    gru.attribute.append(onnx.helper.make_attribute("direction", "reverse"))
    assert directions(turned_and_checked(proto)) == (0,)


class _BothWays(nn.Module):
    """A layer that reads x, one that reads the reverse of it, and one that reads both."""

    def __init__(self, axis: int, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.axis, self.fused = axis, fused
        both = nn.GRU(D, H, bidirectional=True, batch_first=axis == 1)
        self.both, self.forth, self.back = both, nn.GRU(D, H), nn.GRU(D, H)
        for own, suffix in ((self.forth, ""), (self.back, "_reverse")):
            own.load_state_dict({name: getattr(both, name + suffix) for name in own.state_dict()})
            own.batch_first = axis == 1
        self.top = nn.GRU(2 * H, H, batch_first=axis == 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            y = self.both(x)[0]
        else:
            y = torch.cat([self.forth(x)[0], self.back(x.flip(self.axis))[0].flip(self.axis)], -1)
        return self.top(y)[0]


def _audited(folder: Path, axis: int, fused: bool) -> Analysis:
    shape = (T, 1, D) if axis == 0 else (1, T, D)
    model, path = _BothWays(axis, fused).eval(), folder / f"{fused}.onnx"
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(model, (given,), path, dynamo=False, opset_version=17, input_names=["x"])
    return audit(path, data={"x": given[None].numpy()}, num_samples=1)


@pytest.mark.parametrize("axis", [0, 1])
def test_flips_around_a_layer_make_the_same_network_as_a_bidirectional_one(tmp_path: Path, axis: int) -> None:
    fused, flipped = (_audited(tmp_path, axis, own) for own in (True, False))
    assert [own.direction for own in flipped.recurrences] == [
        Direction.FORWARD,
        Direction.REVERSE,
        Direction.FORWARD,
    ]
    assert flipped.grid == fused.grid
    for one, two in zip(fused.layers, flipped.layers, strict=True):
        assert (one.depth_from, one.depth_times) == (two.depth_from, two.depth_times)
        assert one.time_radius == two.time_radius
        assert one.depth_gain == two.depth_gain
    assert flipped.growth == fused.growth
