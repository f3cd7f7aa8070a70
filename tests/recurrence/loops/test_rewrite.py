"""Loops as exporters write them become Scans that compute the same in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from lsc_graph.canonical.normalize import normalize, simplify
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.recurrence.loops.lists import read_lists_as_tensors
from lsc_graph.recurrence.loops.rewrite import LoweredLoop, length_of, lower_loops
from lsc_graph.recurrence.weights import trained_tensors
from lsc_graph.results import Refusal
from lsc_graph.running.reference import Reference

T, B, D, H = 6, 2, 3, 4
HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
WEIGHTS = {"w": (D, H), "u": (H, H)}


def model_of(text: str, constants: dict[str, object] | None = None) -> onnx.ModelProto:
    """A model from ONNX text; w [D,H] and u [H,H] are its weights."""
    proto = parse_model(HEADER + text)
    generator = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        value = (0.4 * generator.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    for name, value in (constants or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(proto)
    return proto


def lowered(
    proto: onnx.ModelProto, *, runs: bool = True
) -> tuple[ir.Model, tuple[LoweredLoop, ...], tuple[Refusal, ...]]:
    """Lower a model's loops, and check that nothing it computes has changed."""
    generator = np.random.default_rng(1)
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    read_lists_as_tensors(model)
    loops, refusals = lower_loops(model, (lambda part: Reference(part).run(feed)) if runs else None, simplify)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    expected, actual = Reference(proto).run(feed), Reference(after).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return model, loops, refusals


def scan_of(loops: Sequence[LoweredLoop]) -> ir.Node:
    (loop,) = loops
    assert loop.scan.op_type == "Scan"
    return loop.scan


CELL = "a = MatMul(xt, w) b = MatMul(h, u) s = Add(a, b) h_new = Tanh(s)"


def test_a_counted_loop_that_reads_the_sequence_from_outside() -> None:
    """As torch.jit writes it."""
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{T},{B},{H}] y, float[{B},{H}] last) {{
            last, y = Loop (trips, go, h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new, float[{B},{H}] out) {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c) out = Identity(h_new) }}>
        }}""",
        {"trips": np.int64(T), "go": np.bool_(True)},
    )
    _, loops, _ = lowered(proto)
    scan = scan_of(loops)
    assert (loops[0].num_steps, loops[0].counted) == (T, None)
    assert [value.name for value in scan.inputs if value is not None] == ["h0", "x"]


def test_weights_sequences_and_counters_that_are_carried_are_no_states() -> None:
    """As lax.scan is written: everything is loop-carried."""
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{T},{B},{H}] y) {{
            u_, x_, w_, i_, last, y = Loop (trips, go, u, x, w, zero, h0) <body = step (
                    int64 t, bool c, float[{H},{H}] ub, float[{T},{B},{D}] xb, float[{D},{H}] wb, int64 i,
                    float[{B},{H}] h)
                => (bool c_out, float[{H},{H}] u_out, float[{T},{B},{D}] x_out, float[{D},{H}] w_out,
                    int64 i_out, float[{B},{H}] h_out, float[{B},{H}] out) {{
                xt = Gather <axis = 0> (xb, i) a = MatMul(xt, wb) b = MatMul(h, ub) s = Add(a, b)
                h_new = Tanh(s) c_out = Identity(c) u_out = Identity(ub) x_out = Identity(xb)
                w_out = Identity(wb) i_out = Add(i, one) h_out = Cast <to = 1> (h_new)
                out = Identity(h_out) }}>
        }}""",
        {"trips": np.int64(T), "go": np.bool_(True), "zero": np.int64(0), "one": np.int64(1)},
    )
    model, loops, _ = lowered(proto)
    scan = scan_of(loops)
    assert [value.name for value in scan.inputs if value is not None] == ["h0", "x"]
    assert loops[0].state_names == ("h",)
    assert {"u", "w"} <= set(model.graph.initializers)


