"""The grid of a model, with what is known about it."""

from __future__ import annotations

import math

import pytest
from lsc_graph.models import registry

from lsc_graph.grid.unroll import GridNode
from lsc_graph.unrolling import unroll_model as module
from lsc_graph.unrolling.unroll_model import unroll_model


def test_inputs_and_outputs_are_nodes_and_counts_are_on_everything() -> None:
    grid = unroll_model(registry.build("pascal_rnn"), num_steps=6)
    kinds = {data["kind"] for _, data in grid.nodes(data=True)}
    assert kinds == {"input", "output", "recurrent"}
    assert grid.nodes[GridNode("layer_2", 5)]["num_paths"] == math.comb(7, 2)
    # Final states are written once.
    assert [node for node in grid if node.layer == "output:h_n"] == [GridNode("output:h_n", 5)]


def test_paths_can_be_counted_between_chosen_states() -> None:
    grid = unroll_model(
        registry.build("pascal_rnn"), num_steps=6, sources=["input:x@2"], targets=["output:y@every"]
    )
    assert grid.nodes[GridNode("input:x", 2)]["num_paths"] == math.comb(3 + 3, 3)


def test_nodes_are_counted_from_inputs_to_outputs() -> None:
    grid = unroll_model(registry.build("residual_mlp"), nodes=True)
    assert grid.nodes[GridNode("input:x", 0)]["num_paths"] == 2**8


def test_large_grids_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COUNTED_NODES", 10)
    grid = unroll_model(registry.build("gru"), num_steps=6)
    assert "num_paths" not in grid.nodes[GridNode("layer_0", 0)]
