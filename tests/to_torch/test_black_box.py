"""Pieces that run in ONNX Runtime alone have the derivatives that torch gives, within their error bars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import real_models
import torch
from lsc_graph.models import registry
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.audit_model import audit
from lsc_graph.errors import ConversionError, LimitExceededError
from lsc_graph.jacobians import local, pushes
from lsc_graph.results import Analysis, RadiusOutcome, Statistics
from lsc_graph.to_torch import black_box
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.differences import Difference, Differences

N, M = 5, 4
TEXT = f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, {N}] a, float[{N}] b, int64[1] i) => (float[1, {M}] y, float[1, {N}] z, bool[1, {N}] positive)
{{
    c = Mul(a, b)
    z = Tanh(c)
    m = MatMul(z, w)
    picked = Gather<axis = 1>(z, i)
    y = Add(m, picked)
    zero = Constant<value = float {{0.0}}>()
    positive = Greater(a, zero)
}}
"""
W = np.random.default_rng(0).standard_normal((N, M)).astype(np.float32)


def piece() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(W, "w"))
    return proto


def in_torch(a: Tensor, b: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.tanh(a * b)
    return z @ torch.from_numpy(W) + z.index_select(1, i), z, a > 0


def points(count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lead = () if count is None else (count,)
    a = torch.randn(*lead, 1, N, generator=generator)
    return a, torch.randn(N, generator=generator), torch.tensor([2])


def pulled(
    function: Callable[..., tuple[Tensor, ...]], a: Tensor, b: Tensor, i: Tensor
) -> tuple[Tensor, ...]:
    """Rows of d y / d a and d y / d b by one pull-back for each element of y."""
    basis = torch.eye(M).reshape(M, 1, M)
    _, pull = vjp(lambda a, b: function(a, b, i)[:2], a, b)
    return vmap(lambda row: pull((row, torch.zeros(1, N))))(basis)


def test_values_are_those_of_the_model() -> None:
    ours, theirs = BlackBox(piece(), Differences())(*points()), in_torch(*points())
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its)


def test_pulled_back_rows_are_those_of_autograd() -> None:
    record = Differences()
    box = BlackBox(piece(), record)
    for mine, its in zip(pulled(box, *points()), pulled(in_torch, *points()), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    assert record.has_double
    assert max(record.errors) < 1e-5


def test_many_points_at_once_are_those_points_one_by_one() -> None:
    box, (a, b, i) = BlackBox(piece(), Differences()), points(3)
    together = vmap(lambda one: pulled(box, one, b, i))(a)
    for number in range(3):
        for mine, its in zip(together, pulled(in_torch, a[number], b, i), strict=True):
            torch.testing.assert_close(mine[number], its, rtol=1e-5, atol=1e-6)


def test_a_batch_inside_of_the_gradient_gives_the_gradient_of_the_batch() -> None:
    box, (a, b, i) = BlackBox(piece(), Differences()), points(3)

    def total(function: Callable[..., tuple[Tensor, ...]], a: Tensor, b: Tensor) -> Tensor:
        return vmap(lambda one: function(one, b, i)[0])(a).square().sum()

    for mine, its in zip(
        torch.func.grad(lambda a, b: total(box, a, b), (0, 1))(a, b),
        torch.func.grad(lambda a, b: total(in_torch, a, b), (0, 1))(a, b),
        strict=True,
    ):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.02, 0.1])
def test_steps_of_quantisation_stay_within_the_bar(scale: float) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = {"scale": np.array(scale, np.float32), "zero": np.array(0, np.int8)}
    assert_within_the_bar(nodes, constants)


def test_rounding_to_half_precision_stays_within_the_bar() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    ]
    assert_within_the_bar(nodes, {})


def assert_within_the_bar(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Pieces whose derivative is the identity."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [40])] for name in "xy"]
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "piece", *ends, given)
    record = Differences()
    box = BlackBox(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), record
    )
    x = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    off = np.linalg.norm(box.jacobian([x], [0])[0] - np.eye(40)) / 40**0.5
    assert 0 < off < record.errors[0]


