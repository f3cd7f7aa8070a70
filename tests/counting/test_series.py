"""Coefficients far out agree with those computed one after the other, and with closed forms."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsc_graph.counting.series import coefficient, determinant, digits, product

INTEGERS = st.integers(-(10**40), 10**40)
SMALL = st.lists(st.integers(-5, 5), max_size=5)


@given(st.lists(INTEGERS, max_size=6), st.lists(INTEGERS, max_size=6))
def test_a_product_is_the_convolution(p: list[int], q: list[int]) -> None:
    expected = [0] * max(len(p) + len(q) - 1, 0) if p and q else []
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            expected[i + j] += a * b
    assert product(p, q) == expected


@given(SMALL, SMALL, st.integers(0, 60))
def test_a_coefficient_is_that_of_the_recurrence(p: list[int], rest: list[int], n: int) -> None:
    q = [1, *rest]
    series: list[int] = []
    for k in range(n + 1):
        known = p[k] if k < len(p) else 0
        series.append(known - sum(q[i] * series[k - i] for i in range(1, min(k, len(rest)) + 1)))
    assert coefficient(p, q, n) == series[n]


@pytest.mark.parametrize("n", [0, 1, 10**3, 10**6])
@pytest.mark.parametrize("power", [1, 2, 10, 40])
def test_a_pole_at_one_gives_binomials(power: int, n: int) -> None:
    q = [(-1) ** k * math.comb(power, k) for k in range(power + 1)]
    assert coefficient([1], q, n) == math.comb(n + power - 1, power - 1)


@pytest.mark.parametrize(("q", "n"), [([1, -1], -1), ([2, -1], 3)])
def test_what_has_no_integer_series_is_refused(q: list[int], n: int) -> None:
    with pytest.raises(ValueError, match="are needed"):
        coefficient([1], q, n)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(-4, 4), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_the_determinant_makes_the_traces_of_powers(matrix: list[list[int]]) -> None:
    # Newton's identity: -z q'(z) = q(z) sum_k tr(M^k) z^k.
    size = len(matrix)
    q, power, traces = determinant(matrix), [[int(i == j) for j in range(size)] for i in range(size)], [0]
    for _ in range(size):
        power = [[sum(row[k] * matrix[k][j] for k in range(size)) for j in range(size)] for row in power]
        traces.append(sum(power[i][i] for i in range(size)))
    for k in range(1, size + 1):
        assert -k * q[k] == sum(q[i] * traces[k - i] for i in range(k))


@given(st.integers(-(10**4200), 10**4200))
def test_digits_are_those_of_python(number: int) -> None:
    assert digits(number) == str(number)


def test_digits_beyond_the_limit_of_python() -> None:
    assert digits(10**30_000) == "1" + "0" * 30_000
    number, limit = 3**40_000, sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert digits(number) == str(number)
    finally:
        sys.set_int_max_str_digits(limit)
