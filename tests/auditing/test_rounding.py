"""What is rounded otherwise is another number everywhere, and hardly so."""

from __future__ import annotations

import numpy as np
import torch
from lsc_graph.models import registry
from onnx import numpy_helper

from lsc_graph.auditing.rounding import (
    inputs_rounded_otherwise,
    run_rounded_otherwise,
    weights_rounded_otherwise,
)
from lsc_graph.to_torch.program import Run


def is_hardly_moved(before: np.ndarray, after: np.ndarray) -> bool:
    """Every element that is not zero is another one, by less than a few units in its last place."""
    allowed = 4 * np.finfo(before.dtype).eps * np.abs(before)
    nonzero = before != 0
    moved = np.abs(after.astype(float) - before)
    return before.dtype == after.dtype and bool((moved <= allowed).all() and (moved[nonzero] > 0).all())


def test_inputs_are_moved_by_one_place_and_integers_are_not() -> None:
    given = {"x": np.linspace(0.1, 3, 50, dtype=np.float32), "n": np.arange(5)}
    found = inputs_rounded_otherwise(given)
    assert is_hardly_moved(given["x"], found["x"])
    assert np.array_equal(found["n"], given["n"])


def test_weights_are_moved_in_a_copy() -> None:
    proto = registry.build("scan_gru")
    kept = proto.SerializeToString()
    found = weights_rounded_otherwise(proto)
    assert proto.SerializeToString() == kept
    floats = 0
    for before, after in zip(proto.graph.initializer, found.graph.initializer, strict=True):
        own, other = numpy_helper.to_array(before), numpy_helper.to_array(after)
        if own.dtype.kind == "f":
            floats += 1
            assert is_hardly_moved(own, other)
        else:
            assert np.array_equal(own, other)
    assert floats > 1


def test_all_numbers_of_a_run_are_moved() -> None:
    values, boundary = torch.linspace(0.1, 3, 50), torch.linspace(1, 2, 9)
    run = Run({"y": values, "n": torch.arange(3)}, boundaries=(boundary,))
    found = run_rounded_otherwise(run, torch.Generator().manual_seed(0))
    assert is_hardly_moved(values.numpy(), found.outputs["y"].numpy())
    assert is_hardly_moved(boundary.numpy(), found.boundaries[0].numpy())
    assert torch.equal(found.outputs["n"], torch.arange(3))
