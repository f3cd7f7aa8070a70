"""Weights that are stacked over layers: each layer's rows are moved, and nothing else of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from layered_models import WAYS, H, weights
from onnx import numpy_helper

from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.writeback.difference import differences

STACKED = {"U", "W", "b"}


def written(way: str, folder: Path, **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model of three layers, and what pre-training makes of it."""
    path, output = folder / "in.onnx", folder / "out.onnx"
    onnx.save(WAYS[way](3), path)
    report = pretrain_file(path, output, target="half", **options)
    for change in report.radii:
        assert change.written is not None
        is_near = abs(change.written.mean - change.target) <= 0.02 + 4 * change.written.std_error
        assert "max_iterations" in options or is_near, change
    return onnx.load(path), onnx.load(output)


def values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["scans", "scans along other axes", "loop that scatters in a loop", "scan around scan"]
)
def test_only_the_stacked_tensors_change_and_every_layer_is_at_its_target(way: str, tmp_path: Path) -> None:
    before, after = written(way, tmp_path)
    note = next(entry for entry in after.metadata_props if entry.key == PROVENANCE)
    after.metadata_props.remove(note)
    changed = list(differences(before, after))
    assert changed
    assert all("initializer" in path and path.endswith("raw_data") for path in changed)
    old, new = values(before), values(after)
    assert {name for name in old if not np.array_equal(old[name], new[name])} <= STACKED


def test_one_layer_is_frozen_by_its_place_in_the_stack(tmp_path: Path) -> None:
    old, new = map(values, written("scans", tmp_path, freeze=["U[1]", "W"], max_iterations=1))
    assert np.array_equal(old["W"], new["W"])
    assert [bool(np.array_equal(*rows)) for rows in zip(old["U"], new["U"], strict=True)] == [
        False,
        True,
        False,
    ]


@pytest.mark.slow
def test_saved_weights_are_the_tensors_of_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "weights.safetensors"
    _, after = written("scans", tmp_path, max_iterations=1, save_weights=path)
    saved, stored = load_file(path), values(after)
    assert {"U", "W"} <= set(saved) <= STACKED
    assert all(np.array_equal(saved[name], stored[name]) for name in saved)
    assert stored["U"].shape == weights(3)["U"].shape == (3, H, H)
