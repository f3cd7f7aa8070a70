"""An unrolled grid as a file: GraphML, GEXF, node-link JSON, DOT, or a drawing, by suffix."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from lsc_graph.errors import UsageError
from lsc_graph.files import write_bytes
from lsc_graph.grid.unroll import GridNode


def write_grid(grid: nx.DiGraph[GridNode], path: str | os.PathLike[str], title: str = "") -> None:
    """Write a grid in the format of the file's suffix. Nodes are called LAYER@TIME.

    Args:
        grid: from `unroll` or `unroll_nodes`; its attributes are written as well.
        path: a file ending in .graphml, .gexf, .json, .dot, .svg or .png.
        title: of a drawing.

    Raises:
        UsageError: there is no such format, or drawings need matplotlib, which is not installed.
        OSError: the file cannot be written.
    """
    write_bytes(path, format_of(path)(grid, title))


def format_of(path: str | os.PathLike[str]) -> Callable[[nx.DiGraph[GridNode], str], bytes]:
    """The function that makes a file's bytes. Raises UsageError for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(
            "There is no such graph format",
            where=str(path),
            got=suffix or "no suffix",
            expected=", ".join(_FORMATS),
        )
    return _FORMATS[suffix]


def _named(grid: nx.DiGraph[GridNode]) -> nx.DiGraph[str]:
    """Nodes as texts, attributes as what every format can hold."""
    result: nx.DiGraph[str] = nx.DiGraph()
    for node, data in grid.nodes(data=True):
        result.add_node(_name(node), layer=node.layer, time=node.time, **_plain(data))
    for tail, head, data in grid.edges(data=True):
        # Node-link JSON has its own "source" and "target".
        renamed = {{"source": "from_layer", "target": "to_layer"}.get(k, k): v for k, v in data.items()}
        result.add_edge(_name(tail), _name(head), **_plain(renamed))
    return result


def _name(node: GridNode) -> str:
    return f"{node.layer}@{node.time}"


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as texts: they are larger than any format's integers."""
    kept = {key: value for key, value in data.items() if value is not None}
    return {key: str(value) if key == "num_paths" else value for key, value in kept.items()}


def _graphml(grid: nx.DiGraph[GridNode], title: str) -> bytes:
    buffer = io.BytesIO()
    nx.write_graphml_xml(_named(grid), buffer)
    return buffer.getvalue()


def _gexf(grid: nx.DiGraph[GridNode], title: str) -> bytes:
    buffer = io.BytesIO()
    nx.write_gexf(_named(grid), buffer)
    return buffer.getvalue()


def _json(grid: nx.DiGraph[GridNode], title: str) -> bytes:
    return json.dumps(nx.node_link_data(_named(grid), edges="links"), indent=1).encode()


def _dot(grid: nx.DiGraph[GridNode], title: str) -> bytes:
    return "\n".join(_dot_lines(grid)).encode()


def _dot_lines(grid: nx.DiGraph[GridNode]) -> Iterator[str]:
    """Depth upwards, as in the drawings; every depth on a rank of its own."""
    yield "digraph grid {"
    yield "  rankdir=BT; node [shape=box];"
    ranks: dict[int, list[str]] = {}
    for node, data in grid.nodes(data=True):
        ranks.setdefault(data["depth"], []).append(_quoted(_name(node)))
        yield f"  {_quoted(_name(node))} [{_dot_attributes(data)}];"
    for names in ranks.values():
        yield f"  {{ rank=same; {'; '.join(names)}; }}"
    for tail, head, data in grid.edges(data=True):
        yield f"  {_quoted(_name(tail))} -> {_quoted(_name(head))} [{_dot_attributes(data)}];"
    yield "}\n"


def _dot_attributes(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_quoted(str(value))}" for key, value in _plain(data).items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _drawn(kind: str) -> Callable[[nx.DiGraph[GridNode], str], bytes]:
    def draw(grid: nx.DiGraph[GridNode], title: str) -> bytes:
        from lsc_graph.drawing.figure import drawing

        return drawing(grid, kind, title)

    return draw


_FORMATS: dict[str, Callable[[nx.DiGraph[GridNode], str], bytes]] = {
    ".graphml": _graphml,
    ".gexf": _gexf,
    ".json": _json,
    ".dot": _dot,
    ".svg": _drawn("svg"),
    ".png": _drawn("png"),
}
