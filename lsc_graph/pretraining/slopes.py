"""How mean radii answer to the unknowns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsc_graph.pretraining.reading import NotFiniteError, Reading
from lsc_graph.pretraining.unknowns import Unknowns

# A radius that no unknown moves by more than this share is not moved at all.
UNMOVED = 1e-3
# So many radii, or so small gradients, are computed in one pass, if they fit in so much memory.
_MANY, _SMALL_BYTES, _MOST_BYTES = 20, 2**23, 2**28


def relative_slopes(readings: Sequence[Reading], slopes: Tensor) -> Tensor:
    """d log mean radius / d unknown."""
    means = torch.tensor([r.mean for r in readings], dtype=torch.float64)
    return slopes / means.clamp_min(1e-12)[:, None]


def are_moved(readings: Sequence[Reading], slopes: Tensor) -> Tensor:
    """Which radii [R] any unknown moves."""
    means = torch.tensor([r.mean for r in readings], dtype=torch.float64)
    found: Tensor = (relative_slopes(readings, slopes).norm(dim=1) > UNMOVED) & (means > 1e-9)
    return found


def slopes_of(readings: Sequence[Reading], leaves: Sequence[Tensor], unknowns: Unknowns) -> Tensor:
    """d mean radius / d unknown, [R, K] float64."""
    scalars = [r.derivative for r in readings if r.derivative is not None and r.derivative.requires_grad]
    gradients = iter(_gradients(scalars, leaves))
    rows = []
    with torch.no_grad():
        for reading in readings:
            depends = reading.derivative is not None and reading.derivative.requires_grad
            rows.append(unknowns.slopes(leaves, next(gradients) if depends else [None] * len(leaves)))
    slopes = torch.stack(rows) if rows else torch.zeros(0, len(unknowns), dtype=torch.float64)
    if not bool(slopes.isfinite().all()):
        raise NotFiniteError("A sensitivity is not a finite number", where="a radius's derivative")
    return slopes


def _gradients(scalars: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Sequence[Tensor | None]]:
    """Each scalar's gradients: many scalars in one pass, which costs less than walking the graph so often."""
    total_bytes = len(scalars) * sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    is_worth_it = len(scalars) >= _MANY or (len(scalars) > 1 and total_bytes <= _SMALL_BYTES)
    if is_worth_it and total_bytes <= _MOST_BYTES:
        try:
            found = torch.autograd.grad(
                torch.stack(list(scalars)),
                leaves,
                torch.eye(len(scalars), device=scalars[0].device),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
            return [[None if g is None else g[k] for g in found] for k in range(len(scalars))]
        except RuntimeError:
            pass  # an operator whose derivative cannot be mapped
    return [torch.autograd.grad(s, leaves, retain_graph=True, allow_unused=True) for s in scalars]
