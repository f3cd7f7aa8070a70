"""Every format can be read back, with every node, edge and attribute."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest
from cell_graphs import stack, with_terminals

from lsc_graph.drawing.grid_files import format_of, write_grid
from lsc_graph.errors import UsageError
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.unrolling.annotate import annotate_counts

READERS = {
    ".graphml": nx.read_graphml,
    ".gexf": nx.read_gexf,
    ".json": lambda path: nx.node_link_graph(json.loads(Path(path).read_text()), edges="links"),
}


def counted(num_steps: int = 4):
    grid = unroll(with_terminals(stack(3)), num_steps)
    annotate_counts(grid, [GridNode("l0", 0)], [GridNode("l2", num_steps - 1)])
    return grid


@pytest.mark.parametrize("suffix", READERS)
def test_a_graph_file_holds_the_grid(suffix: str, tmp_path: Path) -> None:
    grid = counted()
    write_grid(grid, tmp_path / f"grid{suffix}")
    back = READERS[suffix](tmp_path / f"grid{suffix}")
    assert back.is_directed()
    assert set(back.nodes) == {f"{node.layer}@{node.time}" for node in grid}
    assert {(u, v) for u, v in back.edges()} == {
        (f"{u.layer}@{u.time}", f"{v.layer}@{v.time}") for u, v in grid.edges
    }
    node = back.nodes["l1@2"]
    assert (node["layer"], node["time"], node["depth"], node["kind"]) == ("l1", 2, 2, "recurrent")
    assert node["num_paths"] == str(grid.nodes[GridNode("l1", 2)]["num_paths"])
    edge = back.edges["l0@0", "l1@0"]
    assert (edge["kind"], edge["from_layer"], edge["to_layer"]) == ("depth", "l0", "l1")


def test_a_dot_file_names_every_node_edge_and_rank(tmp_path: Path) -> None:
    grid = counted()
    write_grid(grid, tmp_path / "grid.dot")
    text = (tmp_path / "grid.dot").read_text()
    assert text.count("->") == grid.number_of_edges()
    assert text.count("rank=same") == 5
    assert '"l0@0" -> "l0@1" [kind="time"' in text
    assert text.startswith("digraph")


def test_names_with_quotes_stay_one_name(tmp_path: Path) -> None:
    grid = nx.DiGraph()
    grid.add_node(GridNode('a"b\\c', 0), name="x", depth=0, kind="recurrent")
    write_grid(grid, tmp_path / "grid.dot")
    assert r'"a\"b\\c@0" [' in (tmp_path / "grid.dot").read_text()


@pytest.mark.parametrize("name", ["grid.gif", "grid"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such graph format"):
        write_grid(counted(), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_suffixes_are_read_in_any_case() -> None:
    assert format_of("A.SVG") is format_of("a.svg")
