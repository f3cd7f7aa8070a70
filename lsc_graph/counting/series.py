"""Coefficients of rational power series with integer coefficients, exactly and far out.

The paths of a time-periodic grid have the generating function P(z) / Q(z) with Q = det(I - A(z)), where A(z)
sums the hops between layers, weighted by z^lag. Its coefficient number n needs O(log n) products of
polynomials (A. Bostan, R. Mori, "A simple and fast algorithm for computing the N-th term of a linearly
recurrent sequence", SOSA 2021, arXiv 2008.08822); no earlier coefficient is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

Polynomial = list[int]
"""Integer coefficients by power; the constant one first."""


def product(p: Sequence[int], q: Sequence[int]) -> Polynomial:
    """p q, by one product of two large integers (Kronecker substitution)."""
    if not p or not q:
        return []
    top = max(map(abs, p)) * max(map(abs, q)) * min(len(p), len(q))
    if not top:
        return [0] * (len(p) + len(q) - 1)
    num_bytes = top.bit_length() // 8 + 1
    packed = _pack(p, num_bytes) * _pack(q, num_bytes)
    return _unpack(packed, num_bytes, len(p) + len(q) - 1)


def _pack(p: Sequence[int], num_bytes: int) -> int:
    """p(2^(8 num_bytes)): positive and negative coefficients apart, since bytes have no sign."""
    positive = b"".join(max(c, 0).to_bytes(num_bytes, "little") for c in p)
    negative = b"".join(max(-c, 0).to_bytes(num_bytes, "little") for c in p)
    return int.from_bytes(positive, "little") - int.from_bytes(negative, "little")


def _unpack(packed: int, num_bytes: int, length: int) -> Polynomial:
    """The inverse of `_pack`, for coefficients below 2^(8 num_bytes - 1) in size."""
    half = 1 << (8 * num_bytes - 1)
    # With half added to every coefficient none is negative, and none borrows from the next.
    shifted = packed + int.from_bytes(half.to_bytes(num_bytes, "little") * length, "little")
    data = shifted.to_bytes(num_bytes * length + 1, "little")
    starts = range(0, num_bytes * length, num_bytes)
    return [int.from_bytes(data[at : at + num_bytes], "little") - half for at in starts]


def coefficient(p: Sequence[int], q: Sequence[int], n: int) -> int:
    """The coefficient of z^n in p(z) / q(z), for q(0) = 1.

    Raises:
        ValueError: q(0) is not 1, or n is negative.
    """
    if n < 0 or q[0] != 1:
        raise ValueError(f"n = {n} and q(0) = {q[0]}, where n >= 0 and q(0) = 1 are needed")
    p, q = list(p), list(q)
    while n:
        mirrored = [-c if power % 2 else c for power, c in enumerate(q)]
        p = product(p, mirrored)[n % 2 :: 2]
        q = product(q, mirrored)[::2]
        n //= 2
    return p[0] if p else 0


def determinant(matrix: Sequence[Sequence[int]]) -> Polynomial:
    """det(I - z M) of a square integer matrix, by Faddeev and LeVerrier (every division is exact)."""
    size = len(matrix)
    coefficients = [1]
    power = [[0] * size for _ in range(size)]
    for k in range(1, size + 1):
        for i in range(size):
            power[i][i] += coefficients[-1]
        power = _times(matrix, power)
        coefficients.append(-sum(power[i][i] for i in range(size)) // k)
    return coefficients


def _times(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> list[list[int]]:
    columns = list(zip(*b, strict=True))
    return [[sum(x * y for x, y in zip(row, column, strict=True) if x) for column in columns] for row in a]


def digits(number: int) -> str:
    """All decimal digits of a number of any size, in less than quadratic time."""
    if number < 0:
        return "-" + digits(-number)
    if number.bit_length() < 12_000:
        return str(number)
    half = int(number.bit_length() * 0.30103) // 2
    high, low = divmod(number, 10**half)
    return digits(high) + digits(low).zfill(half)
