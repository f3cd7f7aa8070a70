"""Operators that are torch functions of our own agree with their conformance cases, derivatives included."""

from __future__ import annotations

import conformance
import numpy as np
import onnx
import pytest
import torch

from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.functions import dft, lp_normalized


@pytest.mark.parametrize(
    "pattern",
    ["^test_(basic_)?i?dft", "^test_l[12]normalization", "^test_lpnormalization", "^test_(shape|size)_"],
)
def test_the_conformance_cases_agree(pattern: str) -> None:
    cases = list(conformance.cases(pattern))
    assert cases
    assert {conformance.check(case).status for case in cases} == {conformance.AGREES}


@pytest.mark.parametrize("length", [6, 7, 12])
def test_a_real_signal_comes_back_from_half_of_its_transform(length: int) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
        m (float[2,6,1] x) => (float[2,h,2] half, float[2,{length},1] y)
        <int64 axis = {{1}}, int64 n = {{{length}}}>
        {{ half = DFT <onesided = 1> (x, n, axis) y = DFT <onesided = 1, inverse = 1> (half, n, axis) }}"""
    x = torch.randn(2, 6, 1)
    expected = Reference(onnx.parser.parse_model(text)).run({"x": x.numpy()})
    half = dft(x, length, 1, inverse=False, onesided=True)
    y = dft(half, length, 1, inverse=True, onesided=True)
    for found, name in ((half, "half"), (y, "y")):
        np.testing.assert_allclose(found.numpy(), expected[name], atol=1e-5)


def test_vectors_of_length_zero_stay_zero_and_have_a_finite_derivative() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = lp_normalized(x, -1, 2)
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64))
    y.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
