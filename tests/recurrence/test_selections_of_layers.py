"""One condition that selects the states of several layers leaves them the layers that they are without it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis

T, H = 6, 3
STATE = f"float[B, {H}]"
CELLS = """
    a = MatMul({x}, W0) b = MatMul({h}, U0) c = Add(a, b) {h_new} = Tanh(c)
    d = MatMul({h_new}, W1) e = MatMul({g}, U1) f = Add(d, e) {g_new} = Tanh(f)
"""
STEP = CELLS.format(x="x_t", h="h0", g="h1", h_new="k0", g_new="k1")
SINGLE = "s = ReduceSum<keepdims=0>(x_t) m = Less(s, level)"
KEPT = {
    "no condition": CELLS.format(x="x_t", h="h0", g="h1", h_new="h0_out", g_new="h1_out"),
    "Where": f"{SINGLE} {STEP} h0_out = Where(m, k0, h0) h1_out = Where(m, k1, h1)",
    "Where, by row": "axes = Constant<value = int64[1] {1}>() s = ReduceSum<keepdims=1>(x_t, axes) "
    f"m = Less(s, level) {STEP} h0_out = Where(m, k0, h0) h1_out = Where(m, k1, h1)",
    "arithmetic": f"{SINGLE} {STEP} yes = Cast<to = 1>(m) n = Not(m) no = Cast<to = 1>(n) a0 = Mul(yes, k0) "
    "b0 = Mul(no, h0) h0_out = Add(a0, b0) a1 = Mul(yes, k1) b1 = Mul(no, h1) h1_out = Add(a1, b1)",
    "two comparisons": f"{SINGLE} {STEP} n = GreaterOrEqual(s, level) h0_out = Where(m, k0, h0) "
    "h1_out = Where(n, h1, k1)",
    "two comparisons, as arithmetic": f"{SINGLE} {STEP} yes = Cast<to = 1>(m) n = LessOrEqual(level, s) "
    "no = Cast<to = 1>(n) a0 = Mul(yes, k0) b0 = Mul(no, h0) h0_out = Add(a0, b0) a1 = Mul(yes, k1) "
    "b1 = Mul(no, h1) h1_out = Add(a1, b1)",
    "two comparisons with equal numbers": f"i = Constant<value = float {{100.0}}>() {SINGLE} {STEP} "
    "n = Not(m) no = Cast<to = 1>(n) o = Greater(i, s) yes = Cast<to = 1>(o) a0 = Mul(yes, k0) "
    "b0 = Mul(no, h0) h0_out = Add(a0, b0) h1_out = Where(o, k1, h1)",
    "arithmetic, one minus": f"{SINGLE} {STEP} yes = Cast<to = 1>(m) i = Constant<value = float {{1.0}}>() "
    "no = Sub(i, yes) a0 = Mul(yes, k0) b0 = Mul(no, h0) h0_out = Add(a0, b0) a1 = Mul(yes, k1) "
    "b1 = Mul(no, h1) h1_out = Add(b1, a1)",
    "arithmetic, one minus a whole number": f"{SINGLE} {STEP} w = Cast<to = 7>(m) yes = Cast<to = 1>(w) "
    "i = Constant<value = int64 {1}>() v = Sub(i, w) no = Cast<to = 1>(v) a0 = Mul(yes, k0) "
    "b0 = Mul(no, h0) h0_out = Add(a0, b0) a1 = Mul(yes, k1) b1 = Mul(no, h1) h1_out = Add(b1, a1)",
    "arithmetic, numbers chosen": f"{SINGLE} {STEP} i = Constant<value = float {{1.0}}>() "
    "o = Constant<value = float {0.0}>() n = Not(m) yes = Where(m, i, o) no = Where(n, i, o) "
    "a0 = Mul(yes, k0) b0 = Mul(no, h0) h0_out = Add(a0, b0) v = Where(m, o, i) u = Sub(i, v) "
    "a1 = Mul(u, k1) b1 = Mul(v, h1) h1_out = Add(b1, a1)",
    "a step towards": f"{SINGLE} {STEP} yes = Cast<to = 1>(m) a0 = Sub(k0, h0) b0 = Mul(yes, a0) "
    "h0_out = Add(h0, b0) a1 = Sub(k1, h1) b1 = Mul(a1, yes) h1_out = Add(b1, h1)",
    "a step back": f"{SINGLE} {STEP} n = Not(m) no = Cast<to = 1>(n) a0 = Sub(h0, k0) b0 = Mul(no, a0) "
    "h0_out = Add(k0, b0) a1 = Sub(h1, k1) b1 = Mul(a1, no) h1_out = Add(b1, k1)",
    "zeros in place of one or the other": f"{SINGLE} {STEP} o = Constant<value = float {{0.0}}>() n = Not(m) "
    "v = Cast<to = 9>(n) a0 = Where(v, o, k0) b0 = Where(m, o, h0) h0_out = Add(a0, b0) "
    "a1 = Where(m, k1, o) b1 = Where(v, h1, o) h1_out = Add(b1, a1)",
    "If": f"{SINGLE} h0_out, h1_out = If (m) <then_branch = new () => ({STATE} k0, {STATE} k1) {{{STEP}}}, "
    f"else_branch = old () => ({STATE} o0, {STATE} o1) {{o0 = Identity(h0) o1 = Identity(h1)}}>",
    "one cell or another": f"{SINGLE} h0_out, h1_out = If (m) <then_branch = new () => "
    f"({STATE} k0, {STATE} k1) {{{STEP}}}, else_branch = other () => ({STATE} p0, {STATE} p1) {{"
    + STEP.replace("k0", "p0").replace("k1", "p1").replace("Tanh", "Sigmoid")
    + "}>",
}
MIXED = {
    "mean over rows": "first = Constant<value = int64[1] {0}>() "
    + KEPT["Where, by row"]
    .replace("Tanh(c)", "Tanh(c) mean = ReduceMean(k0, first)")
    .replace("MatMul(k0, W1)", "MatMul(mean, W1)")
}


def scanned(kept: str, batch: int) -> onnx.ModelProto:
    body = f"step ({STATE} h0, {STATE} h1, {STATE} x_t) => ({STATE} h0_out, {STATE} h1_out, {STATE} y)"
    nodes = f"{(KEPT | MIXED).get(kept, kept)} y = Identity(h1_out)"
    text = f"h0_last, h1_last, ys = Scan<num_scan_inputs = 1, body = {body} {{{nodes}}}>"
    return model_of(
        f"(float[{T}, {batch}, {H}] x) => (float[{T}, {batch}, {H}] ys)", f"{text} (z, z, x)", batch
    )


def packed(kept: str, batch: int) -> onnx.ModelProto:
    """Both states in one tensor that every step takes apart."""
    both, number = f"float[2, B, {H}]", "Constant<value = int64 {%d}>()"
    body = f"step ({both} h, {STATE} x_t) => ({both} h_out, {STATE} y)"
    apart = f"n0 = {number % 0} n1 = {number % 1} h0 = Gather<axis = 0>(h, n0) h1 = Gather<axis = 0>(h, n1)"
    one = "first = Constant<value = int64[1] {0}>()"
    joined = (
        f"{one} p0 = Unsqueeze(h0_out, first) p1 = Unsqueeze(h1_out, first) h_out = Concat<axis = 0>(p0, p1)"
    )
    nodes = f"{apart} {KEPT.get(kept, kept)} {joined} y = Identity(h1_out)"
    start = f"{one.replace('first', 'ahead')} z0 = Unsqueeze(z, ahead) zs = Concat<axis = 0>(z0, z0)"
    text = f"{start} h_last, ys = Scan<num_scan_inputs = 1, body = {body} {{{nodes}}}>(zs, x)"
    return model_of(f"(float[{T}, {batch}, {H}] x) => (float[{T}, {batch}, {H}] ys)", text, batch)


def streaming(kept: str, batch: int, num_layers: int = 2) -> onnx.ModelProto:
    state = f"float[{batch}, {H}]"
    befores, afters = (", ".join(f"{state} h{k}{end}" for k in range(num_layers)) for end in ("", "_out"))
    text = f"{KEPT.get(kept, kept)} y = Identity(h{num_layers - 1}_out)"
    return model_of(f"({state} x_t, {befores}) => ({state} y, {afters})", text, batch)


def unrolled(kept: str, batch: int, num_layers: int = 2) -> onnx.ModelProto:
    """The steps one after another in the main graph."""
    step = streaming(kept, batch, num_layers).graph
    fixed = {tensor.name: tensor.name for tensor in step.initializer}
    slices = " ".join(f"x_{t} = Gather<axis = 0>(x, at_{t})" for t in range(T))
    rows = ", ".join(f"y.{t}" for t in range(T))
    signature = f"(float[{T}, {batch}, {H}] x) => (float[{T * batch}, {H}] ys)"
    model = model_of(signature, f"{slices} ys = Concat<axis = 0>({rows.replace('.', '_')})", batch)
    model.graph.initializer.extend(numpy_helper.from_array(np.array(t), f"at_{t}") for t in range(T))
    *gathers, joined = model.graph.node
    last, nodes = {f"h{k}": "z" for k in range(num_layers)}, list(gathers)
    for t in range(T):
        names = fixed | last | {"x_t": f"x_{t}"}
        for node in step.node:
            own = onnx.NodeProto()
            own.CopyFrom(node)
            own.input[:] = [names.get(name, f"{name}_{t}") for name in node.input]
            own.output[:] = [f"{name}_{t}" for name in node.output]
            nodes.append(own)
        last = {f"h{k}": f"h{k}_out_{t}" for k in range(num_layers)}
    del model.graph.node[:]
    model.graph.node.extend([*nodes, joined])
    return model


def model_of(signature: str, nodes: str, batch: int) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 18]> g {signature} {{{nodes}}}'
    model = parser.parse_model(text)
    draw = np.random.default_rng(0).standard_normal
    tensors = {name: draw((H, H)).astype(np.float32) for name in ("W0", "U0", "W1", "U1")}
    tensors |= {"z": np.zeros((batch, H), np.float32), "level": np.array(100, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(own, name) for name, own in tensors.items())
    return model


def figures(found: Analysis) -> list[float]:
    values = []
    for layer in found.layers:
        assert layer.time_radius
        values += [layer.state_size, layer.time_radius.mean, *(edge.gain.mean for edge in layer.depth_edges)]
    return values


@pytest.mark.parametrize("written", [scanned, packed, streaming])
@pytest.mark.parametrize("kept", [kept for kept in KEPT if kept != "no condition"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_layer_above_reads_the_selected_state(written: object, kept: str, batch: int) -> None:
    assert callable(written)
    expected, found = (
        audit(written(how, batch), num_samples=1, num_steps=T) for how in ("no condition", kept)
    )
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),)]
    assert found.grid.num_gradient_paths == expected.grid.num_gradient_paths == str(T)
    assert figures(found) == pytest.approx(figures(expected), rel=1e-5)


@pytest.mark.parametrize("kept", [kept for kept in KEPT if "If" not in KEPT[kept]])
@pytest.mark.parametrize("batch", [1, 2])
def test_so_it_does_where_steps_are_written_out(kept: str, batch: int) -> None:
    expected = audit(scanned("no condition", batch), num_samples=1)
    found = audit(unrolled(kept, batch), num_samples=1)
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),)]
    assert found.grid.num_gradient_paths == expected.grid.num_gradient_paths == str(T)
    assert figures(found) == pytest.approx(figures(expected), rel=1e-5)


@pytest.mark.parametrize("kept", ["Where, by row", "a step towards"])
def test_so_it_does_where_what_it_reads_goes_on_to_a_third_layer(kept: str) -> None:
    third = "p = MatMul(k1, W0) q = MatMul(h2, U1) r = Add(p, q) k2 = Tanh(r) "
    third += {"Where, by row": "h2_out = Where(m, k2, h2)"}.get(
        kept, "a2 = Sub(k2, h2) b2 = Mul(yes, a2) h2_out = Add(h2, b2)"
    )
    found = audit(unrolled(f"{KEPT[kept]} {third}", 2, num_layers=3), num_samples=1)
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),), ((0,),)]
    assert found.grid.num_gradient_paths == str(T * (T + 1) // 2)


CUT = {
    "Split": "p, q = Split<axis = 1, num_outputs = 2>(d2)",
    "Slice": "zero = Constant<value = int64[1] {0}>() half = Constant<value = int64[1] {3}>() "
    "full = Constant<value = int64[1] {6}>() last = Constant<value = int64[1] {-1}>() "
    "p = Slice(d2, zero, half, last) q = Slice(d2, half, full, last)",
    "Softmax": "p = Softmax(k0) q = LogSoftmax<axis = 1>(k0)",
    "axes in front": "first = Constant<value = int64[1] {0}>() u = Unsqueeze(d2, first) v = Tanh(u) "
    "w = Squeeze(v, first) p, q = Split<axis = 1, num_outputs = 2>(w)",
}


@pytest.mark.parametrize("written", [scanned, streaming])
@pytest.mark.parametrize("how", CUT)
@pytest.mark.parametrize("kept", ["no condition", "Where, by row"])
def test_rows_that_are_joined_or_cut_into_gates_are_read_from_the_selected_state(
    written: object, how: str, kept: str
) -> None:
    assert callable(written)
    gates = f"d2 = Concat<axis = -1>(k0, x_t) {CUT[how]} d1 = Mul(p, q) d = MatMul(d1, W1)"
    found = audit(written(KEPT[kept].replace("d = MatMul(k0, W1)", gates), 2), num_samples=1, num_steps=T)
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),)]


def test_rows_that_change_places_are_not() -> None:
    """The other row may hold an old state where this one is selected."""
    turned = "zero = Constant<value = int64[1] {-1}>() low = Constant<value = int64[1] {-9}>() "
    turned += (
        "first = Constant<value = int64[1] {0}>() p = Slice(k0, zero, low, first, zero) d = MatMul(p, W1)"
    )
    found = audit(
        scanned(KEPT["Where, by row"].replace("d = MatMul(k0, W1)", turned), 2), num_samples=1, num_steps=T
    )
    assert found.layers[1].depth_times == ((-1,),)


def test_rows_that_a_layer_mixes_are_read_before_they_are_selected() -> None:
    """Where the condition differs from row to row, a mean over rows is no mean of the selected state."""
    found = audit(scanned("mean over rows", 2), num_samples=1)
    assert found.layers[1].depth_times == ((-1,),)


@pytest.mark.parametrize("written", [scanned, streaming])
@pytest.mark.parametrize("bound", ["Log(k0)", "Sqrt(k0)", "Div(one, k0)"])
def test_what_has_no_gradient_at_the_old_state_is_not_read_from_it(written: object, bound: str) -> None:
    """The old state is zero where a first step is skipped: there is no logarithm of it, nor a gradient."""
    assert callable(written)
    cell = KEPT["Where"].replace("Tanh(c)", f"Exp(c) one = Constant<value_float = 1.0>() r = {bound}")
    model = written(cell.replace("MatMul(k0, W1)", "MatMul(r, W1)"), 1)
    (level,) = (own for own in model.graph.initializer if own.name == "level")
    level.CopyFrom(numpy_helper.from_array(np.array(-100, np.float32), "level"))
    found = audit(model, num_samples=1, num_steps=T)
    assert [layer.state_size for layer in found.layers] == [H, H]