@pytest.mark.parametrize(("where", "is_kink"), [(0.0, True), (1e-4, False), (-1e-4, False), (0.5, False)])
def test_the_error_bar_reaches_both_slopes_of_a_kink(where: float, *, is_kink: bool) -> None:
    shaped = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["a"], ["y"])
    graph = helper.make_graph(
        [node], "kink", [shaped("a", TensorProto.FLOAT, [3])], [shaped("y", TensorProto.FLOAT, [3])]
    )
    record = Differences()
    box = BlackBox(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), record
    )
    point = np.array([where, 1.0, 2.0], np.float32)
    jacobian = box.jacobian([point], [0])[0]
    bar = record.errors[0] * np.linalg.norm(jacobian)
    sides = (0.0, 1.0) if is_kink else (float(where > 0),)
    slopes = [np.diag([slope, 1.0, 1.0]) for slope in sides]
    assert all(np.linalg.norm(jacobian - slope) <= bar * (1 + 1e-6) + 1e-9 for slope in slopes)
    assert (bar > 0.4) == is_kink


def test_derivatives_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the whole derivative would not fit: 9 outputs by 10 elements."""
    monkeypatch.setattr(black_box, "MAX_BYTES", 8 * 9 * 10 - 1)
    with pytest.raises(LimitExceededError, match="10 elements to differentiate 9 by"):
        BlackBox(piece(), Differences()).jacobian([value.numpy() for value in points()], (0, 1))


def agree(one: Analysis, other: Analysis) -> None:
    """Radii and gains of both within the error bar of finite differences, which one kink may make wide."""
    assert other.black_box is not None
    bar = min(max(other.black_box.max_relative_error, 1e-6), 1e-3)
    for a, b in zip(one.layers, other.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, rel=bar, abs=bar), quantity
    assert one.growth.measured_log10 == pytest.approx(other.growth.measured_log10, abs=0.05)


@pytest.mark.parametrize(
    "name", ["gru", "scan_gru", "tanh_rnn", "lru", "bidirectional_lstm", "feed_forward_sin"]
)
def test_reference_models_have_the_same_radii_in_both_modes(name: str) -> None:
    steps = 4 if registry.card(name).forms else None
    model = registry.build(name)
    one, other = (audit(model, num_steps=steps, num_samples=1, black_box=use) for use in ("never", "always"))
    assert one.black_box is None
    agree(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in real_models.NAMES if name.startswith("silero")])
def test_all_exports_of_a_real_network_have_the_same_radii_in_both_modes(name: str) -> None:
    model = real_models.real_model(name)
    one, other = (audit(model, num_steps=4, num_samples=1, black_box=use) for use in ("never", "always"))
    agree(one, other)
    assert_within_the_bars(other, one)
    assert other.black_box is not None
    assert other.black_box.precision == "float64"
    assert not any(outcome.num_unknown for outcome in other.radii)


def agree_by_products(one: Analysis, other: Analysis) -> None:
    """Radii and gains of a model of too many elements, and its growth, which is measured the other way."""
    assert any("measured forwards" in words for words in other.warnings)
    for a, b in zip(one.layers, other.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, rel=1e-5, abs=1e-5), quantity
    assert (one.growth.dt, one.growth.dl) == (other.growth.dt, other.growth.dl)
    assert one.growth.measured_log10 == pytest.approx(other.growth.measured_log10, abs=0.05)
    assert one.growth.paths_log10 == other.growth.paths_log10


@pytest.mark.parametrize(
    "name", ["gru", "scan_gru", "streaming_gru", "bidirectional_lstm", "tanh_rnn", "feed_forward_sin"]
)
def test_elements_that_are_too_many_to_differentiate_by_are_audited_by_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 4)
    is_deep = name == "feed_forward_sin"
    model = registry.build(name, hidden_size=12, **({"num_layers": 6} if is_deep else {}))
    steps = None if is_deep else 3
    one, other = (audit(model, num_steps=steps, num_samples=1, black_box=use) for use in ("never", "always"))
    agree_by_products(one, other)


@pytest.mark.parametrize("is_single", [False, True])
@pytest.mark.parametrize("name", ["scan_gru", "lstm"])
def test_radii_by_krylov_spaces_of_products_are_within_their_bars(
    name: str, monkeypatch: pytest.MonkeyPatch, *, is_single: bool
) -> None:
    model = registry.build(name, hidden_size=20)
    exact = audit(model, num_steps=4, num_samples=1, radius_method="dense", black_box="never")
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 8)
    monkeypatch.setattr(pushes, "MAX_BUILT", 8)
    if is_single:
        only_single(monkeypatch)
    found = audit(model, num_steps=4, num_samples=1, black_box="always")
    assert {method for own in found.radii for method in own.methods} == {"arnoldi"}
    assert_within_the_bars(found, exact)
    assert all(own.num_converged == own.num_points for own in found.radii)
    assert max(own.max_difference_error or 0.0 for own in found.radii) < (0.02 if is_single else 1e-4)
    for a, b in zip(exact.layers, found.layers, strict=True):
        assert a.time_gain is not None
        assert b.time_gain is not None
        assert a.time_gain.mean == pytest.approx(b.time_gain.mean, rel=0.05)
    assert exact.growth.measured_log10 == pytest.approx(found.growth.measured_log10, abs=0.05)


def test_a_far_from_normal_radius_by_products_has_the_bar_of_its_condition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_single(monkeypatch)
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    monkeypatch.setattr(pushes, "MAX_BUILT", 2)
    triangular = np.diag([0.9, 0.5, -0.3, 0.1]) + np.triu(np.full((4, 4), 8.0), 1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    weights = (turn @ triangular @ turn.T).astype(np.float32)
    (outcome,) = (found := audit(linear_step(weights), num_steps=5, num_samples=1, black_box="always")).radii
    mean = radius_of(found, outcome)
    assert mean is not None
    assert outcome.max_difference_error is not None
    exact = np.abs(np.linalg.eigvals(weights.astype(np.float64))).max()
    assert 1e-7 < abs(mean.mean - exact) <= outcome.max_difference_error * mean.mean < 0.5 * mean.mean


def test_a_defective_eigenvalue_by_products_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    only_single(monkeypatch)
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    monkeypatch.setattr(pushes, "MAX_BUILT", 2)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    nilpotent = turn @ np.diag(np.ones(5), 1) @ turn.T
    found = audit(linear_step(nilpotent), num_steps=4, num_samples=1, black_box="always")
    (outcome,) = found.radii
    assert outcome.num_converged == 0
    assert found.layers[0].time_radius is None


def scan_with_an_operator_of_onnx_runtime() -> onnx.ModelProto:
    """h' = QuickGelu(x W + h U) in a Scan; QuickGelu belongs to ONNX Runtime alone."""
    draw = np.random.default_rng(0).standard_normal
    weights = {"W": draw((N, N)) / 2, "U": draw((N, N)) / 2}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x_t", "W"], ["d"]),
            helper.make_node("MatMul", ["h", "U"], ["r"]),
            helper.make_node("Add", ["d", "r"], ["s"]),
            helper.make_node("QuickGelu", ["s"], ["h_new"], domain="com.microsoft", alpha=1.5),
            helper.make_node("Identity", ["h_new"], ["y_t"]),
        ],
        "step",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, N]) for name in ("h", "x_t")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, N]) for name in ("h_new", "y_t")],
    )
    graph = helper.make_graph(
        [helper.make_node("Scan", ["h0", "x"], ["h_last", "y"], "scan", body=body, num_scan_inputs=1)],
        "g",
        [
            helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, N]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 1, N]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 1, N])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_recurrence_that_torch_cannot_represent_is_audited_all_the_same() -> None:
    model = scan_with_an_operator_of_onnx_runtime()
    x = np.random.default_rng(1).standard_normal((6, 1, N)).astype(np.float32)
    data = {"x": x, "h0": np.zeros((1, N), np.float32)}
    analysis = audit(model, data=data, num_samples=1)
    assert analysis.black_box is not None
    assert "QuickGelu" in analysis.black_box.reason
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}

    def step(h: Tensor, x_t: Tensor) -> Tensor:
        s = x_t @ stored["W"] + h @ stored["U"]
        return s * torch.sigmoid(1.5 * s)

    h, radii = torch.zeros(N), []
    for time in range(6):
        x_t = torch.from_numpy(x[time, 0])
        jacobian = torch.func.jacrev(step)(h, x_t)
        radii.append(float(torch.linalg.eigvals(jacobian.double()).abs().max()))
        h = step(h, x_t)
    (layer,) = analysis.layers
    assert layer.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(np.mean(radii[1:]), rel=1e-3)


