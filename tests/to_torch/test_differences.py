"""Error bars that hold, and tell something: of derivatives that are known exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsc_graph.errors import TimeLimitError
from lsc_graph.running.reference import Array, Reference
from lsc_graph.to_torch.copies import Runs
from lsc_graph.to_torch.differences import Difference, Differences, differences
from lsc_graph.to_torch.free_sizes import free_sizes

N = 48
BODIES = {
    "tanh": ("y = Tanh(p)", lambda p: 1 - np.tanh(p) ** 2),
    "sigmoid": ("y = Sigmoid(p)", lambda p: 0.25 / np.cosh(p / 2) ** 2),
    "sine": ("y = Sin(p)", np.cos),
    "relu": ("y = Relu(p)", lambda p: (p > 0).astype(float)),
    "exponential": ("y = Exp(p)", np.exp),
}


def taken(body: str, point: Array, *, is_single_run: bool = False) -> tuple[Difference, Differences, Array]:
    """Differences in single precision of what follows a product, and the weights of this."""
    weights = (np.random.default_rng(0).standard_normal((N, N)) / N**0.5).astype(np.float32)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, {N}] x) => (float[1, {N}] y) {{ p = MatMul(x, w) {body} }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    record = Differences()
    runs = Runs(
        Reference(free_sizes(proto)),
        ["x"],
        np.float32,
        has_free_sizes=not is_single_run,
        bytes_per_point=lambda _: 1,
        note=record.note_run,
    )
    return differences(runs, [point.astype(np.float32)], 0, record), record, weights


@pytest.mark.parametrize("is_single_run", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 3.0])
@pytest.mark.parametrize("name", BODIES)
def test_columns_in_single_precision_are_within_their_bars(
    name: str, scale: float, *, is_single_run: bool
) -> None:
    body, slope = BODIES[name]
    point = scale * np.random.default_rng(1).standard_normal((1, N))
    found, _, weights = taken(body, point, is_single_run=is_single_run)
    product = point.astype(np.float32).astype(float) @ weights.astype(float)
    exact = slope(product[0])[:, None] * weights.T.astype(float)
    off = np.linalg.norm(found.jacobian - exact, axis=0)
    assert (off <= found.bars * (1 + 1e-5)).mean() > 0.95
    assert np.linalg.norm(off) <= np.linalg.norm(found.bars) * (1 + 1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "sine"])
def test_bars_of_smooth_functions_are_narrow_in_single_precision(name: str, scale: float) -> None:
    point = scale * np.random.default_rng(1).standard_normal((1, N))
    found, record, _ = taken(BODIES[name][0], point)
    assert record.errors[0] < 3e-4
    assert np.linalg.norm(found.bars) == pytest.approx(record.errors[0] * np.linalg.norm(found.jacobian))


@pytest.mark.parametrize(("factor", "body"), [(30, "y = Sin(q)"), (12, "y = Tanh(q)")])
def test_what_is_narrower_than_a_step_is_not_taken_for_nothing(factor: int, body: str) -> None:
    """A step of 0.2 is about a period of the sine, and wider than what lies between the ends of the tanh."""
    point = 5 * np.random.default_rng(1).standard_normal((1, N))
    found, _, _ = taken(f"t = Constant<value_float = {factor}.0>() q = Mul(x, t) {body}", point)
    inner = factor * point[0].astype(np.float32).astype(float)
    exact = np.diag(factor * (np.cos(inner) if "Sin" in body else 1 - np.tanh(inner) ** 2))
    off = np.linalg.norm(found.jacobian - exact)
    assert off <= min(np.linalg.norm(found.bars), 1e-2 * np.linalg.norm(exact))


@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-8, 1e-10])
def test_quotients_by_what_is_far_smaller_than_a_step_are_known_in_double_precision(width: float) -> None:
    """As of a normaliser that a gate has all but emptied: every larger step goes past the pole."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (double[1, 4] x, double[1, 4] c) => (double[1, 4] y) { y = Div(c, x) }"""
    record = Differences()
    reference = Reference(onnx.parser.parse_model(text))
    runs = Runs(
        reference,
        ["x", "c"],
        np.float64,
        has_free_sizes=False,
        bytes_per_point=lambda _: 1,
        note=record.note_run,
    )
    point, others = np.array([[1.0, -2.0, width, 3.0]]), np.array([[1.0, 1.0, width, 1.0]])
    found = differences(runs, [point, others], 0, record)
    exact = np.diag((-others / point**2)[0])
    off = np.linalg.norm(found.jacobian - exact, axis=0)
    assert (off <= found.bars + 1e-9 * np.linalg.norm(exact, axis=0)).all()
    assert off[2] < 1e-2 * abs(exact[2, 2])


@pytest.mark.parametrize("is_single_run", [False, True])
@pytest.mark.parametrize("width", [0.1, 0.03, 0.01, 0.003, 0.001, 1e-4])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 3.0])
def test_lines_that_are_clipped_within_a_step_are_within_their_bars(
    width: float, scale: float, *, is_single_run: bool
) -> None:
    """Shifts jump over the line, or reach into it from where nothing moves."""
    limits = f"a = Constant<value_float = {-width}>() b = Constant<value_float = {width}>()"
    point = scale * np.random.default_rng(1).standard_normal((1, N))
    found, _, weights = taken(f"{limits} y = Clip(p, a, b)", point, is_single_run=is_single_run)
    product = point.astype(np.float32).astype(float) @ weights.astype(float)
    exact = (np.abs(product[0]) < width)[:, None] * weights.T.astype(float)
    off = np.linalg.norm(found.jacobian - exact, axis=0)
    assert (off <= found.bars * (1 + 1e-5)).all()


@pytest.mark.parametrize("weight", [1e-4, 1e-2])
def test_what_rounding_swallows_is_within_the_bar(weight: float) -> None:
    """Beside 100, slopes of a hundredth move little, and smaller ones nothing at all."""
    factor = f"k = Constant<value_float = 100.0>() t = Constant<value_float = {weight}>()"
    point = 0.1 * np.random.default_rng(1).standard_normal((1, N))
    found, _, weights = taken(f"{factor} q = Mul(p, t) y = Add(q, k)", point)
    exact = weight * weights.T.astype(float)
    off = np.linalg.norm(found.jacobian - exact, axis=0)
    assert (off <= found.bars).all()


def test_columns_of_one_output_have_bars_no_shorter_than_those_of_half_of_all() -> None:
    """Of a single output, two differences may agree by chance."""
    point = np.random.default_rng(1).standard_normal((1, N))
    found, _, _ = taken("q = Sigmoid(x) o = Sub(q, x) h = Add(o, x) z = Mul(h, h) y = Add(z, o)", point)
    inner = point[0].astype(np.float32).astype(float)
    gate = 1 / (1 + np.exp(-inner))
    exact = np.diag(2 * gate * gate * (1 - gate) + gate * (1 - gate) - 1)
    off = np.linalg.norm(found.jacobian - exact, axis=0)
    assert (off <= found.bars).all()
    assert (found.bars == found.bars.min()).sum() >= N // 2
    assert np.linalg.norm(found.bars) < 1e-3 * np.linalg.norm(exact)


def test_after_the_time_that_was_allowed_there_are_no_more_runs() -> None:
    record = Differences(parts=["the part that computes y"], deadline=0.0)
    with pytest.raises(TimeLimitError, match="in the time that was allowed: the part that computes y"):
        record.note_run()
    assert record.num_runs == 0
