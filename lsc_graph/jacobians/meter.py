"""Measured growth over all samples, the predictions beside it, and the three factors (theory section 4)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.grid.paths import log10_of_count, log10_path_sums, num_paths_from_each
from lsc_graph.grid.unroll import GridNode, depths, last_states
from lsc_graph.jacobians.grid import EdgeMap, MapsPull
from lsc_graph.jacobians.growth import backpropagate, isotropic, log10_isotropic, log10_rms
from lsc_graph.jacobians.predictions import NUM_DRAWS, Predictions
from lsc_graph.layers.cells import CellGraph
from lsc_graph.results import Growth, GrowthPoint

Factor = Callable[[GridNode, GridNode], float]
# Some steps away, so many decades below what unrelated paths give: only rounding is left.
_SETTLED, _CANCELLED = 2, 5.0
# Cotangents of each sweep, plain and signed, by the largest state's size: long ones average by themselves.
# Fewer where fewer are exact.
_COUNTS = ((512, (64, 256)), (4096, (64, 64)), (2**15, (16, 16)), (2**17, (4, 8)))
_FEWEST = (2, 4)
# Of cotangents of one layer that wait to cross an edge together.
_MAX_ELEMENTS = 2**23


@dataclass
class _Lengths:
    """log10 of cotangent lengths relative to those at the start, one tensor [K] per sample."""

    plain: list[Tensor] = field(default_factory=list)
    signed: list[Tensor] = field(default_factory=list)


class GrowthMeter:
    """Backpropagates random cotangents from the last states, sample by sample.

    Args:
        cells: the cell graph.
        grid: its unrolled DAG.
        generator: randomness of cotangents and signs.
        edges: those of a first sample. Where some are known by their products, cotangents of many steps
            cross them together.
    """

    def __init__(
        self,
        cells: CellGraph,
        grid: nx.DiGraph[GridNode],
        generator: torch.Generator,
        edges: Sequence[EdgeMap] = (),
    ) -> None:
        self._generator = generator
        self._at_once = max(1, _MAX_ELEMENTS // _elements(cells)) if _has_maps(edges) else 1
        self.remarks: tuple[str, ...] = ()
        """What a report should say of how growth was measured."""
        self._lengths: defaultdict[GridNode, _Lengths] = defaultdict(_Lengths)
        self._predictions = Predictions()
        self.regard(cells, grid)

    def regard(self, cells: CellGraph, grid: nx.DiGraph[GridNode]) -> None:
        """Take the cell graph and its grid from now on: a sample may connect times that none did before."""
        self._cells, self._grid = cells, grid
        depth = depths(cells)

        def place(node: GridNode) -> tuple[int, int]:
            return node.time // self._at_once, depth[node.layer] if self._at_once > 1 else 0

        # By time: backpropagation then holds the cotangents of a few steps, and not those of whole layers.
        self.order = list(nx.lexicographical_topological_sort(grid, key=place))
        self._targets = list(last_states(cells))
        self._sizes = {layer.id: layer.state_size for layer in cells.layers}

    def add(self, edges: Sequence[EdgeMap]) -> None:
        """One sample's grid of local Jacobians."""
        plain, signed = _counts(max(self._sizes[node.layer] for node in self._targets))
        whole = sum(self._sizes[node.layer] for node in self._targets)
        self.sweep(edges, min(plain, whole), None)
        if len(self.order) > len(self._cells.layers) > 1:
            self.sweep(edges, signed, self._generator)
        if self._cells.num_steps > 2:
            start = self.random_start(plain if plain < whole else NUM_DRAWS * whole)
            self._predictions.add(edges, self.order, start, self._generator)

    def sweep(self, edges: Sequence[EdgeMap], count: int, signs: torch.Generator | None) -> None:
        """Note the lengths of `count` cotangents, with random signs if there is a generator of them."""
        start = self.random_start(count)
        found = backpropagate(edges, self.order, start, signs, with_vectors=False)
        reference = log10_isotropic(start)
        for node in self.order:
            reached = found[node].log10_norm - reference if node in found else torch.tensor([-math.inf])
            record = self._lengths[node]
            (record.plain if signs is None else record.signed).append(reached)

    def random_start(self, count: int) -> dict[GridNode, Tensor]:
        """Isotropic cotangents [count, n] at each last state, orthogonal to each other as far as they can be.

        Together, and times the root of their size, they have the mean square of standard normal ones: as many
        as there are elements give the growth exactly. More than that come in whole bases, so that there may
        be fewer than `count`.
        """
        sizes = [self._sizes[node.layer] for node in self._targets]
        parts = torch.split(isotropic(count, sum(sizes), self._generator), sizes, 1)
        return dict(zip(self._targets, parts, strict=True))

    def start_everywhere(self, generator: torch.Generator) -> dict[GridNode, Tensor]:
        """Standard normal cotangents [1, n] at every state."""
        return {
            node: torch.randn(1, self._sizes[node.layer], generator=generator, dtype=torch.float64)
            for node in self.order
        }

    def growth(self, factor: Factor) -> Growth:
        """The table over (dt, dl) and its farthest entry.

        Args:
            factor: the mean radius or gain of the edge between two grid nodes.
        """
        counts = num_paths_from_each(self._grid, self._targets)
        coherent = log10_path_sums(self._grid, self._targets, lambda u, v, _: _log10(factor(u, v)))
        squared = log10_path_sums(self._grid, self._targets, lambda u, v, _: 2 * _log10(factor(u, v)))
        table = []
        cells = self.cells_by_lag()
        for (dl, dt), nodes in sorted(cells.items()):
            total = sum(counts.get(node, 0) for node in nodes)
            table.append(
                self._point(
                    dt,
                    dl,
                    nodes,
                    log10_num_paths=_minus(log10_of_count(total), math.log10(len(nodes))),
                    coherent=_log10_mean([coherent.get(node, -math.inf) for node in nodes]),
                    incoherent=_half(_log10_mean([squared.get(node, -math.inf) for node in nodes])),
                )
            )
        return self._growth(table, cells)

    def cells_by_lag(self) -> Mapping[tuple[int, int], list[GridNode]]:
        """Grid nodes by (dl, dt): layers below the last, and steps before the last one of their direction."""
        depth = depths(self._cells)
        deepest = max(depth.values())
        layers = {layer.id: layer for layer in self._cells.layers}
        cells: defaultdict[tuple[int, int], list[GridNode]] = defaultdict(list)
        for node in self.order:
            layer = layers[node.layer]
            dt = node.time if layer.time_step < 0 else self._cells.steps_of(layer) - 1 - node.time
            cells[deepest - depth[node.layer], dt].append(node)
        return cells

    def _point(
        self,
        dt: int,
        dl: int,
        nodes: Sequence[GridNode],
        *,
        log10_num_paths: float | None,
        coherent: float | None,
        incoherent: float | None,
    ) -> GrowthPoint:
        measured, signed = self._measured(nodes)
        return GrowthPoint(
            dt=dt,
            dl=dl,
            log10_num_paths=log10_num_paths,
            measured_log10=_finite(measured),
            coherent_log10=coherent,
            incoherent_log10=incoherent,
            mean_field_log10=self._predictions.log10("mean_field", nodes),
            resampled_log10=self._predictions.log10("resampled_runs", nodes),
            random_sign_log10=_finite(signed),
            coherence=_coherence(measured, signed, log10_num_paths),
        )

    def _measured(self, nodes: Sequence[GridNode]) -> tuple[float, float]:
        plain = [value for node in nodes for value in self._lengths[node].plain]
        signed = [value for node in nodes for value in self._lengths[node].signed]
        measured = log10_rms(torch.cat(plain))
        if math.isnan(measured) or measured == math.inf:
            raise AnalysisError(
                "A gradient is not a finite number",
                where=", ".join(f"{node.layer}, step {node.time}" for node in nodes),
                expected="finite local Jacobians along the trajectory",
                do="give inputs of the kind that the model was made for with --data FILE.npz",
            )
        return measured, log10_rms(torch.cat(signed)) if signed else math.nan

    def _growth(
        self, table: Sequence[GrowthPoint], cells: Mapping[tuple[int, int], Sequence[GridNode]]
    ) -> Growth:
        silent = cancelled_depths(table)
        farthest = max(table, key=lambda point: (point.dl not in silent, point.dl, point.dt))
        nodes = cells[farthest.dl, farthest.dt]
        _, signed = self._measured(nodes)
        half = None if farthest.log10_num_paths is None else farthest.log10_num_paths / 2
        local, interference = farthest.measured_log10, 0.0 if farthest.measured_log10 is not None else None
        if farthest.coherence is not None and half is not None:
            local, interference = signed - half, farthest.coherence * half
        return Growth(
            dt=farthest.dt,
            dl=farthest.dl,
            measured_log10=farthest.measured_log10,
            coherent_log10=farthest.coherent_log10,
            incoherent_log10=farthest.incoherent_log10,
            mean_field_log10=farthest.mean_field_log10,
            resampled_log10=farthest.resampled_log10,
            random_sign_log10=farthest.random_sign_log10,
            coherence=farthest.coherence,
            std_error=self._std_error(nodes),
            paths_log10=half,
            local_log10=local,
            interference_log10=interference,
            table=tuple(table),
        )

    def _std_error(self, nodes: Sequence[GridNode]) -> float | None:
        """Of log10 of the growth, over samples."""
        by_sample = zip(*(self._lengths[node].plain for node in nodes), strict=True)
        logs = torch.tensor([log10_rms(torch.cat(lengths)) for lengths in by_sample], dtype=torch.float64)
        if len(logs) < 2 or not bool(logs.isfinite().all()):
            return None
        return float(logs.std()) / math.sqrt(len(logs))


