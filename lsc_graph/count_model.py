"""The gradient paths of a model, readable from top to bottom: load, find, connect, count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from lsc_graph.auditing.cuts import zero_derivatives
from lsc_graph.counting.count import count_paths
from lsc_graph.counting.ends import Ends, first_ends, last_ends
from lsc_graph.counting.model_cells import Source, model_cells, parse_ends, states_only
from lsc_graph.counting.motif import motif_of
from lsc_graph.counting.path_tables import edge_targets, from_inputs, shown_count, through_cells
from lsc_graph.counting.transfer import TransferMatrix
from lsc_graph.errors import AnalysisError
from lsc_graph.layers.cells import CellGraph
from lsc_graph.memory import memory_errors_named
from lsc_graph.path_results import (
    PATHS_SCHEMA_VERSION,
    Boundary,
    DirectionRate,
    PathReport,
    StateRef,
    TimeGrowth,
)
from lsc_graph.prepare import Prepared
from lsc_graph.results import Tool

_DIRECTIONS = ((1.0, 0.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0))


@memory_errors_named()
def gradient_paths(
    model: Source,
    *,
    num_steps: int | None = None,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
    exact: bool = False,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    time_axis: int | None = None,
) -> PathReport:
    """How many gradient paths a model has, where they pass, how their number grows, and what would tame it.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default the model's own, or 32.
        sources, targets: states as texts LAYER or LAYER@TIME (see `parse_ends`); by default the first and
            the last ones.
        exact: give all digits, however many.
        inputs, input_shapes, states: as in `lsc_graph.audit`.
        time_axis: time in inputs and outputs of which several axes could be it.

    Raises:
        UsageError, AnalysisError: as `model_cells`; or there is no such state.
    """
    prepared, cells, open_notes = model_cells(
        model,
        num_steps=num_steps,
        inputs=inputs,
        input_shapes=input_shapes,
        states=states,
        time_axis=time_axis,
    )
    inner = states_only(cells)
    starts = [end for text in sources for end in parse_ends(text, cells, is_source=True)]
    stops = [end for text in targets for end in parse_ends(text, cells, is_source=False)]
    starts, stops = starts or list(first_ends(inner)), stops or list(last_ends(inner))
    total = count_paths(cells, cells.num_steps, starts, stops, exact=exact)
    notes = [*prepared.findings.choices, *open_notes, *prepared.findings.doubts, *_cut_notes(prepared)]
    return PathReport(
        schema_version=PATHS_SCHEMA_VERSION,
        tool=Tool("lsc-graph", version("lsc-graph")),
        model=prepared.loaded.facts,
        num_layers=len(inner.layers),
        num_steps=cells.num_steps,
        own_steps=prepared.cell_graph.num_steps,
        sources=_refs(starts),
        targets=_refs(stops),
        total=shown_count(total, exact),
        method=str(total.method),
        growth=_growth(inner),
        directions=_directions(inner),
        boundary=_boundary(inner),
        edge_targets=edge_targets(cells, notes),
        from_inputs=from_inputs(cells, stops, exact, notes),
        through_cells=through_cells(cells, starts, stops, exact, notes),
        notes=tuple(notes),
    )


def _cut_notes(prepared: Prepared) -> list[str]:
    """A path is counted whether or not its product is zero; where every product must be is said."""
    words = "has zero derivative: paths through it are counted, but carry no gradient"
    nodes = zero_derivatives(prepared)
    return [f"{node.name or node.outputs[0].name} ({node.op_type}) {words}" for node in nodes]


def _refs(ends: Sequence[Ends]) -> tuple[StateRef, ...]:
    return tuple(StateRef(end.layer, end.time) for end in ends)


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
