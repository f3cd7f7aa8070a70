"""Growth of the gradient measured forwards: by directions at the first states, pushed along the grid.

||J||_F is the same whichever side is multiplied, so that the mean square of pushed directions is that of
pulled cotangents. What is known by pushes alone is a grid turned round: its last states come first, and
cotangents of it are directions. Factors sqrt(n_tail / n_head), which telescope along every path, make the
lengths those of cotangents relative to their own number of elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import networkx as nx
import torch
from torch import Tensor

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.jacobians.grid import EdgeMap, MapsPull, Pull, PushesPush
from lsc_graph.jacobians.meter import Factor, GrowthMeter
from lsc_graph.jacobians.pushes import Pushes
from lsc_graph.layers.cells import CellGraph, DepthEdge
from lsc_graph.results import Growth

_REMARK = (
    "There are too many elements for differences by each of them: derivatives are known by their products "
    "with directions, radii by Krylov spaces of these at up to 8 steps of each layer; growth is measured "
    "forwards, from the first states to those dt steps and dl layers on, and not back from the last ones"
)


def is_forward(edges: Iterable[EdgeMap]) -> bool:
    """Whether any edge is known by pushes alone."""
    return any(edge.push is not None for edge in edges)


def turned_cells(cells: CellGraph) -> CellGraph:
    """The cell graph run backwards from its last states."""
    last = {layer.id: cells.steps_of(layer) - 1 for layer in cells.layers}
    edges = tuple(
        DepthEdge(own.target, own.source, own.lag)
        if own.time_pairs is None
        else DepthEdge(
            own.target,
            own.source,
            time_pairs=tuple(sorted((last[own.target] - u, last[own.source] - t) for t, u in own.time_pairs)),
        )
        for own in cells.depth_edges
    )
    return replace(cells, layers=cells.layers[::-1], depth_edges=edges)


def turned_edges(edges: Sequence[EdgeMap], cells: CellGraph, *, is_scaled: bool) -> list[EdgeMap]:
    """The edges of the turned grid, whose cotangents are directions of the other one.

    Args:
        edges: all known by pushes.
        cells: the cell graph, not turned.
        is_scaled: with factors that make lengths those of cotangents.
    """
    sizes = {layer.id: layer.state_size for layer in cells.layers}

    maps: dict[int, DepthMaps] = {}

    def scaled(edge: EdgeMap) -> Pull:
        push = edge.push
        assert push is not None
        factor = (sizes[edge.tail.layer] / sizes[edge.head.layer]) ** 0.5 if is_scaled else 1.0
        if isinstance(push, PushesPush):
            # What waits to cross an edge at many steps crosses it together.
            own = maps.setdefault(id(push.pushes), _turned_maps(push.pushes, factor))
            return MapsPull(own, push.number)
        return lambda directions: factor * push(directions)

    return [EdgeMap(turned(edge.head, cells), turned(edge.tail, cells), scaled(edge)) for edge in edges]


def _turned_maps(own: Pushes, factor: float) -> DepthMaps:
    """An edge of the turned grid, times a factor."""
    edge = own.edge or DepthEdge(own.source, own.target, time_pairs=own.pairs)

    def pull(numbers: Sequence[int], directions: Tensor) -> Tensor:
        return factor * own.push(numbers, directions)

    return DepthMaps(edge, own.pairs, own.shape[::-1], pull, own.like)


def turned(node: GridNode, cells: CellGraph) -> GridNode:
    """A node of the turned grid, or back."""
    layer = next(own for own in cells.layers if own.id == node.layer)
    return GridNode(node.layer, cells.steps_of(layer) - 1 - node.time)


class ForwardMeter(GrowthMeter):
    """Pushes random directions from the first states, sample by sample."""

    def __init__(
        self,
        cells: CellGraph,
        grid: nx.DiGraph[GridNode],
        generator: torch.Generator,
        edges: Sequence[EdgeMap] = (),
    ) -> None:
        self._own = cells
        super().__init__(cells, grid, generator, turned_edges(edges, cells, is_scaled=True))
        self.remarks = (_REMARK,)

    def regard(self, cells: CellGraph, grid: nx.DiGraph[GridNode]) -> None:
        self._own = cells
        back = {node: turned(node, cells) for node in grid}
        super().regard(turned_cells(cells), nx.relabel_nodes(grid.reverse(copy=True), back))

    def add(self, edges: Sequence[EdgeMap]) -> None:
        super().add(turned_edges(edges, self._own, is_scaled=True))

    def growth(self, factor: Factor) -> Growth:
        return super().growth(lambda u, v: factor(turned(v, self._own), turned(u, self._own)))
