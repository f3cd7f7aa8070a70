"""Directions pushed over the grid of local Jacobians, beside those pushed through the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import jvp

from lsc_graph.auditing.autograd_check import FAR_SHARE
from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming
from lsc_graph.errors import AnalysisError
from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.cell import flatten
from lsc_graph.jacobians.forward import turned, turned_edges
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.growth import swept
from lsc_graph.layers.cells import CellGraph, Layer, size
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.loop import SiteModule
from lsc_graph.to_torch.program import ChainProgram

Model = Sequences | Streaming | FeedForward
# What is put in is added in single precision.
_ROUNDING = 1e-5


def check_against_pushes(
    model: Model,
    sample: Sample,
    edges: Sequence[EdgeMap],
    cells: CellGraph,
    order: Sequence[GridNode],
    start: Mapping[GridNode, Tensor],
) -> None:
    """Compare what becomes of directions over the grid with what a run of the whole model makes of them.

    If an edge were missing from the cell graph, or a block wrong, the two would differ.

    Args:
        model, sample: what is run.
        edges: those of the grid, known by pushes.
        cells: the cell graph.
        order: the nodes of the turned grid.
        start: directions [1, n] at nodes of that.

    Raises:
        AnalysisError: they differ.
    """
    own = {turned(node, cells): rows[0] for node, rows in start.items()}
    actual = pushed_states(model, sample, cells, own)
    reached = dict(swept(turned_edges(edges, cells, is_scaled=False), order, start))
    for node, given in actual.items():
        found = reached.get(turned(node, cells))
        expected = torch.zeros_like(given) if found is None else found.vectors()[0].cpu()
        put_in = own.get(node, torch.zeros_like(given))
        scale = max(float((expected - put_in).norm()), float((given - put_in).norm()))
        allowed = FAR_SHARE * scale + _ROUNDING * float(put_in.norm())
        if not float((given - expected).norm()) <= allowed:
            raise AnalysisError(
                "The cell graph does not account for the whole derivative, so nothing is reported",
                where=f"{node.layer}, step {node.time}",
                got=f"a direction of length {float(expected.norm()):.4g} over the grid",
                expected=f"{float(given.norm()):.4g}, as a run of the model gives",
                do="please report this model",
            )


def pushed_states(
    model: Model, sample: Sample, cells: CellGraph, start: Mapping[GridNode, Tensor]
) -> dict[GridNode, Tensor]:
    """What directions at states become at every state, in forward mode through a whole run (float64)."""
    names = _names(model, cells)
    tangents = {
        state.name: torch.stack([_part(start, layer, index, time) for time in range(cells.steps_of(layer))])
        for layer in cells.layers
        for index, state in enumerate(layer.states)
    }
    given = tuple(tangents[name] for name in names)

    def run(*shifts: Tensor) -> tuple[Tensor, ...]:
        with _shifted(model, dict(zip(names, shifts, strict=True))):
            found = _states(model, sample, cells)
        return tuple(found[name] for name in names)

    moved = jvp(run, tuple(torch.zeros_like(own) for own in given), given)[1]
    by_state = dict(zip(names, moved, strict=True))
    return {
        GridNode(layer.id, time): flatten([by_state[state.name][time] for state in layer.states]).double()
        for layer in cells.layers
        for time in range(cells.steps_of(layer))
    }


def _names(model: Model, cells: CellGraph) -> list[str]:
    """Of all states that directions are put in at."""
    return [state.name for layer in cells.layers for state in layer.states]


@contextmanager
def _shifted(model: Model, shifts: Mapping[str, Tensor]) -> Iterator[None]:
    """Every state is shifted while the model runs."""
    program = model.program
    parts: list[ChainProgram | SiteModule] = []
    if isinstance(program, ChainProgram):
        program.shifts = [own[0] for own in shifts.values()]
        parts.append(program)
    else:
        for site in program.sites:
            assert isinstance(site, SiteModule)
            site.shifts = {state.name: shifts[state.name] for state in site.layered}
            parts.append(site)
    try:
        yield
    finally:
        for part in parts:
            part.shifts = None


def _states(model: Model, sample: Sample, cells: CellGraph) -> dict[str, Tensor]:
    """All states of a run [T, ...]."""
    run = model.run(sample)
    if isinstance(model, FeedForward):
        layers = zip(cells.layers, run.boundaries, strict=True)
        return {layer.states[0].name: value[None] for layer, value in layers}
    return {name: value for trajectory in run.trajectories for name, value in trajectory.after.items()}


def _part(start: Mapping[GridNode, Tensor], layer: Layer, index: int, time: int) -> Tensor:
    """The direction of one state of a layer at one time; zeros where there is none."""
    sizes, shape = [size(state.shape) for state in layer.states], layer.states[index].shape
    whole = start.get(GridNode(layer.id, time))
    if whole is None:
        return torch.zeros(shape)
    return torch.split(whole, sizes)[index].reshape(shape).float()
