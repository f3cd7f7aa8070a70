"""The gradient paths of a model, readable from top to bottom: load, find, connect, count."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import onnx

from lsc_graph.cells import CellGraph, Layer
from lsc_graph.connect import connected_cells
from lsc_graph.counting.count import (
    Ends,
    Method,
    PathCount,
    count_paths,
    first_ends,
    last_ends,
    paths_from_each_time,
    paths_through,
)
from lsc_graph.counting.hops import Hop, direction, hops_of
from lsc_graph.counting.motif import motif_of
from lsc_graph.counting.series import digits
from lsc_graph.counting.stretch import stretched
from lsc_graph.counting.targets import Targets, balanced_targets, unbalanced_targets
from lsc_graph.counting.transfer import TransferMatrix
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.path_results import (
    PATHS_SCHEMA_VERSION,
    Boundary,
    CellCount,
    Count,
    DirectionRate,
    EdgeTarget,
    PathReport,
    StateRef,
    TimeGrowth,
)
from lsc_graph.paths import log10_of_count
from lsc_graph.prepare import Prepared, Request, prepare
from lsc_graph.results import Tool

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

MAX_RUN_STEPS = 2_000
"""The model itself is run over at most this many steps; beyond, its connections must follow a rule."""
MAX_SHOWN_DIGITS = 1_000
MAX_TABLE_CELLS = 1_000_000
"""What needs a count for every cell is computed for at most this many layers x steps."""
MAX_LISTED_CELLS = 2_000
"""Of larger tables, only some times are listed."""
_DIRECTIONS = ((1.0, 0.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0))


def model_cells(
    model: Source,
    *,
    num_steps: int | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
) -> tuple[Prepared, CellGraph]:
    """A model's cell graph over any number of steps, its inputs and outputs being layers as well.

    How times are connected is seen in one run of the model over its own number of steps, or 32;
    what is the same at every step, or follows a rule at the ends, is carried over to `num_steps`.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default that of the run.
        inputs, input_shapes, states: as in `lsc_graph.audit`.

    Raises:
        UsageError: the request is wrong, or the connections are known for another number of steps only.
        AnalysisError: the model cannot be analysed; `ParityError` if the torch view disagrees.
    """
    request = Request(None, dict(inputs or {}), dict(input_shapes or {}), tuple(states), {})
    prepared = prepare(model, request)
    if num_steps is None:
        return prepared, connected_cells(prepared, terminals=True)
    if prepared.chain is not None and num_steps != 1:
        raise UsageError(
            "The model has no recurrence, so its grid has a single step",
            got=f"--steps {num_steps}",
            expected="--steps 1, or none",
        )
    cells = connected_cells(prepared, terminals=True)
    try:
        return prepared, stretched(cells, num_steps)
    except UsageError:
        if num_steps > MAX_RUN_STEPS:
            raise
    prepared = prepare(model, replace(request, num_steps=num_steps))
    return prepared, connected_cells(prepared, terminals=True)


def states_only(cells: CellGraph) -> CellGraph:
    """The cell graph without its inputs and outputs."""
    layers = tuple(layer for layer in cells.layers if layer.role == "state")
    ids = {layer.id for layer in layers}
    edges = tuple(edge for edge in cells.depth_edges if {edge.source, edge.target} <= ids)
    return CellGraph(layers, edges, cells.num_steps)


def paths(
    model: Source,
    *,
    num_steps: int | None = None,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
    exact: bool = False,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
) -> PathReport:
    """How many gradient paths a model has, where they pass, how their number grows, and what would tame it.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default the model's own, or 32.
        sources, targets: states as texts LAYER or LAYER@TIME (see `parse_ends`); by default the first and
            the last ones.
        exact: give all digits, however many.
        inputs, input_shapes, states: as in `lsc_graph.audit`.

    Raises:
        UsageError, AnalysisError: as `model_cells`; or there is no such state.
    """
    prepared, cells = model_cells(
        model, num_steps=num_steps, inputs=inputs, input_shapes=input_shapes, states=states
    )
    inner = states_only(cells)
    starts = [end for text in sources for end in parse_ends(text, cells, is_source=True)]
    stops = [end for text in targets for end in parse_ends(text, cells, is_source=False)]
    starts, stops = starts or list(first_ends(inner)), stops or list(last_ends(inner))
    total = count_paths(cells, cells.num_steps, starts, stops, exact=exact)
    notes: list[str] = []
    return PathReport(
        schema_version=PATHS_SCHEMA_VERSION,
        tool=Tool("lsc-graph", version("lsc-graph")),
        model=prepared.loaded.facts,
        num_layers=len(inner.layers),
        num_steps=cells.num_steps,
        own_steps=prepared.cell_graph.num_steps,
        sources=_refs(starts),
        targets=_refs(stops),
        total=_count(total, exact),
        method=str(total.method),
        growth=_growth(inner),
        directions=_directions(inner),
        boundary=_boundary(inner),
        edge_targets=_edge_targets(cells, notes),
        from_inputs=_from_inputs(cells, stops, exact, notes),
        through_cells=_through_cells(cells, starts, stops, exact, notes),
        notes=tuple(notes),
    )


def parse_ends(text: str, cells: CellGraph, *, is_source: bool) -> tuple[Ends, ...]:
    """What LAYER or LAYER@TIME means.

    LAYER is an id or a name of a layer, input or output, or "first", "last", "inputs", "outputs";
    TIME is a number (negative: from the end), "first", "last" or "every". By default a path starts at a
    layer's first state and ends at its last.

    Raises:
        UsageError: there is no such layer, or the time is none of these.
    """
    name, at, time = text.rpartition("@")
    name, time = (name, time) if at and _is_time(time) else (text, "")
    layers = _chosen(name, cells)
    if not layers:
        raise UsageError(
            "There is no such layer",
            got=name,
            expected=", ".join(["first", "last", "inputs", "outputs", *(x.id for x in cells.layers[:12])]),
            do="give LAYER or LAYER@TIME, TIME being a number, first, last or every",
        )
    return tuple(Ends(layer.id, _time(time or ("first" if is_source else "last"), layer)) for layer in layers)


def _is_time(text: str) -> bool:
    return text in ("first", "last", "every") or text.removeprefix("-").isdigit()


def _time(text: str, layer: Layer) -> int | None:
    if text == "every":
        return None
    if text in ("first", "last"):
        return 0 if (text == "first") == (layer.time_step >= 0) else -1
    return int(text)


def _chosen(name: str, cells: CellGraph) -> tuple[Layer, ...]:
    inner = states_only(cells)
    ends = {"first": first_ends(inner), "last": last_ends(inner)}.get(name)
    if ends is not None:
        ids = {end.layer for end in ends}
        return tuple(layer for layer in cells.layers if layer.id in ids)
    roles = {"inputs": "input", "outputs": "output"}
    return tuple(
        layer for layer in cells.layers if name in (layer.id, layer.name) or layer.role == roles.get(name)
    )


def _refs(ends: Sequence[Ends]) -> tuple[StateRef, ...]:
    return tuple(StateRef(end.layer, end.time) for end in ends)


def _count(found: PathCount, exact: bool) -> Count:
    shown = found.exact is not None and (exact or (found.log10 or 0.0) < MAX_SHOWN_DIGITS)
    return Count(digits(found.exact) if shown and found.exact is not None else None, found.log10)


def _growth(cells: CellGraph) -> TimeGrowth | None:
    """None where time goes both ways, or not at all."""
    try:
        log10_factor, degree = TransferMatrix.of(cells).growth()
    except AnalysisError:
        return None
    return None if log10_factor == -math.inf else TimeGrowth(10**log10_factor, degree)


def _directions(cells: CellGraph) -> tuple[DirectionRate, ...]:
    try:
        motif = motif_of(cells)
        rates = [(dt, dl, motif.growth_rate(dt, dl) / (dt + dl)) for dt, dl in _DIRECTIONS]
    except AnalysisError:
        return ()
    return tuple(DirectionRate(dt, dl, rate) for dt, dl, rate in rates if math.isfinite(rate))


def _boundary(cells: CellGraph) -> Boundary | None:
    try:
        motif = motif_of(cells)
    except AnalysisError:
        return None
    coherent, incoherent = (motif.balanced(p) for p in (1.0, 2.0))
    return Boundary(
        motif.formula(),
        coherent if math.isfinite(coherent) else None,
        incoherent if math.isfinite(incoherent) else None,
        motif.is_exact,
    )


def _edge_targets(cells: CellGraph, notes: list[str]) -> tuple[EdgeTarget, ...]:
    flowing = _sequences_only(cells)
    balanced = [balanced_targets(flowing, p) for p in (1.0, 2.0)]
    unbalanced = _unbalanced(flowing, notes)
    return tuple(
        EdgeTarget(
            hop.source, hop.target, hop.lag, balanced[0][hop], balanced[1][hop], *_both(unbalanced, hop)
        )
        for hop in balanced[0]
    )


def _sequences_only(cells: CellGraph) -> CellGraph:
    """Without the inputs and outputs that are read or written at single times, where there are others.

    An edge that a layer has at one step of many says nothing about its weights at the others.
    """
    kept = {layer.id for layer in cells.layers if layer.role == "state"}
    for role in ("input", "output"):
        every = [layer.id for layer in cells.layers if layer.role == role]
        ends = [(e.source if role == "input" else e.target, e.time_pairs) for e in cells.depth_edges]
        sequences = {name for name, pairs in ends if pairs is None}
        kept |= {name for name in every if name in sequences} or set(every)
    edges = tuple(edge for edge in cells.depth_edges if {edge.source, edge.target} <= kept)
    return CellGraph(tuple(x for x in cells.layers if x.id in kept), edges, cells.num_steps)


def _unbalanced(cells: CellGraph, notes: list[str]) -> list[Targets]:
    """For both laws, from the first input to the last output; from all to all where time goes both ways."""
    if len(cells.layers) * cells.num_steps > MAX_TABLE_CELLS:
        notes.append("Unbalanced targets are left out: the grid is too large for a count of every cell")
        return []
    way = direction(hops_of(cells))
    first, last = {None: (None, None), 1: (0, -1), -1: (-1, 0)}[way]
    starts = [Ends(layer.id, first) for layer in cells.layers if layer.role == "input"]
    stops = [Ends(layer.id, last) for layer in cells.layers if layer.role == "output"]
    try:
        wide = stretched(cells, cells.num_steps + 1)
        return [
            unbalanced_targets(wide, cells.num_steps, p, sources=starts, targets=stops) for p in (1.0, 2.0)
        ]
    except (AnalysisError, UsageError) as error:
        notes.append(f"Unbalanced targets are left out: {error.what}")
        return []


def _key(hop: Hop) -> tuple[str, str, int, bool]:
    return hop.source, hop.target, hop.lag, hop.pairs is None


def _both(found: Sequence[Targets], hop: Hop) -> tuple[float | None, float | None]:
    if not found:
        return None, None
    coherent, incoherent = ({_key(other): w for other, w in weights.items()}[_key(hop)] for weights in found)
    return coherent, incoherent


def _from_inputs(
    cells: CellGraph, stops: Sequence[Ends], exact: bool, notes: list[str]
) -> tuple[CellCount, ...]:
    names = [layer.id for layer in cells.layers if layer.role == "input"]
    if len(cells.layers) * cells.num_steps <= MAX_TABLE_CELLS:
        columns = paths_from_each_time(cells, cells.num_steps, names, stops)
        return _listed(columns, cells.num_steps, exact, skips_zero=True)
    if direction(hops_of(states_only(cells))) is None:
        notes.append(
            "Counts from single inputs are left out: the grid is too large for a count of every cell"
        )
        return ()
    found = []
    for name in names:
        for time in _times_of(name, cells):
            count = count_paths(cells, cells.num_steps, [Ends(name, time)], stops, exact=exact)
            if count.log10 is not None:
                found.append(CellCount(name, time, _count(count, exact)))
    return tuple(found)


def _times_of(name: str, cells: CellGraph) -> list[int]:
    """Some of the times at which an input is read."""
    pairs = [edge.time_pairs for edge in cells.depth_edges if edge.source == name]
    if any(listed is None for listed in pairs):
        return _sampled(cells.num_steps)
    return sorted({time for listed in pairs for time, _ in listed or ()})[:MAX_LISTED_CELLS]


def _through_cells(
    cells: CellGraph, starts: Sequence[Ends], stops: Sequence[Ends], exact: bool, notes: list[str]
) -> tuple[CellCount, ...]:
    if len(cells.layers) * cells.num_steps > MAX_TABLE_CELLS:
        notes.append(
            "Counts through single cells are left out: the grid is too large for a count of every cell"
        )
        return ()
    columns = paths_through(cells, cells.num_steps, starts, stops)
    inner = {layer.id for layer in cells.layers if layer.role == "state"}
    shown = {name: column for name, column in columns.items() if name in inner}
    return _listed(shown, cells.num_steps, exact, skips_zero=False)


def _listed(
    columns: Mapping[str, Sequence[int]], num_steps: int, exact: bool, *, skips_zero: bool
) -> tuple[CellCount, ...]:
    times = range(num_steps) if len(columns) * num_steps <= MAX_LISTED_CELLS else _sampled(num_steps)
    return tuple(
        CellCount(name, t, _count(PathCount(column[t], log10_of_count(column[t]), Method.COLUMNS), exact))
        for name, column in columns.items()
        for t in times
        if column[t] or not skips_zero
    )


def _sampled(num_steps: int) -> list[int]:
    """Times at growing distances from both ends."""
    distances = [0, 1, 2, *(round(10 ** (k / 2)) for k in range(1, 40))]
    near = {d for d in distances if d < num_steps}
    return sorted(near | {num_steps - 1 - d for d in near} | {num_steps // 2})
