"""However a step is written, the structure that is found says what autograd says; and where it is found."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from single_runs import top_cell
from step_variants import VARIANTS, optimised

from lsc_graph.jacobians.blocks import unit_blocks
from lsc_graph.jacobians.cell import batched_jacobians, cell_points, flat_from, flatten
from lsc_graph.jacobians.cell_radius import own_reads
from lsc_graph.jacobians.gated import gated_jacobians
from lsc_graph.to_torch.loop import CellModule, Trajectory

STEPS = 5
# Of the largest element.
ROUNDING = 1e-6


def true_jacobians(module: CellModule, trajectory: Trajectory) -> torch.Tensor:
    points = cell_points(module, trajectory)
    found = batched_jacobians(lambda *values: flatten(module(*values)), points, own_reads(module))
    return torch.cat([flat_from(block, 2) for block in found], 2)


def found_structure(module: CellModule, trajectory: Trajectory) -> tuple[str, torch.Tensor | None]:
    """The form that is found, and the matrices that it stands for."""
    generator = torch.Generator().manual_seed(0)
    if (units := unit_blocks(module, trajectory, generator)) is not None:
        return "units", units.dense()
    points = cell_points(module, trajectory)
    gated = gated_jacobians(module, points, own_reads(module), generator)
    return ("dense", None) if gated is None else ("gated", gated.dense())


def check(model: onnx.ModelProto, form: str) -> None:
    module, trajectory = top_cell(model, STEPS)
    with torch.no_grad():
        expected = true_jacobians(module, trajectory)
        found, matrices = found_structure(module, trajectory)
    assert bool(expected.any())
    if matrices is not None:
        assert float((matrices - expected).abs().max()) <= ROUNDING * float(expected.abs().max())
    assert found == form


@pytest.mark.parametrize("name", VARIANTS)
def test_structure_is_found_and_says_what_autograd_says(name: str) -> None:
    check(VARIANTS[name].model(), VARIANTS[name].form)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_so_it_is_after_onnx_runtime_has_rewritten_the_step(name: str, tmp_path: Path) -> None:
    check(optimised(VARIANTS[name].model(), tmp_path), VARIANTS[name].form)
