"""`lsc-graph unroll`"""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
from lsc_graph.cli.main import run
from lsc_graph.models import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ["gru"])
    return folder


@pytest.mark.parametrize("suffix", ["graphml", "gexf", "json", "dot", "svg", "png"])
def test_every_suffix_gives_a_file(
    zoo: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / f"grid.{suffix}"
    assert run(["unroll", str(zoo / "gru.onnx"), "--steps", "5", "-o", str(output)]) == 0
    # x, y and two layers at 5 steps, and the final states at the last.
    assert "21 nodes" in capsys.readouterr().out
    assert output.stat().st_size > 100


def test_nodes_and_measured_radii_go_into_the_file(zoo: Path, tmp_path: Path) -> None:
    model = str(zoo / "gru.onnx")
    nodes, layers = tmp_path / "nodes.graphml", tmp_path / "layers.graphml"
    assert run(["unroll", model, "--steps", "3", "--nodes", "-o", str(nodes)]) == 0
    assert run(["unroll", model, "--steps", "3", "--measure", "-o", str(layers)]) == 0
    assert {data["kind"] for _, data in nx.read_graphml(nodes).nodes(data=True)} == {
        "onnx_node",
        "input",
        "output",
    }
    edge = nx.read_graphml(layers).edges["layer_0@0", "layer_0@1"]
    assert 0 < edge["radius"] < 2
    assert 0 < edge["gain"] < 2


@pytest.mark.parametrize(
    "options",
    [["-o", "grid.gif"], [], ["--nodes", "--from", "first", "-o", "g.dot"], ["-o", "no/such/g.dot"]],
)
def test_wrong_requests_exit_with_2(zoo: Path, options: list[str]) -> None:
    assert run(["unroll", str(zoo / "gru.onnx"), "--steps", "3", *options]) == 2
