"""Cell graphs for tests: stacks of known shape, and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from hypothesis import strategies as st

from lsc_graph.counting.ends import Ends
from lsc_graph.grid.paths import num_gradient_paths
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer


def cell_graph(steps_of: Mapping[str, int], edges: Sequence[DepthEdge], num_steps: int = 4) -> CellGraph:
    layers = tuple(Layer(id_, f"name of {id_}", None, (), 4, step) for id_, step in steps_of.items())
    return CellGraph(layers, tuple(edges), num_steps)


def stack(num_layers: int, num_steps: int = 4, lag: int = 0, time_step: int = 1) -> CellGraph:
    ids = [f"l{index}" for index in range(num_layers)]
    edges = [DepthEdge(below, above, lag) for below, above in pairwise(ids)]
    return cell_graph(dict.fromkeys(ids, time_step), edges, num_steps)


def skips(num_layers: int, num_steps: int = 4) -> CellGraph:
    """Every layer reads the two below."""
    ids = [f"l{index}" for index in range(num_layers)]
    edges = [*map(DepthEdge, ids, ids[1:]), *map(DepthEdge, ids, ids[2:])]
    return cell_graph(dict.fromkeys(ids, 1), edges, num_steps)


def coupled(num_steps: int = 4) -> CellGraph:
    """Two layers that see each other's past: two ways on from every state."""
    return cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", 1), DepthEdge("b", "a", 1)], num_steps)


def bidirectional(num_levels: int, num_steps: int = 4) -> CellGraph:
    steps_of = {f"{way}{i}": step for i in range(num_levels) for way, step in (("f", 1), ("b", -1))}
    edges = [
        DepthEdge(f"{below}{i}", f"{above}{i + 1}")
        for i in range(num_levels - 1)
        for below in "fb"
        for above in "fb"
    ]
    return cell_graph(steps_of, edges, num_steps)


def with_terminals(cells: CellGraph) -> CellGraph:
    """An input sequence below the first layer and an output sequence above the last."""
    first, last = cells.layers[0].id, cells.layers[-1].id
    layers = (
        Layer("input:x", "x", None, (), 0, 0, "input"),
        *cells.layers,
        Layer("output:y", "y", None, (), 0, 0, "output"),
    )
    edges = (DepthEdge("input:x", first), *cells.depth_edges, DepthEdge(last, "output:y"))
    return CellGraph(layers, edges, cells.num_steps)


def counted_on_the_grid(
    cells: CellGraph, num_steps: int, sources: Sequence[Ends], targets: Sequence[Ends]
) -> int:
    """The number of paths by dynamic programming on the unrolled DAG."""
    chosen = [
        {GridNode(end.layer, time) for end in ends for time in end.times(num_steps)}
        for ends in (sources, targets)
    ]
    return num_gradient_paths(unroll(cells, num_steps), *chosen)


@st.composite
def one_way_graphs(draw: st.DrawFn, max_lag: int = 2) -> CellGraph:
    """Up to 4 layers in one direction of time, with skips, delays and feedback."""
    way = draw(st.sampled_from([1, -1]))
    ids = [f"l{index}" for index in range(draw(st.integers(1, 4)))]
    steps_of = {id_: way * draw(st.integers(0, 1)) for id_ in ids}
    edges = []
    for i, source in enumerate(ids):
        for j, target in enumerate(ids):
            least = 0 if i < j else 1
            lags = draw(st.sets(st.integers(least, max_lag), max_size=2)) if i != j else ()
            edges += [DepthEdge(source, target, way * lag) for lag in lags]
    return cell_graph(steps_of, edges, draw(st.integers(1, 6)))


@st.composite
def two_way_graphs(draw: st.DrawFn, *, plain: bool = False) -> CellGraph:
    """Up to 4 layers, each in its own direction; unless plain, with delays and edges at listed times."""
    ids = [f"l{index}" for index in range(draw(st.integers(1, 4)))]
    steps_of = {id_: draw(st.sampled_from([-1, 0, 1])) for id_ in ids}
    num_steps = draw(st.integers(1, 6))
    times = st.integers(0, num_steps - 1)
    edges = []
    for i, source in enumerate(ids):
        for target in ids[i + 1 :]:
            match draw(st.integers(0, 2 if plain else 4)):
                case 0 | 1:
                    edges.append(DepthEdge(source, target))
                case 3:
                    edges.append(DepthEdge(source, target, draw(st.integers(-2, 2))))
                case 4:
                    pairs = draw(st.lists(st.tuples(times, times), max_size=5))
                    edges.append(DepthEdge(source, target, time_pairs=tuple(pairs)))
    return cell_graph(steps_of, edges, num_steps)


def some_ends(draw: st.DrawFn, cells: CellGraph, num_steps: int) -> list[Ends]:
    """A few states: at single times, from the end, or at every time."""
    ids = [layer.id for layer in cells.layers]
    times = st.one_of(st.none(), st.integers(-num_steps, num_steps - 1))
    return draw(st.lists(st.builds(Ends, st.sampled_from(ids), times), min_size=1, max_size=3))