def test_without_black_boxes_it_is_refused() -> None:
    with pytest.raises(ConversionError, match="QuickGelu"):
        audit(scan_with_an_operator_of_onnx_runtime(), num_samples=1, black_box="never")


def test_inputs_that_nothing_reads_cost_no_runs() -> None:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Tanh", ["x"], ["y"])],
        "main",
        [info("unused", 1, [1000]), info("x", 1, [3])],
        [info("y", 1, [3])],
    )
    record = Differences()
    opsets = [onnx.helper.make_opsetid("", 18)]
    box = BlackBox(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), record)
    unused, x = torch.ones(1000, requires_grad=True), torch.tensor([0.1, -0.2, 0.3], requires_grad=True)
    (y,) = box(unused, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()) ** 2, rtol=1e-5, atol=1e-6)
    assert unused.grad is None
    assert record.num_runs == 2 + 4 * 3


def test_scalars_stay_scalars() -> None:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Exp", ["x"], ["y"])], "main", [info("x", 1, [])], [info("y", 1, [])]
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    box = BlackBox(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), Differences())
    (y,) = box(torch.tensor(0.5))
    assert y.shape == ()
    (rows,) = torch.func.vmap(box)(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(rows, torch.tensor([1.0, np.e]), check_dtype=False)


def streaming_with_an_operator_of_onnx_runtime() -> onnx.ModelProto:
    """One step of the same cell, its sums by FusedMatMul: onnx infers no shapes of either operator."""
    nodes = [
        helper.make_node("FusedMatMul", ["x_t", "W"], ["d"], domain="com.microsoft", alpha=0.5),
        helper.make_node("FusedMatMul", ["h", "U"], ["r"], domain="com.microsoft", transB=1),
        helper.make_node("Add", ["d", "r"], ["s"]),
        helper.make_node("QuickGelu", ["s"], ["h_new"], domain="com.microsoft", alpha=1.5),
    ]
    draw = np.random.default_rng(0).standard_normal
    stored = {name: (draw((N, N)) / 2).astype(np.float32) for name in ("W", "U")}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, N]) for name in ("x_t", "h")],
        [helper.make_tensor_value_info("h_new", TensorProto.FLOAT, [1, N])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_streaming_state_whose_shape_only_a_run_tells_is_a_state() -> None:
    model = streaming_with_an_operator_of_onnx_runtime()
    found = audit(model, num_steps=4, num_samples=1, states=[("h", "h_new")])
    assert found.black_box is not None
    (layer,) = found.layers
    assert layer.state_size == N
    assert layer.time_radius is not None
    recurrent = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "U")
    # The slope of QuickGelu lies between -0.1 and 1.1.
    assert 0 < layer.time_radius.mean < 1.1 * np.linalg.norm(recurrent, 2)


