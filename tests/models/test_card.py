"""Path counts on the cards against enumeration, on grids built from the definitions and from the graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
import onnx
import pytest

from lsc_graph import models
from lsc_graph.errors import UsageError

Grid = nx.DiGraph

SMALL = [(num_layers, num_steps) for num_layers in (1, 2, 3, 4) for num_steps in (1, 2, 4)]


def enumerate_paths(grid: Grid, sources: list[Any], targets: list[Any]) -> int:
    """How many simple paths there are, one by one; a path of no edges counts."""
    return sum(
        1 if source == target else sum(1 for _ in nx.all_simple_paths(grid, source, target))
        for source in sources
        for target in targets
    )


def rectangle(num_layers: int, num_steps: int, reads: Callable[[int, int], bool]) -> Grid:
    """Cells (layer, time); `reads(a, b)` says whether layer b reads layer a at equal times."""
    grid = nx.DiGraph()
    layers, steps = range(num_layers), range(num_steps)
    grid.add_nodes_from((layer, time) for layer in layers for time in steps)
    grid.add_edges_from(((layer, t), (layer, t + 1)) for layer in layers for t in range(num_steps - 1))
    grid.add_edges_from(((a, t), (b, t)) for a in layers for b in layers for t in steps if reads(a, b))
    return grid


def count(num_layers: int, num_steps: int, reads: Callable[[int, int], bool]) -> int:
    grid = rectangle(num_layers, num_steps, reads)
    return enumerate_paths(grid, [(0, 0)], [(num_layers - 1, num_steps - 1)])


@pytest.mark.parametrize(("num_layers", "num_steps"), SMALL)
def test_chain_counts_are_those_of_enumeration(num_layers: int, num_steps: int) -> None:
    card = models.card("pascal_rnn", num_layers=num_layers)
    assert card.num_gradient_paths(num_steps) == count(num_layers, num_steps, lambda a, b: b == a + 1)


@pytest.mark.parametrize(("num_layers", "num_steps"), SMALL)
def test_skip_counts_are_those_of_enumeration(num_layers: int, num_steps: int) -> None:
    card = models.card("lru", num_layers=num_layers)
    assert card.num_gradient_paths(num_steps) == count(num_layers, num_steps, lambda a, b: b > a)


@pytest.mark.parametrize(("num_layers", "num_steps"), SMALL)
def test_bidirectional_counts_are_those_of_enumeration(num_layers: int, num_steps: int) -> None:
    grid = nx.DiGraph()
    cells = [(depth, way, t) for depth in range(num_layers) for way in (1, -1) for t in range(num_steps)]
    grid.add_nodes_from(cells)
    for depth, way, t in cells:
        if 0 <= t + way < num_steps:
            grid.add_edge((depth, way, t), (depth, way, t + way))
        if depth + 1 < num_layers:
            grid.add_edges_from(((depth, way, t), (depth + 1, above, t)) for above in (1, -1))
    last = num_steps - 1
    expected = enumerate_paths(
        grid,
        [(0, 1, 0), (0, -1, last)],
        [(num_layers - 1, 1, last), (num_layers - 1, -1, 0)],
    )
    assert models.card("bidirectional_lstm", num_layers=num_layers).num_gradient_paths(num_steps) == expected


@pytest.mark.parametrize("num_steps", [1, 2, 9, 1_000_000])
def test_two_bidirectional_layers_have_four_paths_per_step(num_steps: int) -> None:
    assert models.card("bidirectional_lstm").num_gradient_paths(num_steps) == 4 * num_steps


def layers_of(model: onnx.ModelProto, state_inputs: list[str]) -> set[tuple[int, int]]:
    """Which layer reads which within a step, from the graph: from each new state to the nearest others."""
    producers = {output: node for node in model.graph.node for output in node.output}
    afters = [value.name for value in model.graph.output if value.name != "y"]
    layer_of_after = {after: layer_number(before) for before, after in zip(state_inputs, afters, strict=True)}
    reads = set()
    for after, layer in layer_of_after.items():
        pending, seen = list(producers[after].input), set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            below = layer_of_after.get(value, layer)
            if below != layer:
                reads.add((below, layer))
            elif value in producers:
                pending += producers[value].input
            assert value not in state_inputs or layer_number(value) == layer
    return reads


def layer_number(state: str) -> int:
    return int("".join(filter(str.isdigit, state)))


@pytest.mark.parametrize("num_layers", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("streaming_gru", {}),
        ("lru", {}),
        ("alif", {}),
        ("alif_smooth", {}),
        ("pascal_rnn", {"form": "streaming"}),
        ("linear_orthogonal_rnn", {"form": "streaming"}),
    ],
)
def test_the_counts_follow_from_the_streaming_graph_itself(
    name: str, options: dict[str, Any], num_layers: int
) -> None:
    model = models.build(name, num_layers=num_layers, **options)
    reads = layers_of(model, [value.name for value in model.graph.input if value.name != "x"])
    card = models.card(name, num_layers=num_layers, **options)
    assert card.num_gradient_paths(3) == count(num_layers, 3, lambda a, b: (a, b) in reads)


def test_a_feed_forward_network_has_one_step_and_one_path() -> None:
    card = models.card("feed_forward_relu")
    assert card.num_gradient_paths(1) == 1
    with pytest.raises(UsageError, match="number of steps"):
        card.num_gradient_paths(2)


def test_an_unrolled_network_has_the_steps_that_it_has() -> None:
    card = models.card("unrolled_gru", num_steps=5)
    assert card.num_gradient_paths(5) == 5
    with pytest.raises(UsageError, match="number of steps"):
        card.num_gradient_paths(6)


def test_no_steps_are_no_grid() -> None:
    with pytest.raises(UsageError, match="number of steps"):
        models.card("gru").num_gradient_paths(0)
