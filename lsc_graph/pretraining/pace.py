"""How much of each radius' error a step is to remove."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_MORE, _LESS, _LEAST = 1.2, 0.6, 0.1


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass
class Pace:
    """Errors that change their sign again and again count less: noise, and kinks of a radius.

    Attributes:
        shares: of each error [R] that count.
        signs: of the errors [R] before.
    """

    shares: Tensor = field(default_factory=_nothing)
    signs: Tensor = field(default_factory=_nothing)

    def damped(self, errors: Tensor) -> Tensor:
        """The parts of the errors [R] that a step is to remove."""
        signs = errors.sign()
        if len(self.signs) == len(signs):
            factor = torch.where(signs == self.signs, _MORE, _LESS)
            self.shares = (self.shares * factor).clamp(_LEAST, 1.0)
        else:
            self.shares = torch.ones_like(errors)
        self.signs = signs
        return self.shares * errors

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return vars(self).copy()