def test_a_step_that_large_elements_make_wide_is_narrowed_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tanh at 0.5 beside elements of 100."""
    only_single(monkeypatch)
    shaped = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Mul", ["t", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [shaped("a", TensorProto.FLOAT, [1, 1, 3])],
        [shaped("y", TensorProto.FLOAT, [1, 1, 3])],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "scale")],
    )
    record = Differences()
    opsets = [helper.make_opsetid("", 17)]
    box = BlackBox(helper.make_model(graph, opset_imports=opsets, ir_version=8), record)
    jacobian = box.jacobian([np.array([[[0.5, -100.0, 100.0]]], np.float32)], [0])[0]
    expected = np.diag([1 - np.tanh(0.5) ** 2, 0.0, 0.0])
    bar = record.errors[0] * np.linalg.norm(jacobian)
    assert not record.has_double
    assert np.linalg.norm(jacobian - expected) <= bar
    assert record.errors[0] < 0.1


def test_what_has_no_kernel_in_double_precision_is_written_out() -> None:
    """ONNX Runtime has Softplus for single precision alone; ONNX defines it by Exp and Log."""
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    gate (float[1, 4] a) => (float[1, 4] y) { s = Softplus(a) y = Tanh(s) }
    """
    record = Differences()
    a = np.array([[-9.0, -0.5, 0.3, 4.0]])
    jacobian = BlackBox(onnx.parser.parse_model(text), record).jacobian([a.astype(np.float32)], [0])[0]
    a = a.astype(np.float32).astype(np.float64)
    slopes = (1 - np.tanh(np.log1p(np.exp(a))) ** 2) / (1 + np.exp(-a))
    assert record.has_double
    np.testing.assert_allclose(np.diagonal(jacobian), slopes[0], rtol=1e-8)


