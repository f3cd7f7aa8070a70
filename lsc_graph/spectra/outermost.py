"""The outermost of eigenvalues that crowd, among those next to values that are known roughly.

Products with a matrix alone tell eigenvalues of nearly one modulus apart only after very many of them.
Products with (M - sigma)^-1 tell those next to sigma apart after few (T. Ericsson and A. Ruhe, "The spectral
transformation Lanczos method for the numerical solution of large sparse generalized symmetric eigenvalue
problems", Mathematics of Computation 1980; of nonsymmetric matrices by Arnoldi's method). With a shift just
outside the edge, the nearest are the outermost there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import Krylov
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import Operator
from lsc_graph.spectra.resolvent import Resolvent, by_type

# Of eigenvalues whose moduli differ by less than this, relative to them, any may be taken for the outermost.
SAME = 1e-5
# Vectors of the space of each shift.
_BASIS = 16
# Where more values than so many might lead to the outermost one, all eigenvalues take no longer.
_MOST_SHIFTS = 3
# Eigenvalues up to so many times as far from the shift as the nearest one are seen as well.
_IN_SIGHT = 3.0
# Looks, each from nearer than the one before, by this factor at least; where others may be so much further
# out, none of the cases tried came to an end.
_MOST_LOOKS, _NEARER, _HOPELESS = 4, 0.25, 1e-2
# Eigenvalues may be so many times as far away as residuals say.
CAUTION = 4.0


@torch.no_grad()
def outermost_values(matrices: Tensor, rough: Tensor, widths: Tensor) -> Tensor:
    """The eigenvalue of largest modulus [P] (complex128), or one whose modulus is 1e-5 of it less.

    Args:
        matrices: [P, n, n] (float64).
        rough: approximate eigenvalues [P, m] (complex128), among which those that lead to the outermost.
        widths: those that are so much smaller than the largest, relative to it [P], do not lead there.

    Returns:
        nan where none is near the rough values, too many of these might lead to it, or eigenvalues are too
        many to be told apart.
    """
    found = torch.full((len(matrices),), torch.nan, dtype=torch.complex128)
    rough, widths, alive = rough.cpu(), widths.cpu(), torch.arange(len(matrices))
    for _ in range(_MOST_LOOKS):
        values, errors = _seen(matrices, alive, _shifts(rough, widths))
        top, worst = largest(values), errors.amax(1)
        is_near = top.abs() >= (1 - CAUTION * widths) * rough.abs().amax(1)
        is_found = is_near & (worst <= SAME)
        found[alive[is_found]] = top[is_found]
        left = (~is_found & is_near & (worst < _HOPELESS)).nonzero()[:, 0]
        if not len(left):
            break
        widths = torch.minimum(CAUTION * worst, _NEARER * widths)[left].clamp(min=SAME)
        rough, alive = values[left], alive[left]
    return handed(found, matrices.device)


def largest(values: Tensor) -> Tensor:
    """The number of largest modulus [P] of complex ones [P, m]."""
    top: Tensor = values.gather(1, values.abs().argmax(1)[:, None])[:, 0]
    return top


def _shifts(rough: Tensor, widths: Tensor) -> Tensor:
    """Shifts [P, S] just outside of what may be the outermost of each point, zeros where there are less.

    Of values that are next to each other the largest stands for all; of conjugates one does. Where there
    would be more than S, there are none.
    """
    found = torch.zeros(len(rough), _MOST_SHIFTS, dtype=rough.dtype)
    order = rough.abs().argsort(1, descending=True)
    for point, (values, width) in enumerate(
        zip(rough.gather(1, order).tolist(), widths.tolist(), strict=True)
    ):
        top = abs(values[0])
        apart: list[complex] = []
        for value in values:
            if abs(value) < (1 - width) * top:
                break
            upper = complex(value.real, abs(value.imag))
            if all(abs(upper - other) > width * top for other in apart):
                apart.append(upper)
        if len(apart) <= _MOST_SHIFTS:
            found[point, : len(apart)] = torch.tensor(apart, dtype=rough.dtype) * (1 + width)
    return found


def _seen(matrices: Tensor, numbers: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The outermost eigenvalue next to each shift [P, S], and by how much others may be further out.

    Where there is no shift, eigenvalues are zero, and others are not further out; where a point has none at
    all, they may be anywhere.

    Args:
        matrices: some of which are looked at.
        numbers: which ones [P].
        shifts: as `_shifts` gives them.
    """
    values, errors = torch.zeros_like(shifts), torch.zeros_like(shifts.real)
    errors[(shifts == 0).all(1)] = torch.inf
    points, places = shifts.nonzero(as_tuple=True)
    for at, own in by_type(shifts[points, places]):
        here = matrices[handed(numbers[points[at]], matrices.device)]
        found = _nearest(here, handed(own, matrices.device))
        values[points[at], places[at]], errors[points[at], places[at]] = (each.cpu() for each in found)
    return values, errors


def _nearest(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The outermost [K] of the eigenvalues of matrices [K, n, n] next to their shifts.

    And by how much others may be further out, as residuals say, relative to it.
    """
    resolvent, (count, size) = Resolvent.of(matrices, shifts), matrices.shape[:2]

    def apply(vectors: Tensor) -> Tensor:
        return resolvent(vectors[..., None])[..., 0]

    inverse = Operator(apply, count, size, shifts.dtype, matrices.device, lambda _: inverse)
    basis = min(_BASIS, size)
    # Not the vector that rough values are from: what that has next to nothing of, it would miss again.
    krylov = Krylov.start(inverse, basis, torch.Generator().manual_seed(1), is_same=True)
    krylov.grow(inverse, basis)
    whole = krylov.matrix.nan_to_num(0.0, 0.0, 0.0)
    inverted, vectors = torch.linalg.eig(whole[:, :basis])
    residuals = (whole[:, basis:].to(vectors.dtype) @ vectors)[:, 0].abs()
    inverted = torch.where(inverted == 0, torch.finfo(inverted.dtype).tiny, inverted)
    distances = 1 / inverted.abs()
    values, errors = shifts[:, None] + 1 / inverted, residuals * distances.square()
    is_seen = distances <= _IN_SIGHT * distances.amin(1, keepdim=True)
    top = largest(torch.where(is_seen, values, 0.0))
    reach = torch.where(is_seen, values.abs() + errors, 0.0).amax(1)
    return top, (reach / top.abs() - 1).nan_to_num(torch.inf)
