"""Thresholds in graphs get a derivative, wherever a number is made of them, and keep their values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.thresholds import cut_points
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.segment import Parameters, Segment
from lsc_graph.to_torch.surrogates import DEFAULTS, DOMAIN, Shape, Surrogate, parse_surrogate, use_surrogate

SURROGATE = Surrogate(Shape.TRIANGLE, 0.5, 0.25)
X = torch.tensor([-1.5, -0.25, 0.5, 1.25])
THETA = 0.125


def slope(u: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 - 0.25 * u.abs()).clamp(min=0)


SPIKE = (THETA < X).float()
D_SPIKE = slope(X - THETA)
FORMS = {
    "cast": ("s = Greater(x, theta)  y = Cast<to = 1>(s)", D_SPIKE),
    "less": ("s = Less(x, theta)  y = Cast<to = 1>(s)", -D_SPIKE),
    "not": ("s = LessOrEqual(x, theta)  n = Not(s)  y = Cast<to = 1>(n)", D_SPIKE),
    "and": (
        "s = Greater(x, theta)  a = And(s, mask)  y = Cast<to = 1>(a)",
        D_SPIKE * torch.tensor([1, 0, 1, 0]),
    ),
    "or": (
        "s = Greater(x, theta)  a = Or(mask, s)  y = Cast<to = 1>(a)",
        D_SPIKE * torch.tensor([0, 1, 0, 1]),
    ),
    "xor": (
        "s = Greater(x, theta)  a = Xor(s, mask)  y = Cast<to = 1>(a)",
        D_SPIKE * torch.tensor([-1, 1, -1, 1]),
    ),
    "integers": ("s = Greater(x, theta)  i = Cast<to = 7>(s)  y = Cast<to = 1>(i)", D_SPIKE),
    "doubles": ("s = Greater(x, theta)  d = Cast<to = 11>(s)  y = Cast<to = 1>(d)", D_SPIKE),
    "selected or not": ("s = Greater(x, theta)  y = Where(s, one, zero)", D_SPIKE),
    "selected": ("s = Greater(x, theta)  y = Where(s, three, one)", 2 * D_SPIKE),
    "sign": ("c = Sub(x, theta)  y = Sign(c)", 2 * D_SPIKE),
    "reshaped": (
        "s = Greater(x, theta)  r = Unsqueeze(s, axes)  q = Squeeze(r, axes)  y = Cast<to = 1>(q)",
        D_SPIKE,
    ),
}


def model_of(body: str) -> onnx.ModelProto:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y)
    <float theta = {{{THETA}}}, bool[4] mask = {{1, 0, 1, 0}}, float three = {{3.0}},
     float one = {{1.0}}, float zero = {{0.0}},
     int64[1] axes = {{0}}>
    {{ {body} }}
    """
    return onnx.parser.parse_model(text)


def with_surrogate(body: str) -> tuple[Segment, int]:
    model = normalize(model_of(body), {"x": (4,)}, {})
    done = use_surrogate(model.graph, model.graph.inputs, SURROGATE)
    opsets = {**model.opset_imports, DOMAIN: 1}
    return Segment(model.graph, ["x"], ["y"], opsets=opsets, parameters=Parameters()), len(done)


@pytest.mark.parametrize("form", FORMS)
def test_values_stay_and_the_derivative_is_the_surrogates(form: str) -> None:
    body, expected = FORMS[form]
    segment, count = with_surrogate(body)
    x = X.clone().requires_grad_()
    (y,) = segment(x)
    np.testing.assert_array_equal(y.detach(), Reference(model_of(body)).run({"x": X.numpy()})["y"])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert count == 1


@pytest.mark.parametrize(
    "body",
    [
        "s = Equal(x, theta)  y = Cast<to = 1>(s)",
        "y = Round(x)",
        "s = Greater(x, theta)  n = Neg(x)  y = Where(s, x, n)",
    ],
)
def test_what_is_no_threshold_is_left_alone(body: str) -> None:
    model = normalize(model_of(body), {"x": (4,)}, {})
    before = ir.to_proto(model).SerializeToString()
    assert use_surrogate(model.graph, model.graph.inputs, SURROGATE) == ()
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize(
    "logic", ["a = And(s, t)", "a = Or(s, t)", "r = Xor(s, t)  a = Not(r)", "a = And(s, s)"]
)
def test_no_threshold_that_has_a_derivative_is_left_behind(logic: str) -> None:
    body = f"s = Greater(x, theta)  t = Less(x, one)  {logic}  y = Cast<to = 1>(a)"
    model = normalize(model_of(body), {"x": (4,)}, {})
    assert use_surrogate(model.graph, model.graph.inputs, SURROGATE)
    assert cut_points(model.graph, model.graph.inputs) == []


def test_defaults_belong_to_a_shape_and_may_be_overruled() -> None:
    for shape, (dampening, sharpness) in DEFAULTS.items():
        assert parse_surrogate(shape.value) == Surrogate(shape, dampening, sharpness)
        assert parse_surrogate(shape.value, 2.0, 3.0) == Surrogate(shape, 2.0, 3.0)
    assert parse_surrogate(None) is parse_surrogate("none") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("square",), "no such surrogate"),
        (("none", 1.0), "belong to a surrogate"),
        (("triangle", -1.0), "positive"),
    ],
)
def test_wrong_requests_are_refused(arguments: tuple[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_surrogate(*arguments)
