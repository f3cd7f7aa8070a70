"""Products of the Jacobians of black boxes with directions, under torch.func's jvp and vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.running.reference import Array
from lsc_graph.to_torch.black_points import Flags, mapped_rows, points
from lsc_graph.to_torch.differences import Differences
from lsc_graph.to_torch.directional import Directions


class Pushed(Protocol):
    """What products are taken of."""

    record: Differences

    def product(
        self, values: Sequence[Array], directions: Directions, digests: Sequence[bytes] = ()
    ) -> list[Array]: ...


class _Push(torch.autograd.Function):
    """Directions [K, (points,) *shape] of the wanted inputs, pushed to all float outputs, alike."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        box: Pushed,
        flags: Flags,
        size: int | None,
        wanted: tuple[int, ...],
        num_values: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        values, directions = tensors[:num_values], tensors[num_values:]
        given = [own.detach().cpu().double().numpy() for own in directions]
        found: list[list[list[Array]]] = []
        for number, (point, digests) in enumerate(points(box.record, flags, size, values)):
            rows = [own if size is None else own[:, _own_number(own, number)] for own in given]
            found.append(
                [
                    box.product(point, dict(zip(wanted, own, strict=True)), digests)
                    for own in zip(*rows, strict=True)
                ]
            )
        like = values[wanted[0]]
        outputs = []
        for index in range(len(found[0][0])):
            stacked = np.stack([np.stack([row[index] for row in own]) for own in found], 1)
            outputs.append(torch.from_numpy(stacked if size is not None else stacked[:, 0]).to(like))
        return tuple(outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise AnalysisError("Finite differences have no derivative of their own")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], Any]:
        return mapped_rows(push, info.batch_size, in_dims, *arguments)


def _own_number(directions: Array, number: int) -> int:
    """Directions that are the same at all points may be there once."""
    return number if directions.shape[1] > 1 else 0


def push(*arguments: Any) -> tuple[Tensor, ...]:
    """Directions [K, (points,) *shape] pushed through a black box.

    Args:
        arguments: the box, which inputs have a leading axis of points and how many, the numbers of the inputs
            that the directions are of, how many inputs there are, these, and the directions.
    """
    return tuple(_Push.apply(*arguments))  # type: ignore[no-untyped-call]  # torch leaves it untyped
