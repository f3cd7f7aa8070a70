"""The grid of local Jacobians: one linear map for every edge of the depth x time DAG of one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from lsc_graph.cells import CellGraph
from lsc_graph.jacobians.local import LocalJacobians
from lsc_graph.unroll import GridNode

Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EdgeMap:
    """The derivative along one edge of the grid; `pull` maps cotangents [K, n_head] to [K, n_tail]."""

    tail: GridNode
    head: GridNode
    pull: Pull


@dataclass(frozen=True)
class DensePull:
    """Pull-back by a dense Jacobian [n_head, n_tail], which those who need its elements find here."""

    matrix: Tensor

    def __call__(self, cotangents: Tensor) -> Tensor:
        return cotangents @ self.matrix


def dense(block: Tensor) -> Pull:
    """Pull-back by a dense Jacobian [n_head, n_tail], in double precision."""
    return DensePull(block.double())


def edge_maps(cells: CellGraph, local: LocalJacobians) -> Iterator[EdgeMap]:
    """Every edge of the unrolled grid with its local Jacobian."""
    steps = {layer.id: layer.time_step for layer in cells.layers}
    for layer_id, blocks in local.time.items():
        for time in range(blocks.shape[0]):
            source = time - steps[layer_id]
            if 0 <= source < blocks.shape[0]:
                yield EdgeMap(GridNode(layer_id, source), GridNode(layer_id, time), dense(blocks[time]))
    for depth in local.depth:
        for (source, target), block in zip(depth.pairs, depth.blocks, strict=True):
            tail, head = GridNode(depth.edge.source, source), GridNode(depth.edge.target, target)
            yield EdgeMap(tail, head, dense(block))
