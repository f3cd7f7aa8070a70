"""Derivatives whose error bars are nearly as long as they are: gains and growth have no bars of their own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsc_graph import audit
from lsc_graph.auditing.warnings import difference_warnings
from lsc_graph.to_torch import black_box
from lsc_graph.to_torch.differences import Differences

SIZE, T = 4, 4


def small_step(scale: float) -> onnx.ModelProto:
    """h' = tanh(x + h U), U so many times a rotation: small ones are lost where x is rounded to floats."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, {SIZE}] x, float[1, {SIZE}] h) => (float[1, {SIZE}] h_out)
    {{ r = MatMul(h, U) s = Add(r, x) h_out = Tanh(s) }}"""
    proto = onnx.parser.parse_model(text)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]
    proto.graph.initializer.append(numpy_helper.from_array((scale * turn).astype(np.float32), "U"))
    return proto


@pytest.mark.parametrize(("scale", "is_known"), [(1.0, True), (1e-6, False)])
@pytest.mark.parametrize("most", [20_000, 2])
def test_gains_and_growth_of_rounding_are_warned_of(
    scale: float, most: int, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    monkeypatch.setattr(black_box, "_in_double_forms", lambda proto: iter(()))
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", most)
    found = audit(small_step(scale), num_steps=T, num_samples=1, black_box="always")
    warned = any("gains and growth may be those of errors" in words for words in found.warnings)
    assert warned != is_known


def test_how_many_are_hardly_known_is_said() -> None:
    assert difference_warnings(Differences(errors=[1e-3, 0.1])) == ()
    (words,) = difference_warnings(Differences(errors=[1e-3, 2.0, float("inf")]))
    assert words.startswith("The error bars of 2 of 3 derivatives")
    assert "up to inf times" in words
