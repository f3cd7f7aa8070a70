"""The conformance cases of the onnx package: each agrees with what it ships, or is refused by name."""

from __future__ import annotations

import re
from functools import cache

import conformance
import conformance_vjp
import pytest

from lsc_graph.to_torch.segment import BlackBoxUse


@cache
def all_cases() -> tuple[conformance.Case, ...]:
    return tuple(conformance.cases())


@pytest.mark.slow
def test_conformance_cases_agree_or_are_refused_by_what_is_not_understood() -> None:
    outcomes = [conformance.check(case) for case in all_cases()]
    assert {own.name: own.reason for own in outcomes if own.status == conformance.WRONG} == {}
    assert sum(own.status == conformance.AGREES for own in outcomes) > 0.7 * len(outcomes) > 1000
    assert [own.name for own in outcomes if not own.is_named] == []


@pytest.mark.slow
def test_derivatives_of_a_sample_of_operators_agree_with_finite_differences() -> None:
    sample = [case for case in all_cases()[::5] if conformance.check(case).status == conformance.AGREES]
    found = {case.name: conformance.check_vjp(case) for case in sample}
    assert {name: reason for name, (status, reason) in found.items() if status == conformance_vjp.WRONG} == {}
    assert sum(status == conformance_vjp.AGREES for status, _ in found.values()) > 100


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_resize_downsample_scales_cubic$", "Resize.*scales that do not divide"),
        ("test_scatternd_max$", "ScatterND.*max, which cannot be differentiated"),
        ("test_maxunpool_export_with_output_shape$", "MaxUnpool.*output shape"),
        ("test_eyelike_with_dtype$", "EyeLike.*k or dtype"),
        ("test_bernoulli$", "Bernoulli.*random"),
    ],
)
def test_an_unfaithful_conversion_is_refused_by_operator_and_option(name: str, reason: str) -> None:
    (case,) = conformance.cases(name)
    outcome = conformance.check_once(case, (), BlackBoxUse.NEVER)
    assert outcome.status == conformance.REFUSED
    assert re.search(reason, outcome.reason)
