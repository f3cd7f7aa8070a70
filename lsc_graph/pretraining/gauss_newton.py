"""One damped Gauss-Newton step of least norm, and estimates that remember (Kalman filters)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# How far the prediction of a single change is off, as a share of the change, and that of many in a row.
_PREDICTION_ERROR, _PART_ERROR = 0.15, 0.3
_PARTS, _LONG = (0.2, 1.5), 0.2
# A reading further off than so many standard deviations is no chance.
_SURPRISE = 2.0
# After a move a reading counts by this share at least: predictions may fail again and again the same way.
_LEAST_TRUST = 0.15


def least_norm_step(sensitivities: Tensor, residuals: Tensor, damping: float) -> Tensor:
    """The smallest u with J u = -r, damped: -J^T (J J^T + damping mean(diag) I)^-1 r.

    Args:
        sensitivities: J [R, K], d log radius / d unknown.
        residuals: r [R], log radius - log target.
        damping: relative to the mean squared norm of a row.
    """
    gram = sensitivities @ sensitivities.T
    scale = gram.diagonal().mean().clamp_min(1e-30)
    system = gram + damping * scale * torch.eye(len(gram), dtype=gram.dtype)
    step: Tensor = -sensitivities.T @ torch.linalg.solve(system, residuals)
    return step


def units_of(sensitivities: Tensor) -> Tensor:
    """For each unknown [K] what moves no log radius by more than one, and at most one.

    The smallest step in units of their own would be made of those few that move most for their size. These
    are mostly shifts of small numbers: by many times these numbers, where no derivative holds any more.
    """
    return 1 / sensitivities.abs().amax(0).clamp_min(1.0)


def unattainable_share(sensitivities: Tensor, residuals: Tensor) -> Tensor:
    """For each residual, the share of it that no choice of the unknowns removes to first order."""
    left, values, _ = torch.linalg.svd(sensitivities, full_matrices=False)
    basis = left[:, values > 1e-3 * values.max().clamp_min(1e-30)]
    rest = residuals - basis @ (basis.T @ residuals)
    share: Tensor = rest.abs() / residuals.abs().clamp_min(1e-12)
    return share


def nearest_rows(sensitivities: Tensor) -> list[int | None]:
    """For each row the other one that points most nearly along it, either way; None where there is none."""
    if len(sensitivities) < 2:
        return [None] * len(sensitivities)
    rows = sensitivities / sensitivities.norm(dim=1, keepdim=True).clamp_min(1e-30)
    cosines = (rows @ rows.T).abs().fill_diagonal_(-1)
    found: list[int | None] = cosines.argmax(1).tolist()
    return found


@dataclass
class Tracker:
    """Running estimates of log radius - log target, one for each edge.

    Each iteration looks at other points, so that a single reading is noisy; between readings the weights
    change, so that plain averages lag. A Kalman filter for each edge moves its estimate by the predicted
    change, and weighs it against the new reading by their variances. Derivatives leave out what a change
    does by way of earlier steps, so that changes come in part only, and that part is estimated too: what
    noise hides in each step shows in their sum.

    Derivatives that leave nothing out are followed by whole changes. What these miss then is a share of each,
    and all edges tell together how large it is: single ones would take their noise for it.

    Attributes:
        error: [R], what is estimated.
        variance: [R], of it.
        has_moved: whether the weights changed since the last reading.
        part: [R], how much comes of what is planned.
        part_variance: [R], of it.
        shared: [R], the covariance of error and part.
        whole: [R], the change since the last reading, if it was to come whole.
        missed: the mean square of what whole changes miss, as a share of them.
    """

    error: Tensor | None = None
    variance: Tensor = field(default_factory=lambda: torch.zeros(0))
    has_moved: bool = False
    part: Tensor = field(default_factory=lambda: torch.zeros(0))
    part_variance: Tensor = field(default_factory=lambda: torch.zeros(0))
    shared: Tensor = field(default_factory=lambda: torch.zeros(0))
    whole: Tensor | None = None
    missed: float = _PREDICTION_ERROR**2

    def observe(self, reading: Tensor, variance: Tensor) -> None:
        """Take in a reading with the variance of its mean."""
        if self.error is None:
            self.error, self.variance = reading.clone(), variance.clone()
            self.part, self.shared = torch.ones_like(reading), torch.zeros_like(reading)
            self.part_variance = torch.full_like(reading, _PART_ERROR**2)
            return
        surprise = reading - self.error
        # What neither variance accounts for, the predictions of changes have missed.
        if self.whole is None:
            seen = (surprise / _SURPRISE).square()
            self.variance = self.variance + (seen - self.variance - variance).clamp_min(0)
        else:
            self._learn_what_is_missed(surprise.square() - self.variance - variance, self.whole.square())
        whole = (self.variance + variance).clamp_min(1e-30)
        trust, lesson = self.variance / whole, self.shared / whole
        trust = trust.clamp_min(_LEAST_TRUST) if self.has_moved else trust
        self.error, self.has_moved = self.error + trust * surprise, False
        self.part = (self.part + lesson * surprise).clamp(*_PARTS)
        self.part_variance = self.part_variance - lesson * self.shared
        self.variance = (1 - trust).square() * self.variance + trust.square() * variance
        self.shared = (1 - trust) * self.shared

    def _learn_what_is_missed(self, excess: Tensor, squares: Tensor) -> None:
        """Of the squares of a whole change, what the excess of surprises over their variances says."""
        share = self.missed + float(excess.sum() / squares.sum().clamp_min(1e-30))
        before, self.missed = self.missed, max(_PREDICTION_ERROR**2, share)
        self.variance = self.variance + (self.missed - before) * squares
        self.whole = None

    def predict(self, change: Tensor, *, is_whole: bool = False) -> None:
        """The weights were changed, which should move the errors by `change`: in part, or as a whole."""
        assert self.error is not None
        if is_whole:
            self.part, self.shared = torch.ones_like(change), torch.zeros_like(change)
            self.error, self.has_moved, self.whole = self.error + change, True, change
            self.variance = self.variance + self.missed * change.square()
            return
        self.whole = None
        # Over a long way derivatives change: what it misses says nothing of what they leave out.
        is_long = change.abs() > _LONG
        self.part, self.shared = self.part.where(~is_long, 1.0), self.shared.where(~is_long, 0.0)
        self.part_variance = self.part_variance.where(~is_long, _PART_ERROR**2)
        self.error, self.has_moved = self.error + self.part * change, True
        spread = 2 * change * self.shared + change.square() * (self.part_variance + _PREDICTION_ERROR**2)
        self.variance = self.variance + spread
        self.shared = (self.shared + change * self.part_variance).where(~is_long, 0.0)
