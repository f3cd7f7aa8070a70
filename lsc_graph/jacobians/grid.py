"""The grid of local Jacobians: one linear map for every edge of the depth x time DAG of one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.jacobians.local import LocalJacobians
from lsc_graph.jacobians.pushes import Pushes
from lsc_graph.layers.cells import CellGraph
from lsc_graph.spectra.handed import handed

Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EdgeMap:
    """The derivative along one edge of the grid; `pull` maps cotangents [K, n_head] to [K, n_tail].

    Where only directions can be pushed along it, [K, n_tail] to [K, n_head], `push` does that.
    """

    tail: GridNode
    head: GridNode
    pull: Pull
    push: Pull | None = None


@dataclass(frozen=True)
class DensePull:
    """Pull-back by a dense Jacobian [n_head, n_tail], in double precision whatever its own is."""

    own: Tensor

    @property
    def matrix(self) -> Tensor:
        """For those who need its elements."""
        return self.own.double()

    def __call__(self, cotangents: Tensor) -> Tensor:
        # Doubles of all steps at once would take more memory than anything else.
        return cotangents @ self.matrix


def dense(block: Tensor) -> Pull:
    """Pull-back by a dense Jacobian [n_head, n_tail]."""
    return DensePull(block)


@dataclass(frozen=True)
class MapsPull:
    """Pull-back by one of the blocks of a depth edge that is known by its products."""

    maps: DepthMaps
    number: int

    def __call__(self, cotangents: Tensor) -> Tensor:
        return self.of_all([self.number], cotangents[None])[0]

    def of_all(self, numbers: Sequence[int], cotangents: Tensor) -> Tensor:
        """Cotangents [P, K, n_head] at several blocks of the edge, which cost little more than one does."""
        given = handed(cotangents, self.maps.like.device, self.maps.like.dtype)
        return self.maps.pull(numbers, given).double().cpu()


@dataclass(frozen=True)
class PushesPush:
    """Directions pushed along one of the edges that are known by that."""

    pushes: Pushes
    number: int

    def __call__(self, directions: Tensor) -> Tensor:
        return self.pushes.push([self.number], directions[None].to(self.pushes.like))[0].double().cpu()


def _no_pull(cotangents: Tensor) -> Tensor:
    raise AnalysisError("Finite differences along directions pull nothing back")


def pushed_edges(own: Pushes) -> Iterator[EdgeMap]:
    """An edge of which directions tell all, at each pair of times."""
    for number, (source, target) in enumerate(own.pairs):
        tail, head = GridNode(own.source, source), GridNode(own.target, target)
        yield EdgeMap(tail, head, _no_pull, PushesPush(own, number))


def edge_maps(cells: CellGraph, local: LocalJacobians) -> Iterator[EdgeMap]:
    """Every edge of the unrolled grid with its local Jacobian."""
    steps = {layer.id: layer.time_step for layer in cells.layers}
    returning = {layer.id for layer in cells.layers if layer.has_time_edges}
    # Growth is taken on the CPU in double precision, wherever the model runs: one transfer for each layer.
    for layer_id, blocks in ((own, local.time[own].cpu()) for own in local.time if own in returning):
        for time in range(blocks.shape[0]):
            source = time - steps[layer_id]
            if 0 <= source < blocks.shape[0]:
                yield EdgeMap(GridNode(layer_id, source), GridNode(layer_id, time), dense(blocks[time]))
    for layer_id, units in ((own, local.units[own].cpu()) for own in local.units if own in returning):
        for time in range(units.num_points):
            source = time - steps[layer_id]
            if 0 <= source < units.num_points:
                yield EdgeMap(GridNode(layer_id, source), GridNode(layer_id, time), units.pull(time))
    for layer_id, maps in ((own, local.time_maps[own]) for own in local.time_maps if own in returning):
        for time in range(maps.num_points):
            source = time - steps[layer_id]
            if 0 <= source < maps.num_points:
                yield EdgeMap(GridNode(layer_id, source), GridNode(layer_id, time), maps.pull(time))
    for pushes in local.pushes:
        if pushes.edge is not None or pushes.target in returning:
            yield from pushed_edges(pushes)
    for own in local.maps:
        for number, (source, target) in enumerate(own.pairs):
            tail, head = GridNode(own.edge.source, source), GridNode(own.edge.target, target)
            yield EdgeMap(tail, head, MapsPull(own, number))
    for depth in local.depth:
        for (source, target), block in zip(depth.pairs, depth.blocks.cpu(), strict=True):
            tail, head = GridNode(depth.edge.source, source), GridNode(depth.edge.target, target)
            yield EdgeMap(tail, head, dense(block))
