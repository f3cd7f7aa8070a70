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

from lsc_graph.pretraining.eigenpairs import Direction, direction_by_pair, estimated, value_alone
from lsc_graph.pretraining.smaller import Matrices
from lsc_graph.spectra.choose import group_size, takes_points_alone
from lsc_graph.spectra.dominant import dominant_eigenvectors
from lsc_graph.spectra.eigenvectors import Eigenvectors

# Matrices that are looked at together: so many bytes of them in single precision, or so many where these are
# large.
_BYTES, _LEAST = 2**23, 4
# Matrices with rows of zeros are looked at by as many of their rows as are not, up to a multiple of this.
_STRIDE = 16


@dataclass(frozen=True)
class Wanted:
    """Matrices of one edge, sample after sample, whose radii are wanted.

    `sizes` says how many points each sample has. Those that may be read by few rows from now on are
    `is_narrow`: at other points they are not beside the rest.
    """

    matrices: Matrices
    sizes: Sequence[int]
    is_narrow: bool = False


def joint_radii(wanted: Sequence[Wanted]) -> list[Direction]:
    """The radii of each, without derivative."""
    found: dict[int, Direction] = {}
    for numbers in _alike(wanted):
        own = [wanted[number] for number in numbers]
        small = [each.matrices.small(each.matrices.matrices.dtype) for each in own]
        found |= dict(zip(numbers, map(value_alone, _values(small, own)), strict=True))
    return [found[number] for number in range(len(wanted))]


def joint_directions(wanted: Sequence[Wanted]) -> list[Direction]:
    """The radii of each with their derivatives."""
    found: dict[int, Direction] = {}
    for numbers in _alike(wanted):
        own = [wanted[number].matrices for number in numbers]
        small = torch.cat([each.small(torch.float64) for each in own])
        pairs = [dominant_eigenvectors(part) for part in torch.split(small, _at_once(small.shape[-1]))]
        each = Eigenvectors.joined(pairs).split([len(each) for each in own])
        found |= dict(zip(numbers, map(direction_by_pair, each, own), strict=True))
    return [found[number] for number in range(len(wanted))]


def _alike(wanted: Sequence[Wanted]) -> list[list[int]]:
    """The numbers of those that are looked at together."""
    groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, own in enumerate(wanted):
        groups[own.matrices.size, own.is_narrow].append(number)
    return list(groups.values())


def _values(small: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Tensor]:
    """Radii [P] of matrices of the same size, of each edge."""
    size, device = small[0].shape[-1], small[0].device.type
    if takes_points_alone(size, device):
        found = _estimated_alone(torch.cat(list(small)))
        return list(torch.split(found, [len(own) for own in small]))
    by_edge = [torch.split(own, list(each.sizes)) for own, each in zip(small, wanted, strict=True)]
    by_sample = []
    for parts in zip(*by_edge, strict=True):
        own = _together(torch.cat(parts), _at_once(size))
        by_sample.append(torch.split(own, [len(part) for part in parts]))
    return [torch.cat(parts) for parts in zip(*by_sample, strict=True)]


def _estimated_alone(matrices: Tensor) -> Tensor:
    """Radii [P] by the rows and columns of what is not off: rows of zeros have eigenvalues of zero alone.

    How many are looked at with others follows from each matrix alone.
    """
    is_on = (matrices != 0).any(2)
    counts = is_on.sum(1)
    sizes = (counts + _STRIDE - 1).div(_STRIDE, rounding_mode="floor").clamp(min=1) * _STRIDE
    found = matrices.new_zeros(len(matrices), dtype=torch.float64)
    for size in sorted(set(sizes.tolist())):
        at = (sizes == size).nonzero()[:, 0]
        own = matrices[at]
        if size < own.shape[-1]:
            places = is_on[at].byte().argsort(dim=1, descending=True, stable=True)[:, :size]
            own = own.gather(1, places[:, :, None].expand(-1, -1, own.shape[-1]))
            own = own.gather(2, places[:, None].expand(-1, size, -1))
        found[at] = _together(own, group_size(own.shape[-1], own.device.type))
    return found


def _together(matrices: Tensor, count: int) -> Tensor:
    parts = [estimated(part) for part in torch.split(matrices, count) if len(part)]
    return torch.cat(parts) if parts else matrices.new_zeros(0, dtype=torch.float64)


def _at_once(size: int) -> int:
    return max(_LEAST, _BYTES // (4 * size**2))
