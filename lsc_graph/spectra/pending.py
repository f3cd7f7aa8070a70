"""Estimates that a device has computed and the host has yet to read: several are read by one wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.estimate import Estimate


@dataclass(frozen=True)
class Pending:
    """Estimates at P points: `read` makes them, on the host, of `numbers` [P, K] (float64) on the device."""

    numbers: Tensor
    read: Callable[[Tensor], Estimate]

    def estimate(self) -> Estimate:
        """What it is; the host waits for the device once."""
        return self.read(self.numbers.cpu())

    def scaled(self, factors: Tensor) -> Pending:
        """Of the matrices times positive factors [P], on the device."""

        def read(numbers: Tensor) -> Estimate:
            return self.read(numbers[:, :-1]).scaled(numbers[:, -1])

        return Pending(torch.cat([self.numbers, factors.double()[:, None]], 1), read)


def together(*pending: Pending) -> list[Estimate]:
    """Several estimates at the same points; the host waits for the device once for all."""
    widths = [own.numbers.shape[1] for own in pending]
    parts = torch.split(torch.cat([own.numbers for own in pending], 1).cpu(), widths, 1)
    return [own.read(part) for own, part in zip(pending, parts, strict=True)]
