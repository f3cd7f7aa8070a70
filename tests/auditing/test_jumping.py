"""Jumps beside what has a derivative are named; kinks, poles and what is steep are none."""

from __future__ import annotations

import onnx
import pytest
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.auditing import jumping
from lsc_graph.auditing.flat_steps import Part

CONSTANTS = """zero = Constant<value_float=0.0>() one = Constant<value_float=1.0>()
    two = Constant<value_float=2.0>() k = Constant<value_float=0.5>() steep = Constant<value_float=300.0>()
    a = Mul(h, k) u = Add(a, x)"""
JUMPS = {
    "Mod": "r = Mod<fmod=1>(u, one) d = Mul(u, two) n = Sub(d, r)",
    "Where": "up = Greater(u, zero) v = Add(u, one) n = Where(up, v, u)",
}
NONE = {
    "a kink": "up = Greater(u, zero) n = Where(up, u, zero)",
    "a pole": "b = Reciprocal(u) n = Mul(b, k)",
    "steep": "v = Mul(u, steep) w = Tanh(v) n = Div(w, two)",
    "clipped": "n = Clip(u, zero, one)",
}


def cell(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8] x, float[1, 8] h) => (float[1, 8] h_out)
        {{ {CONSTANTS} {body} h_out = Identity(n) }}"""
    )


def jumps_of(model: onnx.ModelProto, **told: str) -> list[str]:
    found = audit(model, num_steps=8, num_samples=1, black_box="never", **told).warnings
    return [warning for warning in found if "jumps" in warning]


@pytest.mark.parametrize("operator", JUMPS)
def test_a_jump_beside_what_has_a_derivative_is_named(operator: str) -> None:
    (found,) = jumps_of(cell(JUMPS[operator]))
    assert f"({operator})" in found


@pytest.mark.parametrize("name", NONE)
def test_what_is_continuous_or_has_a_pole_does_not_jump(name: str) -> None:
    assert not jumps_of(cell(NONE[name]))


@pytest.mark.parametrize("told", [{}, {"surrogate": "triangle"}])
def test_thresholds_that_are_named_or_have_a_surrogate_are_not_named_twice(told: dict[str, str]) -> None:
    assert not jumps_of(registry.build("alif"), **told)


def test_parts_without_an_operator_that_may_jump_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Part] = []
    monkeypatch.setattr(jumping, "_jumps", lambda part: searched.append(part) or ())
    jumps_of(registry.build("gru"))
    assert not searched
    jumps_of(cell(JUMPS["Mod"]))
    assert searched