@pytest.mark.parametrize("limit", ["trips", ""])
def test_a_loop_ended_by_its_counter(limit: str) -> None:
    """As while_loop is written: the end is a comparison, the read a Slice at a computed start."""
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{B},{H}] last) {{
            i_, last = Loop ({limit}, go, zero, h0) <body = step (
                    int64 t, bool c, int64 i, float[{B},{H}] h)
                => (bool c_out, int64 i_out, float[{B},{H}] h_new) {{
                start = Unsqueeze(i, axes) end = Add(start, axes_1)
                piece = Slice(x, start, end, axes) xt = Squeeze(piece, axes) {CELL}
                i_out = Add(i, one) c_out = Less(i_out, five) }}>
        }}""",
        {
            "trips": np.int64(2**62), "go": np.bool_(True), "zero": np.int64(0), "one": np.int64(1),
            "five": np.int64(5), "axes": np.array([0]), "axes_1": np.array([1]),
        },
    )  # fmt: skip
    _, loops, _ = lowered(proto)
    assert (loops[0].num_steps, loops[0].counted) == (5, None)


def test_a_loop_that_counts_down_is_a_reverse_scan() -> None:
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{B},{H}] last) {{
            last = Loop (trips, go, h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                i = Sub(five, t) xt = Gather <axis = 0> (x, i) {CELL} c_out = Identity(c) }}>
        }}""",
        {"trips": np.int64(T), "go": np.bool_(True), "five": np.int64(5)},
    )
    _, loops, _ = lowered(proto)
    assert scan_of(loops).attributes["scan_input_directions"].as_ints() == (1,)


def test_results_written_into_a_buffer_are_a_scanned_output() -> None:
    """As y[t] = h and ys.at[t].set(h) are written."""
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{T},{B},{H}] y) {{
            zeros = ConstantOfShape(shape)
            last, y = Loop (trips, go, h0, zeros) <body = step (
                    int64 t, bool c, float[{B},{H}] h, float[{T},{B},{H}] ys)
                => (bool c_out, float[{B},{H}] h_new, float[{T},{B},{H}] ys_out) {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c) row = Reshape(t, row_shape)
                filled = Unsqueeze(h_new, axes) ys_out = ScatterND(ys, row, filled) }}>
        }}""",
        {
            "trips": np.int64(T), "go": np.bool_(True), "shape": np.array([T, B, H]),
            "row_shape": np.array([1, 1]), "axes": np.array([0]),
        },
    )  # fmt: skip
    _, loops, _ = lowered(proto)
    assert loops[0].state_names == ("h",)


@pytest.mark.parametrize("new_axis", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_results_appended_to_a_list_are_a_scanned_output(new_axis: int, axis: int) -> None:
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[N,M,K] y) {{
            empty = SequenceEmpty()
            last, ys = Loop (trips, go, h0, empty) <body = step (
                    int64 t, bool c, float[{B},{H}] h, seq(float[]) s_in)
                => (bool c_out, float[{B},{H}] h_new, seq(float[]) s_out) {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c)
                s_out = SequenceInsert(s_in, h_new) }}>
            y = ConcatFromSequence <axis = {axis}, new_axis = {new_axis}> (ys)
        }}""".replace("[N,M,K]", "[N,M,K]" if new_axis else "[N,M]"),
        {"trips": np.int64(T), "go": np.bool_(True)},
    )
    _, loops, _ = lowered(proto)
    assert loops[0].state_names == ("h",)


