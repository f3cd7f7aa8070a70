"""The grid of ONNX nodes: more paths where a step has several, the same where it has one."""

from __future__ import annotations

import networkx as nx
import pytest
from delayed_models import DELAYED, FORMS, NEAR_MISSES, T, asked
from lsc_graph.models import registry
from lsc_graph.models.forms import Step, in_form

from lsc_graph.counting.model_cells import model_cells
from lsc_graph.errors import LimitExceededError
from lsc_graph.grid.paths import num_gradient_paths
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.results import Form
from lsc_graph.unrolling import unroll_nodes as module
from lsc_graph.unrolling.unroll_nodes import unroll_nodes


def grids(name: str, num_steps: int | None, **options: object):
    prepared, cells, _ = model_cells(registry.build(name, **options), num_steps=num_steps)
    return unroll_nodes(prepared, cells), unroll(cells)


def between(grid, source: str, target: str) -> int:
    starts, ends = ([node for node in grid if node.layer == name] for name in (source, target))
    return num_gradient_paths(grid, starts, ends)


@pytest.mark.parametrize(
    ("name", "num_steps"), [("tanh_rnn", 6), ("pascal_rnn", 6), ("relu_rnn", 1), ("feed_forward_sin", None)]
)
def test_where_a_step_is_a_single_way_the_counts_are_those_of_the_layers(name, num_steps) -> None:
    nodes, layers = grids(name, num_steps)
    assert between(nodes, "input:x", "output:y") == between(layers, "input:x", "output:y")


def test_a_residual_block_has_two_ways() -> None:
    nodes, _ = grids("residual_mlp", None)
    assert between(nodes, "input:x", "output:y") == 2**8


def test_every_gate_of_an_lstm_is_a_way() -> None:
    nodes, _ = grids("lstm", 1, num_layers=1)
    # From x by the input, output and cell gates; by the forget gate only through the state before.
    assert between(nodes, "input:x", "output:y") in (3, 4)
    longer, layers = grids("lstm", 3, num_layers=1)
    assert between(longer, "input:x", "output:y") > between(layers, "input:x", "output:y")


@pytest.mark.parametrize("name", ["streaming_gru", "scan_gru"])
def test_forms_of_the_same_network_have_the_same_number_of_ways(name: str) -> None:
    nodes, _ = grids(name, 4)
    other, _ = grids("streaming_gru", 4)
    assert between(nodes, "input:x", "output:y") == between(other, "input:x", "output:y") > 0


def num_ways(step: Step, num_steps: int) -> int:
    """From x to y through all nodes of the steps, written out one after another."""
    ways = {"x": 1}
    for node in in_form(step, Form.UNROLLED, num_steps).graph.node:
        total = 0 if node.op_type == "Shape" else sum(ways.get(value, 0) for value in set(node.input))
        ways |= dict.fromkeys(node.output, total)
    return ways["y"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*DELAYED, *NEAR_MISSES])
def test_every_form_has_as_many_ways_as_the_steps_written_out(name: str, form: str) -> None:
    make = (DELAYED | NEAR_MISSES)[name][0]
    prepared, cells, _ = model_cells(FORMS[form](make()), **asked(form))
    nodes = unroll_nodes(prepared, cells)
    output = "output:all_y" if "dynamo" in form else "output:y"
    assert between(nodes, "input:x", output) == num_ways(make(), T)


@pytest.mark.parametrize("name", ["bidirectional_lstm", "gru", "lru", "alif"])
def test_edges_go_from_step_to_step_and_make_no_circle(name: str) -> None:
    nodes, _ = grids(name, 4)
    assert nx.is_directed_acyclic_graph(nodes)
    for tail, head, data in nodes.edges(data=True):
        assert data["num_uses"] >= 1
        if data["kind"] == "within":
            assert tail.time == head.time
            assert nodes.nodes[tail]["depth"] < nodes.nodes[head]["depth"]
        if data["kind"] == "time":
            assert abs(tail.time - head.time) == 1
    assert {data["kind"] for _, data in nodes.nodes(data=True)} == {"onnx_node", "input", "output"}


def test_a_threshold_cuts_the_ways_from_input_to_output() -> None:
    assert between(grids("alif", 4)[0], "input:x", "output:y") == 0
    assert between(grids("alif_smooth", 4)[0], "input:x", "output:y") > 0


def test_nodes_lead_somewhere() -> None:
    nodes, _ = grids("lstm", 4)
    ends = {node for node in nodes if not nodes.out_degree(node)}
    last = {node for node in ends if node.layer.startswith("output:") or node.time == 3}
    assert ends == last
    assert GridNode("input:x", 0) in nodes


def test_a_graph_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GRID_NODES", 100)
    with pytest.raises(LimitExceededError, match="ONNX nodes x 50 steps"):
        grids("gru", 50)