@pytest.mark.parametrize("opset", [8, 17, 22])
def test_convolutions_are_differentiated_in_double_precision(opset: int) -> None:
    """ONNX Runtime has Conv for single precision alone."""
    proto = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        cell (float[1, 2, 5] x, float[3, 2, 3] w) => (float[1, 3, 5] y) {{
            c = Conv<pads = [1, 1]>(x, w)
            y = Tanh(c)
        }}
        """
    )
    record, random = Differences(), np.random.default_rng(0)
    values = [random.standard_normal(shape).astype(np.float32) for shape in ((1, 2, 5), (3, 2, 3))]
    found = BlackBox(proto, record).jacobian(values, [0, 1])

    def in_double(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(torch.nn.functional.conv1d(x, w, padding=1))

    exact = torch.func.jacrev(in_double, (0, 1))(*(torch.from_numpy(own).double() for own in values))
    assert record.has_double
    for index, own in enumerate(exact):
        np.testing.assert_allclose(found[index], own.reshape(15, -1), rtol=1e-7, atol=1e-9)


def only_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ONNX Runtime had the kernels of no piece in double precision."""
    monkeypatch.setattr(black_box, "_in_double_forms", lambda proto: iter(()))


def radius_of(found: Analysis, outcome: RadiusOutcome) -> Statistics | None:
    layer = next(layer for layer in found.layers if layer.id == outcome.target)
    if outcome.source == outcome.target:
        return layer.time_radius
    return next(edge.radius for edge in layer.depth_edges if edge.source == outcome.source)


@pytest.mark.parametrize("name", ["gru", "lstm", "relu_rnn", "lru", "slstm", "streaming_gru", "residual_mlp"])
def test_radii_in_single_precision_are_within_their_bars(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = None if name == "residual_mlp" else 4
    model = registry.build(name)
    exact = audit(model, num_steps=steps, num_samples=1, radius_method="dense")
    only_single(monkeypatch)
    found = audit(model, num_steps=steps, num_samples=1, radius_method="dense", black_box="always")
    assert found.black_box is not None
    assert found.black_box.precision == "float32"
    assert_within_the_bars(found, exact)


def assert_within_the_bars(found: Analysis, exact: Analysis) -> None:
    for own in found.radii:
        mine, its = radius_of(found, own), radius_of(exact, own)
        if own.num_unknown:
            continue
        assert mine is not None
        assert its is not None
        assert own.max_difference_error is not None
        # The other one is of autograd's single precision.
        bar = own.max_difference_error + (own.max_error or 0.0) + 1e-5
        assert abs(mine.mean - its.mean) <= bar * its.mean, own


def linear_step(weights: np.ndarray) -> onnx.ModelProto:
    """h' = h U + x, one step of a streaming model."""
    size = len(weights)
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, {size}] x, float[1, {size}] h) => (float[1, {size}] h_out)
    {{
        r = MatMul(h, U)
        h_out = Add(r, x)
    }}
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "U"))
    return proto