def test_a_list_of_results_is_read_item_by_item() -> None:
    """The last one alone, and all of them by a loop of the next layer."""
    lists = f"seq(float[]) s_in) => (bool c_out, float[{B},{H}] h_new, seq(float[]) s_out)"
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[N,M] y, float[N,M] z) {{
            empty = SequenceEmpty()
            first, ys = Loop (trips, go, h0, empty) <body = lower (
                    int64 t, bool c, float[{B},{H}] h, {lists} {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c)
                s_out = SequenceInsert(s_in, h_new) }}>
            length = SequenceLength(ys)
            second, zs = Loop (length, go, h0, empty) <body = upper (
                    int64 t, bool c, float[{B},{H}] h, {lists} {{
                xt = SequenceAt(ys, t)
                a = MatMul(xt, u) b = MatMul(h, u) s = Add(a, b) h_new = Tanh(s) c_out = Identity(c)
                s_out = SequenceInsert(s_in, h_new) }}>
            y = SequenceAt(ys, end)
            z = SequenceAt(zs, end)
        }}""",
        {"trips": np.int64(T), "go": np.bool_(True), "end": np.int64(-1)},
    )
    model, loops, refusals = lowered(proto)
    assert ([loop.num_steps for loop in loops], refusals) == ([T, T], ())
    assert not [node for node in model.graph.all_nodes() if node.op_type.startswith("Sequence")]
    ends = [node.inputs[1] for node in model.graph if node.op_type == "Gather"]
    known = [end.const_value.numpy() for end in ends if end is not None and end.const_value is not None]
    assert [int(end) for end in known] == [T - 1] * 2


@pytest.mark.parametrize("start_rows", [0, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_results_joined_to_a_growing_tensor_are_a_scanned_output(start_rows: int, axis: int) -> None:
    start = np.ones((start_rows, H) if axis == 0 else (B, start_rows * H), dtype=np.float32)
    size = "b" if axis == 0 else "c"
    text = f"""
    agraph (float[{T}, {B}, {D}] x, float[{B}, {H}] h0) => (float[r, c] ys)
    {{
        trips = Constant<value = int64 {{{T}}}>()
        yes = Constant<value = bool {{1}}>()
        h_last, ys = Loop (trips, yes, h0, start) <body = step
            (int64 t, bool go, float[{B}, {H}] h, float[{size}, k] grown)
            => (bool go_on, float[{B}, {H}] new, float[r2, c2] longer)
            {{
                go_on = Identity(go)
                x_t = Gather<axis = 0>(x, t)
                drive = MatMul(x_t, w)
                back = MatMul(h, u)
                total = Add(drive, back)
                new = Tanh(total)
                longer = Concat<axis = {axis}>(grown, new)
            }}>
    }}
    """
    _, loops, refusals = lowered(model_of(text, {"start": start}))
    assert not refusals
    assert loops[0].state_names == ("h",)
    assert len(scan_of(loops).outputs) == 2


def test_tied_layers_in_a_loop_are_a_recurrence_over_depth() -> None:
    proto = model_of(
        f"""m (float[{B},{H}] h0) => (float[{B},{H}] last) {{
            last = Loop (trips, go, h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                b = MatMul(h, u) h_new = Tanh(b) c_out = Identity(c) }}>
        }}""",
        {"trips": np.int64(T), "go": np.bool_(True)},
    )
    (site,) = prepare(proto, Request(None, {}, {}, (), {})).findings.sites
    assert site.over_depth


def test_layers_whose_stacked_weights_are_scanned_are_a_recurrence_over_depth() -> None:
    """As lax.scan over layers is written."""
    proto = model_of(
        f"""m (float[{B},{H}] h0) => (float[{B},{H}] last) {{
            last = Loop (trips, go, h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                own = Gather <axis = 0> (stacked, t) b = MatMul(h, own) h_new = Tanh(b)
                c_out = Identity(c) }}>
        }}""",
        {
            "trips": np.int64(T),
            "go": np.bool_(True),
            "stacked": np.tile(np.random.default_rng(0).random((1, H, H), np.float32), (T, 1, 1)),
        },
    )
    found = prepare(proto, Request(None, {}, {}, (), {})).findings
    (site,) = found.sites
    assert site.over_depth
    assert trained_tensors(found.model.graph, site) == ("stacked",)


def test_an_iteration_without_weights_is_no_recurrence() -> None:
    """Newton's method for the square root, on what a layer gives."""
    proto = model_of(
        f"""m (float[{B},{D}] x) => (float[{B},{H}] last) {{
            a = MatMul(x, w) a2 = Mul(a, a) p = Add(a2, tiny)
            r = Loop (trips, go, p) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                h2 = Add(h, tiny) q = Div(h, h2) s = Add(h, q) h_new = Mul(s, half) c_out = Identity(c) }}>
            last = MatMul(r, u)
        }}""",
        {
            "trips": np.int64(T),
            "go": np.bool_(True),
            "half": np.float32(0.5),
            "tiny": np.float32(1e-3),
        },
    )
    found = prepare(proto, Request(None, {}, {}, (), {})).findings
    assert not found.sites
    assert "train no weight" in found.refusals[0].reason


def test_floating_point_counters_and_values_that_only_the_end_reads_are_no_states() -> None:
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{B},{H}] last) {{
            n_, old_, last = Loop (, go, zero, h0, h0) <body = step (
                    int64 t, bool c, float n, float[{B},{H}] old, float[{B},{H}] h)
                => (bool c_out, float n_out, float[{B},{H}] old_out, float[{B},{H}] h_new) {{
                i = Cast <to = 7> (n) xi = Gather <axis = 0> (x, i) n_out = Add(n, one) xt = Div(xi, n_out)
                {CELL} old_out = Identity(h) c_out = Less(n_out, end) }}>
        }}""",
        {"go": np.bool_(True), "zero": np.float32(0), "one": np.float32(1), "end": np.float32(T)},
    )
    _, loops, _ = lowered(proto)
    assert loops[0].num_steps == T
    assert loops[0].state_names == ("h",)


def test_a_buffer_that_is_filled_element_by_element_is_an_output() -> None:
    """As lax.dynamic_update_index_in_dim is written: an index for every element of the row."""
    rows = np.stack(np.meshgrid(np.arange(B), np.arange(H), indexing="ij"), -1).reshape(-1, 2)
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{T},{B},{H}] y) {{
            y, last = Loop (trips, go, empty, h0) <body = step (
                    int64 t, bool c, float[{T},{B},{H}] buffer, float[{B},{H}] h)
                => (bool c_out, float[{T},{B},{H}] filled, float[{B},{H}] h_new) {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c)
                first = Expand(t, column) index = Concat <axis = 1> (first, rows)
                flat = Reshape(h_new, all) filled = ScatterND(buffer, index, flat) }}>
        }}""",
        {
            "trips": np.int64(T),
            "go": np.bool_(True),
            "empty": np.zeros((T, B, H), np.float32),
            "column": np.array([B * H, 1]),
            "rows": rows,
            "all": np.array([-1]),
        },
    )
    _, loops, _ = lowered(proto)
    assert loops[0].state_names == ("h",)


