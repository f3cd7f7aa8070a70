"""A Scan over a flipped sequence is a Scan that runs in reverse, and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.reversal import turn_around
from lsc_graph.results import Direction
from lsc_graph.running.reference import Reference

T, H = 5, 3
FLIPS = {
    "Slice": "Slice({}, minus_one, start, zero, minus_one)",
    "Gather": "Gather <axis = 0> ({}, backwards)",
    "ReverseSequence": "ReverseSequence <time_axis = 0, batch_axis = 1> ({}, lengths)",
}


def model_of(flip_in: str, flip_out: str) -> onnx.ModelProto:
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        m (float[{T},1,{H}] x, float[1,{H}] h0) => (float[{T},1,{H}] y, float[1,{H}] last) {{
            r = {flip_in.format("x")}
            last, out = Scan <num_scan_inputs = 1, body = step (float[1,{H}] h, float[1,{H}] xt)
                => (float[1,{H}] h_new, float[1,{H}] o) {{
                s = Add(h, xt) h_new = Tanh(s) o = Identity(h_new) }}> (h0, r)
            y = {flip_out.format("out")}
        }}"""
    )
    constants = {"minus_one": [-1], "start": [-(2**40)], "zero": [0], "lengths": [T]}
    constants["backwards"] = list(range(T))[::-1]
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.int64), name))
    return proto


@pytest.mark.parametrize("flip_out", [*FLIPS, "Neg", "Identity"])
@pytest.mark.parametrize("flip_in", FLIPS)
def test_the_scan_runs_in_reverse_and_flips_cancel(flip_in: str, flip_out: str) -> None:
    proto = model_of(FLIPS[flip_in], FLIPS.get(flip_out, f"{flip_out}({{}})"))
    generator = np.random.default_rng(0)
    feed = {"x": generator.standard_normal((T, 1, H)), "h0": generator.standard_normal((1, H))}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    model = normalize(proto, {name: value.shape for name, value in feed.items()}, {})
    turn_around(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    expected, actual = Reference(proto).run(feed), Reference(after).run(feed)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
    (scan,) = (node for node in model.graph if node.op_type == "Scan")
    assert scan.attributes["scan_input_directions"].as_ints() == (1,)
    assert scan.attributes["scan_output_directions"].as_ints() == (1,)
    flips = [node for node in model.graph if node.op_type in FLIPS]
    assert len(flips) == (0 if flip_out in FLIPS else 1)


def test_a_scan_that_reads_forwards_stays_as_it_is() -> None:
    model = normalize(model_of("Neg({})", "Neg({})"), {"x": (T, 1, H), "h0": (1, H)}, {})
    before = ir.to_proto(model)
    turn_around(model)
    assert ir.to_proto(model) == before


def test_the_directions_of_an_operator_over_a_flipped_sequence_have_the_names_of_their_true_ones() -> None:
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        m (float[{T},1,2] x) => (float[{T},2,1,3] y) {{
            f = Slice(x, back, end, zero, back)
            y, last = GRU <hidden_size = 3, direction = "bidirectional"> (f, W, R)
        }}"""
    )
    generator = np.random.default_rng(0)
    weights = {"W": (2, 9, 2), "R": (2, 9, 3)}
    constants = {"back": np.array([-1]), "end": np.array([-(2**40)]), "zero": np.array([0])}
    constants |= {n: generator.standard_normal(shape).astype(np.float32) for n, shape in weights.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    layers = inspect(proto).layers
    assert [own.name.rpartition(".")[2] for own in layers] == ["reverse", "forward"]


def test_constants_that_each_step_has_for_itself_do_not_make_a_reverse_recurrence_a_forward_one() -> None:
    """As quantised steps have them, which saturate within limits of their own. Readers know equal times."""
    net, size = Unroller(), 4
    x = net.input("x", T, 1, size)
    flipped = net.op("Slice", x, *(net.constant([k]) for k in (-1, -(2**62), 0, -1)))
    lower, h = net.op("MatMul", flipped, net.weight(size, size)), net.input("h", 1, size)
    u, v = net.weight(size, size), net.weight(size, size)
    back = []
    for time in range(T):
        h = net.op("Tanh", net.op("Add", at(net, lower, time), net.op("MatMul", h, u)))
        h = net.op("Clip", h, *(net.constant(np.float32(end * (1 + time))) for end in (-1, 1)))
        back.append(h)
    upper, g = [], net.input("g", 1, size)
    y = net.op("Concat", *(net.op("Unsqueeze", h, net.constant([0])) for h in back[::-1]), axis=0)
    drive, r = net.op("MatMul", y, v), net.weight(size, size)
    for time in range(T):
        g = net.op("Tanh", net.op("Add", at(net, drive, time), net.op("MatMul", g, r)))
        upper.append(g)
    net.output(stacked(net, upper))
    found = audit(net.model(), num_samples=1)
    assert [own.direction for own in found.recurrences] == [Direction.REVERSE, Direction.FORWARD]
    assert found.layers[1].depth_times == ((0,),)