def test_the_bar_of_a_far_from_normal_cell_is_that_of_its_jacobian_times_its_condition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upper triangular, turned: the radius is 0.9, whatever stands above the diagonal."""
    only_single(monkeypatch)
    triangular = np.diag([0.9, 0.5, -0.3, 0.1]) + np.triu(np.full((4, 4), 8.0), 1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    weights = (turn @ triangular @ turn.T).astype(np.float32)
    found = audit(linear_step(weights), num_steps=5, num_samples=1, black_box="always")
    assert found.black_box is not None
    (outcome,) = found.radii
    mean = radius_of(found, outcome)
    assert mean is not None
    assert outcome.num_unknown == 0
    assert outcome.max_difference_error is not None
    assert 1 > outcome.max_difference_error > 30 * found.black_box.max_relative_error
    exact = np.abs(np.linalg.eigvals(weights.astype(np.float64))).max()
    assert exact == pytest.approx(0.9, abs=1e-3)
    assert 1e-6 < abs(mean.mean - exact) <= outcome.max_difference_error * mean.mean


def test_layers_that_are_known_by_products_have_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    only_single(monkeypatch)
    monkeypatch.setattr(local, "MAPS_FROM", 4)
    triangular = np.diag([0.9, 0.5, -0.3, 0.1]) + np.triu(np.full((4, 4), 8.0), 1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    weights = (turn @ triangular @ turn.T).astype(np.float32)
    found = audit(linear_step(weights), num_steps=5, num_samples=1, black_box="always")
    (outcome,) = found.radii
    mean = radius_of(found, outcome)
    assert mean is not None
    assert outcome.max_difference_error is not None
    exact = np.abs(np.linalg.eigvals(weights.astype(np.float64))).max()
    assert 1e-6 < abs(mean.mean - exact) <= outcome.max_difference_error * mean.mean < mean.mean


def test_depth_edges_that_are_known_by_products_have_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("gru", hidden_size=24)
    exact = audit(model, num_steps=3, num_samples=1, radius_method="dense")
    only_single(monkeypatch)
    monkeypatch.setattr(local, "MAPS_FROM", 24)
    found = audit(model, num_steps=3, num_samples=1, black_box="always")
    assert len([own for own in found.radii if own.source != own.target]) == 1
    assert_within_the_bars(found, exact)
    assert max(own.max_difference_error or 0.0 for own in found.radii) < 0.1


@pytest.mark.parametrize("maps_from", [3, 512])
def test_a_defective_eigenvalue_of_a_black_box_is_unknown(
    maps_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAPS_FROM", maps_from)
    only_single(monkeypatch)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    nilpotent = turn @ np.diag(np.ones(5), 1) @ turn.T
    found = audit(linear_step(nilpotent), num_steps=4, num_samples=1, black_box="always")
    (outcome,) = found.radii
    assert outcome.num_unknown == outcome.num_points
    assert outcome.num_converged == 0
    assert found.layers[0].time_radius is None
    assert any("is unknown at 3 of 3 points" in words for words in found.warnings)


def test_jacobians_that_are_asked_for_again_cost_no_runs() -> None:
    record = Differences()
    box = BlackBox(piece(), record)
    first = pulled(box, *points())
    count = record.num_runs
    second = pulled(box, *points())
    with record.changed():
        third, again = pulled(box, *points()), pulled(box, *points())
    assert record.num_runs == count
    for one, two, three, four in zip(first, second, third, again, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(three, four)


def test_changed_jacobians_are_as_far_off_as_the_bars_and_zero_where_nothing_moves() -> None:
    jacobian = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    has_moved = np.array([[True, True, True], [True, False, True]])
    known = Difference(jacobian, np.array([0.1, 0.2, 0.3]), has_moved)
    change = known.changed(0) - jacobian
    np.testing.assert_allclose(np.linalg.norm(change, axis=0), known.bars)
    assert not change[~has_moved].any()
    assert not np.array_equal(known.changed(1), known.changed(0))


def test_long_differences_say_how_many_runs_there_have_been() -> None:
    record, said = Differences(), list[int]()
    record.progress = said.append
    box = BlackBox(piece(), record)
    for seed in range(4):
        box.jacobian([torch.randn(1, N).numpy() + seed, *(value.numpy() for value in points()[1:])], (0, 1))
    assert record.num_runs > 64
    assert said == list(range(64, record.num_runs + 1, 64))


@pytest.mark.filterwarnings("error")
def test_infinite_elements_leave_the_derivatives_of_others_as_they_are() -> None:
    """A mask of a maximum: one element stays minus infinity, and so does what is put out for it."""
    graph = helper.make_graph(
        [helper.make_node("Max", ["a", "m"], ["y"]), helper.make_node("Add", ["a", "m"], ["z"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("a", "m")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("y", "z")],
    )
    box = BlackBox(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), Differences()
    )
    a, m = (np.array(own, np.float32) for own in ([1.0, -1.0, 2.0], [0.0, 3.0, -np.inf]))
    jacobians = box.jacobian([a, m], (0, 1))
    assert jacobians[0] == pytest.approx(np.array([*np.diag([1.0, 0, 1]), *np.diag([1.0, 1, 0])]), abs=1e-9)
    known = jacobians[1][:, :2]
    assert known == pytest.approx(np.array([*np.diag([0.0, 1, 0]), *np.diag([1.0, 1, 0])])[:, :2], abs=1e-9)
    assert np.isnan(jacobians[1][:, 2]).all()


def test_a_cell_whose_batch_mixes_is_audited_as_in_torch() -> None:
    """Sums are normalised over the entries of a batch of three: no copies can be put beside them."""
    size, batch = 10, 3
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[{batch}, {size}] x, float[{batch}, {size}] h) => (float[{batch}, {size}] h_out)
    {{
        r = MatMul(h, U)
        s = Add(r, x)
        m = ReduceMean<axes = [0]>(s)
        c = Sub(s, m)
        h_out = Tanh(c)
    }}
    """
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((size, size)) / size**0.5
    proto.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "U"))
    one, other = (audit(proto, num_steps=4, num_samples=1, black_box=use) for use in ("never", "always"))
    agree(one, other)
    assert other.black_box is not None
    # At each of four steps four runs for each of thirty elements.
    assert other.black_box.num_runs > 4 * 4 * size * batch
