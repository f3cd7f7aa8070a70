"""Several samples through one program together, mapped over the samples by `torch.func.vmap`.

Where an operator cannot be mapped, such as one that decides by the values it sees, samples go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree

from lsc_graph.to_torch.loop import Trajectory
from lsc_graph.to_torch.program import Run

Tree = Any
"""Tensors in dicts, lists and tuples."""
_KEPT = ("before", "after", "slices", "captures")


class Together:
    """Calls functions of one sample for many: every tensor in and out has the samples first."""

    def __init__(self) -> None:
        self.is_possible = True

    def each(self, function: Callable[..., Tree], *trees: Tree) -> Tree:
        """The results for every sample, by `vmap` unless that has failed once."""
        count = len(_pytree.tree_leaves(trees)[0])
        if count > 1 and self.is_possible:
            try:
                return vmap(function, randomness="error")(*trees)
            except (RuntimeError, ValueError, NotImplementedError, TypeError):
                self.is_possible = False
        return stacked([function(*part(trees, index)) for index in range(count)])


def stacked(trees: Sequence[Tree]) -> Tree:
    """Trees of the same shape as one tree of tensors with the samples first."""
    first, *others = trees
    return _pytree.tree_map(lambda *values: torch.stack(values), first, *others)


def part(tree: Tree, index: int) -> Tree:
    """One sample's tree."""
    return _pytree.tree_map(lambda value: value[index], tree)


def detached(tree: Tree) -> Tree:
    """The same values without a graph."""
    return _pytree.tree_map(lambda value: value.detach(), tree)


def recorded(run: Run) -> Tree:
    """What local Jacobians need to know of a run."""
    sites = [{name: dict(getattr(t, name)) for name in _KEPT} for t in run.trajectories]
    return {"sites": sites, "boundaries": list(run.boundaries), "beside": [list(own) for own in run.sides]}


def run_of(tree: Tree) -> Run:
    """A run that holds what was recorded of it."""
    sites = tuple(Trajectory(**site, outputs={}, final={}) for site in tree["sites"])
    beside = tuple(tuple(own) for own in tree["beside"])
    return Run({}, sites, boundaries=tuple(tree["boundaries"]), sides=beside)


def tensors_of(tree: Tree) -> list[Tensor]:
    """All tensors of a tree."""
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
