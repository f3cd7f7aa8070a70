"""Counting gradient paths: ours against enumeration with networkx and a plain dynamic program on the grid.

Run as `python benchmarks/paths.py`; prints a table and writes benchmarks/results/paths.json. Every row
compares the numbers themselves before it compares the times.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import networkx as nx

from lsc_graph.counting.count import count_paths
from lsc_graph.counting.ends import first_ends, last_ends
from lsc_graph.counting.series import digits
from lsc_graph.grid.unroll import GridNode
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

RESULTS = Path(__file__).parent / "results" / "paths.json"
REPEATS = 3
MOST_PROGRAM_CELLS = 2_000_000
"""Beyond this the plain dynamic program takes minutes and gigabytes; ours goes on alone."""
MOST_ENUMERATED = 200_000

Graph = dict[GridNode, list[GridNode]]


def stack(num_layers: int, num_steps: int) -> CellGraph:
    """A plain stack of forward layers."""
    ids = [f"layer_{index}" for index in range(num_layers)]
    layers = tuple(Layer(id_, id_, None, (), 1, 1) for id_ in ids)
    return CellGraph(layers, tuple(DepthEdge(a, b) for a, b in pairwise(ids)), num_steps)


def bidirectional(num_levels: int, num_steps: int) -> CellGraph:
    """Levels of a forward and a reverse layer, each reading both below."""
    steps_of = {f"{way}{i}": step for i in range(num_levels) for way, step in (("f", 1), ("b", -1))}
    edges = [
        DepthEdge(f"{below}{i}", f"{above}{i + 1}")
        for i in range(num_levels - 1)
        for below in "fb"
        for above in "fb"
    ]
    layers = tuple(Layer(id_, id_, None, (), 1, step) for id_, step in steps_of.items())
    return CellGraph(layers, tuple(edges), num_steps)


def unrolled(cells: CellGraph) -> Graph:
    """The unrolled DAG of a plain stack as a dictionary, in topological order; its making is not timed."""
    ids, size = [layer.id for layer in cells.layers], cells.num_steps
    graph: Graph = {}
    for time_ in range(size):
        for index, id_ in enumerate(ids):
            ahead = [GridNode(id_, time_ + 1)] if time_ + 1 < size else []
            graph[GridNode(id_, time_)] = ahead + [GridNode(up, time_) for up in ids[index + 1 : index + 2]]
    return graph


def plain_program(graph: Graph) -> int:
    """Number of paths from the first node to the last: a dictionary of exact counts, backwards."""
    nodes = list(graph)
    counts = {nodes[-1]: 1}
    for node in reversed(nodes[:-1]):
        counts[node] = sum(counts[after] for after in graph[node])
    return counts[nodes[0]]


def enumeration(graph: Graph) -> int:
    """The same, one path after the other."""
    nodes = list(graph)
    if len(nodes) == 1:
        return 1
    flow = nx.DiGraph(graph)
    return sum(1 for _ in nx.all_simple_paths(flow, nodes[0], nodes[-1]))


def timed(function: Callable[[], int]) -> tuple[int, float]:
    """The result, and the shortest of a few runs in seconds; one run if that is long."""
    times: list[float] = []
    result = 0
    while len(times) < REPEATS and sum(times) < 5:
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, min(times)


def peak_bytes(function: Callable[[], int]) -> int:
    """The most memory that Python objects took in between."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ours(cells: CellGraph) -> int:
    """The exact count, cell graph to integer: nothing is kept from run to run."""
    found = count_paths(cells, cells.num_steps, first_ends(cells), last_ends(cells)).exact
    assert found is not None
    return found


def ours_in_digits(cells: CellGraph) -> int:
    """The same with all decimal digits; their number."""
    return len(digits(ours(cells)))


def compare(num_layers: int, num_steps: int) -> dict[str, object]:
    """One row for a plain stack."""
    cells = stack(num_layers, num_steps)
    count, seconds = timed(lambda: ours(cells))
    assert count == math.comb(num_steps - 1 + num_layers - 1, num_layers - 1)
    num_digits, in_digits = timed(lambda: ours_in_digits(cells))
    row: dict[str, object] = {
        "num_layers": num_layers,
        "num_steps": num_steps,
        "num_digits": num_digits,
        "ours_seconds": seconds,
        "ours_with_digits_seconds": in_digits,
        "ours_peak_bytes": peak_bytes(lambda: ours_in_digits(cells)),
    }
    if num_layers * num_steps <= MOST_PROGRAM_CELLS:
        graph = unrolled(cells)
        found, theirs = timed(lambda: plain_program(graph))
        assert found == count
        row |= {"program_seconds": theirs, "program_peak_bytes": peak_bytes(lambda: plain_program(graph))}
        row["ratio_to_program"] = theirs / in_digits
        if count * (num_layers + num_steps) <= MOST_ENUMERATED:
            found, theirs = timed(lambda: enumeration(graph))
            assert found == count
            row |= {"enumeration_seconds": theirs, "ratio_to_enumeration": theirs / in_digits}
    return row


def compare_bidirectional(num_levels: int, num_steps: int) -> dict[str, object]:
    """One row for a stack that runs both ways in time."""
    cells = bidirectional(num_levels, num_steps)
    count, seconds = timed(lambda: ours(cells))
    return {
        "num_levels": num_levels,
        "num_steps": num_steps,
        "log10": math.log10(count),
        "ours_seconds": seconds,
    }


UNROLLING = """
import resource, time
from paths import stack
from lsc_graph.grid.unroll import unroll
start = time.perf_counter()
grid = unroll(stack(10, 100_000))
print(len(grid), time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def unrolling() -> dict[str, object]:
    """10^6 grid nodes in a process of their own: seconds and the process's largest resident size."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", UNROLLING], env=environment, capture_output=True, text=True, check=True
    )
    nodes, seconds, size = done.stdout.split()
    return {"num_nodes": int(nodes), "seconds": float(seconds), "peak_resident_bytes": int(size)}


def main() -> None:
    """Compare at all sizes, and write the result."""
    rows = []
    for num_layers in (1, 2, 10, 30, 100):
        for num_steps in (10, 100, 1000, 10**4, 10**5, 10**6):
            rows.append(compare(num_layers, num_steps))
            ratio = rows[-1].get("ratio_to_program")
            words = f"{ratio:10.1f}x the plain program" if isinstance(ratio, float) else ""
            seconds = rows[-1]["ours_with_digits_seconds"]
            print(f"L={num_layers:4} T={num_steps:8}: {seconds:.6f} s {words}", flush=True)
    both = [compare_bidirectional(n, t) for n in (2, 10, 100) for t in (100, 10**4, 10**6)]
    grid = unrolling()
    print(grid)
    machine = {
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "networkx": nx.__version__,
        "baselines": "a dictionary of exact counts over the unrolled DAG (whose making is not timed); "
        "networkx.all_simple_paths, counted",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    result = {"machine": machine, "plain_stacks": rows, "bidirectional_stacks": both, "unrolling": grid}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
