"""What delays carry is differentiated by the chain rule, as finite differences of the step do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from delayed_models import DELAYED, D
from lsc_graph.models.forms import in_form

from lsc_graph.auditing.measure import Sequences, measured_model
from lsc_graph.jacobians import local
from lsc_graph.jacobians.grid import edge_maps
from lsc_graph.jacobians.local import LocalJacobians, local_jacobians
from lsc_graph.layers.cells import CellGraph
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.results import Form
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.loop import SiteModule

T = 6


def measured(name: str) -> tuple[Sequences, dict[str, torch.Tensor], LocalJacobians]:
    model = in_form(DELAYED[name][0](), Form.SCAN, T)
    prepared = prepare(model, Request(None, {}, {"x": (T, 1, D)}, (), {}))
    view = measured_model(prepared, "cpu", torch.Generator().manual_seed(0))
    assert isinstance(view, Sequences)
    x = np.random.default_rng(0).standard_normal((T, 1, D)).astype(np.float32)
    inputs = {"x": torch.from_numpy(x)}
    run = view.run(Sample({"x": x}, {}))
    return view, inputs, local_jacobians(view.program, run, inputs, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["a window of 3", "token shift", "taps of a layer"])
def test_the_blocks_of_all_lags_are_those_of_one_step(name: str) -> None:
    """The states of the lower layer are given, as those of other recurrences are."""
    view, inputs, found = measured(name)
    (site,) = view.program.sites
    assert isinstance(site, SiteModule)
    run = view.program(inputs)
    (trajectory,) = run.trajectories
    lower, upper = (own.layer for own in view.prepared.cells[0])
    below, above = lower.states[0].name, upper.states[0].name
    slices = trajectory.slices

    def read(states: torch.Tensor) -> torch.Tensor:
        """The upper state at every step, from the true one before and the given ones below."""
        rows = []
        state = {own.name: trajectory.before[own.name][0] for own in site.site.states}
        for time in range(T):
            now = {key: value[time] for key, value in slices.items()}
            after = {below: states[time]}
            module = site.cells[1]
            pools = {"before": state | {above: trajectory.before[above][time]}, "after": after}
            pools |= {"slice": now, "capture": trajectory.captures}
            rows.append(module(*(pools[kind][key] for kind, key in module.reads))[0])
            new = site._emit(trajectory.captures, after | {above: rows[-1]}, state, now)
            kept = new[len(site.site.outputs) :]
            state = state | after | {own.name: value for own, value in zip(site.counters, kept, strict=True)}
        return torch.stack(rows)

    whole = torch.autograd.functional.jacobian(read, trajectory.after[below].detach())
    expected = whole.reshape(T, upper.state_size, T, lower.state_size)
    blocks = {pair: block for own in found.depth for pair, block in zip(own.pairs, own.blocks, strict=True)}
    assert {own.edge.lag for own in found.depth} == {-when for when in DELAYED[name][2][1][0]}
    for target in range(T):
        for source in range(T):
            block = blocks.get((source, target), torch.zeros(upper.state_size, lower.state_size))
            torch.testing.assert_close(block, expected[target, :, source], atol=1e-6, rtol=1e-5)


def test_large_layers_have_the_same_edges_by_their_products(monkeypatch: pytest.MonkeyPatch) -> None:
    view, inputs, dense = measured("taps of a layer")
    monkeypatch.setattr(local, "MAPS_FROM", 1)
    run = view.program(inputs)
    maps = local_jacobians(view.program, run, inputs, torch.Generator().manual_seed(0))
    assert not maps.depth
    cells = view.prepared.cell_graph
    probe = torch.randn(3, cells.layers[-1].state_size, dtype=torch.float64)
    expected, found = (_pulled(cells, own, probe) for own in (dense, maps))
    assert expected.keys() == found.keys()
    for ends, rows in expected.items():
        torch.testing.assert_close(found[ends], rows, atol=1e-6, rtol=1e-5)


def _pulled(cells: CellGraph, jacobians: LocalJacobians, probe: torch.Tensor) -> dict[object, torch.Tensor]:
    return {(edge.tail, edge.head): edge.pull(probe) for edge in edge_maps(cells, jacobians)}
