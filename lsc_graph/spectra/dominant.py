"""The eigenvalue of largest modulus of each of a batch of matrices, with its eigenvectors.

Below some size by all eigenvalues. Else a Krylov space says where it is, where the residual is next to
nothing and no other value is near in modulus. Where eigenvalues crowd, the outermost of them is looked up;
where there are too many, all eigenvalues are computed after all.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import Krylov
from lsc_graph.spectra.balancing import in_range
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.eigenvectors import Eigenvectors, eigenvectors, refined
from lsc_graph.spectra.operator import dense_operator
from lsc_graph.spectra.outermost import CAUTION, SAME, largest, outermost_values

# Beyond these a derivative is not given: to first order it says nothing that a step could follow.
MAX_CONDITION = 1e5
MAX_RESIDUAL = 1e-6
# From this size on a Krylov space costs less than all eigenvalues: of so many vectors, more for large ones.
KRYLOV_FROM = 96
_BASIS, _MAX_BASIS, _SIZE_PER_VECTOR = 64, 128, 8
# How far others may be off at least, as the largest Ritz value may be known before them, and at most: with
# more, all of them would be in question where eigenvalues crowd all around. Relative to the largest.
_OFF = 2e-3, 2e-2
# Eigenvectors of a value this near are its own.
_OWN = 1e-4


@torch.no_grad()
def dominant_eigenvectors(matrices: Tensor) -> Eigenvectors:
    """The dominant eigenvalue of matrices [P, n, n] (float64) with its eigenvectors.

    Where moduli of several are the same but for 1e-5, it may be any of these, and which one may depend on
    others in the batch. A Krylov space misses the largest one at times, by some 1e-3 of it where many moduli
    are about the same. Of a matrix that is not finite the value is nan.
    """
    finite = matrices.isfinite().flatten(1).all(1)
    unit, scales = in_range(torch.where(finite[:, None, None], matrices, 0.0))
    found = _dominant(unit)
    return replace(found, values=torch.where(finite, found.values * scales, torch.nan))


def _dominant(matrices: Tensor) -> Eigenvectors:
    if matrices.shape[-1] < KRYLOV_FROM:
        return eigenvectors(matrices, _top(matrices))
    values = _near(matrices)
    is_missing = ~values.isfinite()
    missing = is_missing.nonzero()[:, 0]
    if len(missing):
        values[missing] = _top(matrices[missing])
    pair = _pair(matrices, values)
    is_own = (pair.values - values).abs() <= _OWN * values.abs()
    at = (~(is_own & is_trusted(pair)) & ~is_missing).nonzero()[:, 0]
    return pair.with_others(at, _pair(matrices[at], _top(matrices[at]))) if len(at) else pair


def is_trusted(pair: Eigenvectors) -> Tensor:
    """Whether a derivative by these eigenvectors says something, for each of P matrices."""
    is_some = pair.values.abs() > torch.finfo(torch.float64).tiny
    return (pair.conditions < MAX_CONDITION) & (pair.residuals < MAX_RESIDUAL) & is_some


def _near(matrices: Tensor) -> Tensor:
    """What is next to the dominant eigenvalue [P]; nan where only all eigenvalues tell."""
    ritz, errors = _ritz_values(matrices)
    top = largest(ritz)
    widths = (CAUTION * errors).clamp(*_OFF)
    others = ritz.abs() >= (1 - widths[:, None]) * top.abs()[:, None]
    others &= (_upper(ritz) - _upper(top)[:, None]).abs() > SAME * top.abs()[:, None]
    at = ((errors > SAME) | others.any(1)).nonzero()[:, 0]
    if len(at):
        top[at] = outermost_values(matrices[at], ritz[at], widths[at])
    return top


def _ritz_values(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Those of a Krylov space [P, m] (complex128), and how far off the largest may be, relative to it [P]."""
    operator = dense_operator(matrices.float())
    size = min(_BASIS + operator.size // _SIZE_PER_VECTOR, _MAX_BASIS, operator.size)
    krylov = Krylov.start(operator, size, torch.Generator().manual_seed(0), is_same=True)
    krylov.grow(operator, size)
    whole = krylov.matrix.double().nan_to_num(0.0, 0.0, 0.0)
    values = eigenvalues(whole[:, :size])
    pair = eigenvectors(whole[:, :size], largest(values))
    residuals = whole[:, size, size - 1] * pair.right[:, -1].abs()
    return values, (pair.conditions * residuals / pair.values.abs()).nan_to_num(torch.inf)


def _upper(values: Tensor) -> Tensor:
    """Of conjugates the one in the upper half plane."""
    return torch.complex(values.real, values.imag.abs())


def _pair(matrices: Tensor, values: Tensor) -> Eigenvectors:
    return refined(matrices, eigenvectors(matrices, values))


def _top(matrices: Tensor) -> Tensor:
    return largest(eigenvalues(matrices))