def fixpoint() -> onnx.ModelProto:
    return model_of(
        f"""m (float[{B},{H}] h0) => (float[{B},{H}] last) {{
            last = Loop (, go, h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                b = MatMul(h, u) s = Tanh(b) h_new = Mul(s, half) d = Sub(h_new, h)
                n = ReduceL1 <keepdims = 0> (d) c_out = Greater(n, small) }}>
        }}""",
        {"go": np.bool_(True), "half": np.float32(0.5), "small": np.float32(1e-3)},
    )


def test_a_loop_that_data_end_is_counted_in_a_run() -> None:
    _, loops, _ = lowered(fixpoint())
    assert loops[0].counted is not None
    assert loops[0].num_steps > 2


def test_a_loop_that_data_end_is_refused_where_nothing_can_be_run() -> None:
    _, loops, refusals = lowered(fixpoint(), runs=False)
    assert loops == ()
    assert "depends on the data" in refusals[0].reason


def test_a_loop_whose_state_grows_is_refused() -> None:
    proto = model_of(
        f"""m (float[{B},{H}] h0) => (float[N,{H}] last) {{
            last = Loop (trips, go, h0) <body = step (int64 t, bool c, float[n,{H}] h)
                => (bool c_out, float[m,{H}] h_new) {{
                b = MatMul(h, u) h_new = Concat <axis = 0> (b, h) c_out = Identity(c) }}>
        }}""",
        {"trips": np.int64(3), "go": np.bool_(True)},
    )
    _, loops, refusals = lowered(proto)
    assert loops == ()
    assert "changes its shape" in refusals[0].reason


def test_a_loop_that_carries_a_list_is_refused_with_what_to_do() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {
        n = Constant<value_int = 3>() zero = Constant<value_int = 0>() yes = Constant<value = bool {1}>()
        start = SequenceConstruct(x)
        last = Loop<body = step (int64 i, bool c, seq(float[2]) q) => (bool go, seq(float[2]) q_out) {
            h = SequenceAt(q, zero) t = Tanh(h) q_out = SequenceConstruct(t) go = Identity(c)
        }> (n, yes, start)
        y = SequenceAt(last, zero)
    }"""
    _, loops, refusals = lowered(onnx.parser.parse_model(text))
    assert not loops
    assert "which is no tensor but a list" in refusals[0].reason


def test_a_loop_that_would_run_for_ever_is_refused_before_it_runs() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Tanh", ["h"], ["h_out"])],
        "step",
        [
            helper.make_tensor_value_info("t", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [2]),
        ],
    )
    node = helper.make_node("Loop", ["", "", "x"], ["y"], name="endless", body=body)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "main", values[:1], values[1:])
    model = normalize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), {"x": (2,)}, {})
    loops, refusals = lower_loops(model, None, simplify)
    assert loops == ()
    assert "too long" in refusals[0].reason


def test_the_length_of_a_loop_is_known_without_running_it() -> None:
    proto = model_of(
        f"""m (float[{T},{B},{D}] x, float[{B},{H}] h0) => (float[{B},{H}] last) {{
            shape = Shape(x) trips = Gather <axis = 0> (shape, zero)
            last = Loop (trips, , h0) <body = step (int64 t, bool c, float[{B},{H}] h)
                => (bool c_out, float[{B},{H}] h_new) {{
                xt = Gather <axis = 0> (x, t) {CELL} c_out = Identity(c) }}>
        }}""",
        {"zero": np.int64(0)},
    )
    model = normalize(proto, {"x": (T, B, D), "h0": (B, H)}, {})
    assert length_of(model, next(node for node in model.graph if node.op_type == "Loop")) == T
