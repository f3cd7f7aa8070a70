"""Samples together are samples one by one, whatever `vmap` can do."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.pretraining.batches import Together, part, stacked


def test_what_can_be_mapped_is_mapped() -> None:
    together, x = Together(), torch.arange(6.0).reshape(3, 2)
    found = together.each(lambda tree: {"y": tree["x"] * 2, "z": [tree["x"].sum()]}, {"x": x})
    assert together.is_possible
    torch.testing.assert_close(found["y"], 2 * x)
    torch.testing.assert_close(found["z"][0], x.sum(1))


def test_what_decides_by_values_goes_one_by_one() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sqrt() if float(x) > 0 else x

    together, x = Together(), torch.tensor([4.0, -1.0, 9.0])
    torch.testing.assert_close(together.each(function, x), torch.tensor([2.0, -1.0, 3.0]))
    assert not together.is_possible


def test_stacked_trees_have_their_parts() -> None:
    trees = [{"a": torch.full((2,), float(k)), "b": (torch.tensor(k),)} for k in range(3)]
    whole = stacked(trees)
    assert whole["a"].shape == (3, 2)
    assert int(part(whole, 2)["b"][0]) == 2
