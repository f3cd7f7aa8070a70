"""Counts and factors on the nodes and edges of a grid."""

from __future__ import annotations

import itertools
import math

import pytest
from cell_graphs import bidirectional, stack
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.grid.unroll import GridNode, first_states, last_states, unroll
from lsc_graph.unrolling.annotate import annotate_counts, annotate_factors


@pytest.mark.parametrize("cells", [stack(4, 7), bidirectional(3, 6)])
def test_what_flows_in_flows_out(cells) -> None:
    grid = unroll(cells)
    starts, ends = set(first_states(cells)), set(last_states(cells))
    annotate_counts(grid, starts, ends)
    for node, data in grid.nodes(data=True):
        into = sum(grid.edges[edge]["num_paths"] for edge in grid.in_edges(node))
        out = sum(grid.edges[edge]["num_paths"] for edge in grid.out_edges(node))
        if node not in starts | ends:
            assert into == data["num_paths"] == out
        assert data.get("log10_num_paths") == (math.log10(data["num_paths"]) if data["num_paths"] else None)


def test_factors_are_those_of_the_audit() -> None:
    analysis = audit(registry.build("linear_orthogonal_rnn"), num_steps=8, num_samples=1)
    grid = unroll(stack_of(analysis))
    annotate_factors(grid, analysis.layers)
    time = grid.edges[GridNode("layer_0", 0), GridNode("layer_0", 1)]
    depth = grid.edges[GridNode("layer_0", 0), GridNode("layer_1", 0)]
    assert [time["radius"], time["gain"], depth["radius"]] == pytest.approx([0.5] * 3, abs=1e-4)


def stack_of(analysis):
    from cell_graphs import cell_graph

    from lsc_graph.layers.cells import DepthEdge

    ids = [layer.id for layer in analysis.layers]
    return cell_graph(dict.fromkeys(ids, 1), [DepthEdge(a, b) for a, b in itertools.pairwise(ids)], 3)