def _counts(largest: int) -> tuple[int, int]:
    """Cotangents of a plain and of a signed sweep."""
    return next((counts for size, counts in _COUNTS if largest <= size), _FEWEST)


def _elements(cells: CellGraph) -> int:
    """What the cotangents of the largest layer hold at one step."""
    largest = max(layer.state_size for layer in cells.layers)
    return largest * max(_counts(largest))


def _has_maps(edges: Sequence[EdgeMap]) -> bool:
    return any(isinstance(edge.pull, MapsPull) for edge in edges)


def cancelled_depths(table: Sequence[GrowthPoint]) -> tuple[int, ...]:
    """The distances in depth from which the gradient cancels to rounding, in the farther half of the times.

    So it does from what is put in such that its value makes no difference, as stabilisers of exponentials.
    """
    gaps: defaultdict[int, list[float]] = defaultdict(list)
    longest = {point.dl: point.dt for point in sorted(table, key=lambda point: point.dt)}
    for point in table:
        is_far = point.dt >= max(_SETTLED, longest[point.dl] / 2)
        if is_far and point.random_sign_log10 is not None:
            measured = point.measured_log10
            gaps[point.dl].append(math.inf if measured is None else point.random_sign_log10 - measured)
    return tuple(dl for dl, own in gaps.items() if min(own) > _CANCELLED)


def _coherence(measured: float, signed: float, log10_num_paths: float | None) -> float | None:
    """kappa = log(measured / signed) / (1/2 log N)."""
    if not log10_num_paths or not math.isfinite(measured) or not math.isfinite(signed):
        return None
    return (measured - signed) / (0.5 * log10_num_paths)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _log10_mean(logs: Sequence[float]) -> float | None:
    top = max(logs)
    if not math.isfinite(top):
        return None
    return top + math.log10(sum(10 ** (value - top) for value in logs) / len(logs))


def _half(value: float | None) -> float | None:
    return None if value is None else value / 2


def _minus(value: float | None, other: float) -> float | None:
    return None if value is None else value - other


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
