"""Draws the grids of docs/paths.md. Run as `python docs/draw_paths.py`; the same files for the same code."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
from lsc_graph.models import registry

from lsc_graph.drawing.grid_files import write_grid
from lsc_graph.grid.unroll import GridNode
from lsc_graph.unrolling.unroll_model import unroll_model

FOLDER = Path(__file__).parent


def grid_of(name: str, num_steps: int, **options: object) -> nx.DiGraph[GridNode]:
    """A reference model unrolled without its final states; paths from the first to the last state."""
    grid = unroll_model(registry.build(name, **options), num_steps=num_steps)
    finals = [node for node in grid if node.layer in ("output:h_n", "output:c_n")]
    grid.remove_nodes_from(finals)
    return grid


def main() -> None:
    """Write the drawings beside this file."""
    write_grid(
        grid_of("pascal_rnn", 6, num_layers=4), FOLDER / "pascal.svg", "Paths through each cell: 4 layers"
    )
    write_grid(
        grid_of("pascal_rnn", 1000, num_layers=4), FOLDER / "pascal_long.svg", "The same over 1000 steps"
    )
    write_grid(grid_of("bidirectional_lstm", 6), FOLDER / "bidirectional.svg", "Two bidirectional levels")


if __name__ == "__main__":
    main()
