"""Local Jacobians of one cell along its trajectory, by reverse mode over a batch of time points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from lsc_graph.running.deadline import in_time
from lsc_graph.to_torch.loop import CellModule, Trajectory

MAX_BATCH_BYTES = 64 * 2**20


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
    own = [point for index, point in enumerate(points) if index in which or not _is_shared(point)]
    widest = max(example.numel(), *(point[0].numel() for point in own))
    bytes_per_point = 16 * example.numel() * widest * example.element_size()
    size = max(1, min(num_points, MAX_BATCH_BYTES // max(bytes_per_point, 1)))
    jacobian = jacrev(function, argnums=tuple(which))
    found: list[Tensor] = []
    for start in range(0, num_points, size):
        in_time()
        parts = at_points(jacobian, [point[start : start + size] for point in points])
        # Into their places: all parts beside the whole take more memory than anything else.
        found = found or [part.new_empty(num_points, *part.shape[1:]) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[start : start + size] = part
    return tuple(found)


def at_points(function: Callable[..., Any], points: Sequence[Tensor], *leading: Tensor) -> Any:
    """vmap over a batch of points.

    What is expanded from one value for all points, as captured weights are, stays one value: products with
    it are then products of matrices, and no copies of it are read.

    Args:
        function: of one point's values, after one of each of `leading`.
        points: each argument with the batch [P, ...] first.
        leading: arguments before these, also with the batch first.
    """
    shared = [_is_shared(point) for point in points]
    given = [point[0] if is_shared else point for point, is_shared in zip(points, shared, strict=True)]
    dims = [*(0 for _ in leading), *(None if is_shared else 0 for is_shared in shared)]
    if all(dim is None for dim in dims):
        given, dims = list(points), [0] * len(points)
    return vmap(function, in_dims=tuple(dims))(*leading, *given)


def _is_shared(point: Tensor) -> bool:
    return point.shape[0] > 1 and point.stride(0) == 0


def chosen_points(points: Sequence[Tensor], numbers: Tensor) -> list[Tensor]:
    """Some of the points, without copies of what is the same at all of them."""
    return [
        point[:1].expand(len(numbers), *point.shape[1:])
        if _is_shared(point)
        else point[numbers.to(point.device)]
        for point in points
    ]
