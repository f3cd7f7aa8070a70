"""Operators said in other words, so that their conversion computes the same."""

from __future__ import annotations

import conformance
import pytest


@pytest.mark.parametrize(
    "pattern",
    [
        "^test_constant_pad_(negative_)?axes(_cpu)?$",
        "^test_swish(_cpu)?$",
        "^test_cumsum_1d_int32(_exclusive)?(_cpu)?$",
    ],
)
def test_a_rewritten_operator_agrees_with_its_conformance_cases(pattern: str) -> None:
    cases = list(conformance.cases(pattern))
    assert cases
    assert {conformance.check(case).status for case in cases} == {conformance.AGREES}
