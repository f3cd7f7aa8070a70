"""Radii of several edges' matrices, looked at together.

A pass over one matrix of moderate size takes hardly less time than one over several, and an edge has few
points in a sample. Which others a matrix stands beside may change its radius within the tolerance, so that
only what belongs to the same sample is looked at together: what is found does not depend on how samples are
shared out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.pretraining.eigenpairs import Direction, direction_by_pair, value_alone
from lsc_graph.spectra.choose import group_size, radius_estimate, takes_points_alone
from lsc_graph.spectra.dominant import dominant_eigenvectors
from lsc_graph.spectra.eigenvectors import Eigenvectors

# Matrices that are looked at together: so many bytes of them in single precision, or so many where these are
# large.
_BYTES, _LEAST = 2**23, 4


@dataclass(frozen=True)
class Wanted:
    """Square matrices [P, n, n] of one edge, sample after sample, whose radii are wanted.

    `sizes` says how many points each sample has. `basis` is a range that the matrices share, if there is one
    (see `reduction.py`). Those that may be read by few rows from now on are `is_narrow`: at other points they
    are not beside the rest.
    """

    matrices: Tensor
    sizes: Sequence[int]
    basis: Tensor | None = None
    is_narrow: bool = False

    @property
    def size(self) -> int:
        """Of the matrices that have all the eigenvalues."""
        return self.matrices.shape[-1] if self.basis is None else self.basis.shape[1]


def joint_radii(wanted: Sequence[Wanted]) -> list[Direction]:
    """The radii of each, without derivative."""
    found: dict[int, Direction] = {}
    for numbers in _alike(wanted):
        own = [wanted[number] for number in numbers]
        found |= dict(
            zip(numbers, map(value_alone, _values([_small(each) for each in own], own)), strict=True)
        )
    return [found[number] for number in range(len(wanted))]


def joint_directions(wanted: Sequence[Wanted]) -> list[Direction]:
    """The radii of each with their derivatives."""
    found: dict[int, Direction] = {}
    for numbers in _alike(wanted):
        kept = [_kept(wanted[number]) for number in numbers]
        small = torch.cat([_turned(k, wanted[number].basis) for k, number in zip(kept, numbers, strict=True)])
        pairs = [dominant_eigenvectors(part) for part in torch.split(small, _at_once(small.shape[-1]))]
        each = Eigenvectors.joined(pairs).split([len(own) for own in kept])
        found |= {
            number: direction_by_pair(pair, own, wanted[number].basis)
            for number, pair, own in zip(numbers, each, kept, strict=True)
        }
    return [found[number] for number in range(len(wanted))]


def _alike(wanted: Sequence[Wanted]) -> list[list[int]]:
    """The numbers of those that are looked at together."""
    groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, own in enumerate(wanted):
        groups[own.size, own.is_narrow].append(number)
    return list(groups.values())


def _values(small: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Tensor]:
    """Radii [P] of matrices of the same size, of each edge."""
    size, device = small[0].shape[-1], small[0].device.type
    if takes_points_alone(size, device):
        found = _estimated(torch.cat(list(small)), group_size(size, device))
        return list(torch.split(found, [len(own) for own in small]))
    by_edge = [torch.split(own, list(each.sizes)) for own, each in zip(small, wanted, strict=True)]
    by_sample = []
    for parts in zip(*by_edge, strict=True):
        own = _estimated(torch.cat(parts), _at_once(size))
        by_sample.append(torch.split(own, [len(part) for part in parts]))
    return [torch.cat(parts) for parts in zip(*by_sample, strict=True)]


def _estimated(matrices: Tensor, count: int) -> Tensor:
    parts = [radius_estimate(part.double()).values for part in torch.split(matrices, count) if len(part)]
    return torch.cat(parts) if parts else matrices.new_zeros(0, dtype=torch.float64)


def _at_once(size: int) -> int:
    return max(_LEAST, _BYTES // (4 * size**2))


def _small(wanted: Wanted) -> Tensor:
    if wanted.basis is None:
        return wanted.matrices
    turn = wanted.basis.to(wanted.matrices.dtype)
    return turn.T @ (wanted.matrices @ turn)


def _kept(wanted: Wanted) -> Tensor:
    """The rows that have all the eigenvalues, in double precision."""
    matrices = wanted.matrices.double()
    return matrices if wanted.basis is None else wanted.basis.T @ matrices


def _turned(kept: Tensor, basis: Tensor | None) -> Tensor:
    return kept if basis is None else kept @ basis
