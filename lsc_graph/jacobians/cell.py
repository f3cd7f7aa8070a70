"""Local Jacobians of one cell along its trajectory, by reverse mode over a batch of time points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from lsc_graph.to_torch.loop import CellModule, Trajectory

MAX_BATCH_BYTES = 32 * 2**20


def cell_jacobians(
    module: CellModule, trajectory: Trajectory, through: Collection[str] = ()
) -> dict[tuple[str, str], Tensor]:
    """Derivatives of a layer's new state with respect to the states that its cell reads.

    Args:
        module: the cell.
        trajectory: where to take them.
        through: slices and captures, by body input, to differentiate as well.

    Returns:
        Per (kind, name) of `module.reads`: a tensor [T, n_out, *shape], the Jacobian at each step of
        the flattened, concatenated new state.
    """
    points = cell_points(module, trajectory)
    which = [
        index
        for index, (kind, name) in enumerate(module.reads)
        if points[index].is_floating_point() and (kind in ("before", "after") or name in through)
    ]
    jacobians = batched_jacobians(lambda *values: flatten(module(*values)), points, which)
    return {module.reads[index]: jacobian for index, jacobian in zip(which, jacobians, strict=True)}


def cell_points(module: CellModule, trajectory: Trajectory) -> list[Tensor]:
    """What a cell reads at every step, [T, ...], in the order of `module.reads`."""
    pools = {
        "before": trajectory.before,
        "after": trajectory.after,
        "slice": trajectory.slices,
        "capture": trajectory.captures,
    }
    num_steps = next(iter(trajectory.after.values())).shape[0]
    points = []
    for kind, name in module.reads:
        value = pools[kind][name]
        is_constant = kind == "capture"
        points.append(value.expand(num_steps, *value.shape) if is_constant else value)
    return points


def flatten(values: Sequence[Tensor]) -> Tensor:
    """All values as one vector."""
    return torch.cat([value.reshape(-1) for value in values])


def flat_from(value: Tensor, axis: int) -> Tensor:
    """All axes from `axis` on as one; a value that has none of them gets one of size 1."""
    return value.reshape(*value.shape[:axis], -1)


def batched_jacobians(
    function: Callable[..., Tensor], points: Sequence[Tensor], which: Sequence[int]
) -> tuple[Tensor, ...]:
    """Jacobians of a vector-valued function at a batch of points.

    Args:
        function: takes one point's values, returns a vector [n_out].
        points: each argument with the batch [P, ...] first.
        which: indices of the arguments to differentiate.

    Returns:
        Per differentiated argument, [P, n_out, *shape].
    """
    num_points = points[0].shape[0]
    example = function(*(point[0] for point in points))
    widest = max(example.numel(), *(point[0].numel() for point in points))
    bytes_per_point = 16 * example.numel() * widest * example.element_size()
    size = max(1, min(num_points, MAX_BATCH_BYTES // max(bytes_per_point, 1)))
    jacobian = jacrev(function, argnums=tuple(which))
    chunks = [
        vmap(jacobian)(*(point[start : start + size] for point in points))
        for start in range(0, num_points, size)
    ]
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))
