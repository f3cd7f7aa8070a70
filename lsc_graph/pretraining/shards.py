"""Samples shared out to the processes of a torchrun group; alone, everything is one's own.

Every process sees the same readings and the same derivatives afterwards, so that all take the same step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.reading import Edge, Reading

Item = TypeVar("Item")


def join_group(device: str) -> None:
    """Join the process group that torchrun has prepared, if there is one and nobody has joined it yet.

    Raises:
        UsageError: there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(_own_gpu(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
        # A group that is still there when the interpreter ends may abort a process that has done its work.
        atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_gpu(local_rank: int, num_gpus: int) -> int:
    if local_rank >= num_gpus:
        raise UsageError(
            "Every process of torchrun needs a GPU of its own",
            got=f"process {local_rank + 1} of this machine, which has {num_gpus} GPU(s)",
            do=f"give torchrun --nproc_per_node {num_gpus}, or --device cpu",
        )
    return local_rank


def rank() -> int:
    """This process's number; 0 when alone. Before it has joined a group, that which torchrun has given it."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def num_processes() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part: every n-th item."""
    return items[rank() :: num_processes()]


def gathered(readings: Sequence[Reading]) -> list[Reading]:
    """Readings of all processes' samples; derivatives stay this process's part of the whole.

    The values come in the order of the samples, whatever the number of processes.
    """
    if num_processes() == 1:
        return list(readings)
    parts: list[dict[Edge, tuple[list[list[float]], bool, bool]]] = [{} for _ in range(num_processes())]
    own = {r.edge: ([v.tolist() for v in r.by_sample()], r.is_radius, r.is_differentiable) for r in readings}
    dist.all_gather_object(parts, own)
    derivatives = {r.edge: (r.derivative, r.values.numel()) for r in readings}
    found = []
    for edge in dict.fromkeys(edge for part in parts for edge in part):
        shares = [part[edge][0] if edge in part else _no_points(part) for part in parts]
        samples = _interleaved(shares)
        is_radius = next(part[edge][1] for part in parts if edge in part)
        values = torch.tensor([v for sample in samples for v in sample], dtype=torch.float64)
        is_differentiable = any(part[edge][2] for part in parts if edge in part)
        whole = Reading(edge, values, is_radius, None, tuple(map(len, samples)), is_differentiable)
        derivative, count = derivatives.get(edge, (None, 0))
        if derivative is not None:
            whole = replace(whole, derivative=derivative * (count / values.numel()))
        found.append(whole)
    return found


def _no_points(part: Mapping[Edge, tuple[list[list[float]], bool, bool]]) -> list[list[float]]:
    """Of an edge that none of a process's samples has."""
    return [[] for _ in next(iter(part.values()))[0]] if part else []


def _interleaved(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """Item k of each share in turn: the inverse of `own_share`."""
    longest = max(map(len, shares))
    return [share[k] for k in range(longest) for share in shares if k < len(share)]


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if num_processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def largest(number: float) -> float:
    """The largest of all processes' numbers: what each concludes from its own samples alone may differ."""
    if num_processes() == 1:
        return number
    found = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)
