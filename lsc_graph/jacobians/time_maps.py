"""Time Jacobians of layers that are too large to be built at once: known by what they do to cotangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.jacobians.blocks import pull_states
from lsc_graph.jacobians.built import BuiltJacobians, built_jacobians
from lsc_graph.jacobians.cell import cell_points, chosen_points
from lsc_graph.jacobians.cell_radius import own_reads, point_radii, pull_operator
from lsc_graph.jacobians.gated import GatedJacobians, gated_jacobians
from lsc_graph.jacobians.probed import ProbedGain, point_groups, probed_gain
from lsc_graph.spectra.choose import group_size
from lsc_graph.spectra.estimate import Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.to_torch.loop import CellModule, Trajectory


@dataclass(frozen=True)
class TimeMaps:
    """M_time of one layer at P steps, where its cell reads `points`; `gated` is a cheaper form, if any.

    Rows are pulled `within` what is entered for it.
    """

    module: CellModule
    points: Sequence[Tensor]
    gated: GatedJacobians | BuiltJacobians | None
    within: Callable[[], AbstractContextManager[None]] = nullcontext

    @staticmethod
    def of(module: CellModule, trajectory: Trajectory, generator: torch.Generator) -> TimeMaps:
        """At every step of a trajectory."""
        points = cell_points(module, trajectory)
        own = own_reads(module)
        gated = gated_jacobians(module, points, own, generator) or built_jacobians(module, points, own)
        return TimeMaps(module, points, gated)

    @property
    def num_points(self) -> int:
        return self.points[0].shape[0]

    @property
    def like(self) -> Tensor:
        """Of the matrices' type, where they are."""
        return self.points[own_reads(self.module)[0]]

    def at(self, chosen: slice) -> TimeMaps:
        """At some of the steps."""
        numbers = torch.arange(self.num_points)[chosen]
        gated = None if self.gated is None else self.gated.at(numbers)
        return replace(self, points=chosen_points(self.points, numbers), gated=gated)

    def pull(self, point: int) -> Callable[[Tensor], Tensor]:
        """Cotangents [K, n] times one of the matrices, in double precision on the CPU."""
        gated = None if self.gated is None else self.gated.at(torch.tensor([point]))

        def pulled(cotangents: Tensor) -> Tensor:
            rows = cotangents.to(self.like)
            found = self.pull_rows([point], rows[None])[0] if gated is None else gated.pull(rows)
            return found.double().cpu()

        return pulled

    def pull_rows(self, numbers: Sequence[int], cotangents: Tensor) -> Tensor:
        """Cotangents [P, K, n] times the matrices at some of the steps, in their type and where they are."""
        here = chosen_points(self.points, torch.tensor(numbers))
        with self.within():
            return pull_states(self.module, here, own_reads(self.module), cotangents)

    def pull_all(self, cotangents: Tensor) -> Tensor:
        """Cotangents [P, K, n] times the matrices at all steps, in double precision on the CPU."""
        return torch.stack([self.pull(point)(rows) for point, rows in enumerate(cotangents)])

    def radius(self, method: Method) -> Estimate:
        """Spectral radii."""
        return point_radii(self.module, self.points, self.gated, method)

    def gain(self, num_probes: int, generator: torch.Generator) -> ProbedGain:
        """||M||_F / sqrt(n) at all steps: from the matrices where these are cheap, else by random probes."""
        size = self.module.cell.layer.state_size
        like = self.like
        if self.gated is not None:
            groups = torch.split(torch.arange(self.num_points), group_size(size, like.device.type))
            # In place: small results that are kept among large matrices would break up the heap.
            norms = like.new_empty(self.num_points)
            for numbers in groups:
                norms[numbers] = torch.linalg.matrix_norm(self.gated.at(numbers).dense())
            gains = (norms.cpu().double().square() / size).sqrt()
            return ProbedGain(gains, torch.zeros_like(gains))
        parts = point_groups(range(self.num_points), (size, size), num_probes)
        return ProbedGain.joined([self._probed(group, num_probes, generator) for group in parts])

    def _probed(self, group: Sequence[int], num_probes: int, generator: torch.Generator) -> ProbedGain:
        """Gains at some of the steps, by random probes."""
        operator = pull_operator(self.module, chosen_points(self.points, torch.tensor(group)))
        size, like = operator.size, self.like

        def pull(probes: Tensor) -> Tensor:
            given = handed(probes, like.device, like.dtype)
            return torch.stack([operator.apply(given[:, k]) for k in range(given.shape[1])], 1)

        return probed_gain(pull, len(group), (size, size), num_probes, generator)
