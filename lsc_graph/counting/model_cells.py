"""The cell graph of a model over any number of steps, and states of it by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import onnx

from lsc_graph.counting.connect import connected_cells
from lsc_graph.counting.ends import Ends, first_ends, last_ends
from lsc_graph.counting.stretch import stretched
from lsc_graph.errors import UsageError
from lsc_graph.layers.cells import CellGraph, Layer
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

MAX_RUN_STEPS = 2_000
"""The model itself is run over at most this many steps; beyond, its connections must follow a rule."""


class ModelCells(NamedTuple):
    """A model, its cell graph, and what could not be told of how times are connected."""

    prepared: Prepared
    cells: CellGraph
    notes: tuple[str, ...]


def model_cells(
    model: Source,
    *,
    num_steps: int | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    time_axis: int | None = None,
) -> ModelCells:
    """A model's cell graph over any number of steps, its inputs and outputs being layers as well.

    How times are connected is seen in one run of the model over its own number of steps, or 32;
    what is the same at every step, or follows a rule at the ends, is carried over to `num_steps`.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default that of the run.
        inputs, input_shapes, states: as in `lsc_graph.audit`.
        time_axis: time in inputs and outputs of which several axes could be it.

    Raises:
        UsageError: the request is wrong, or the connections are known for another number of steps only.
        AnalysisError: the model cannot be analysed; `ParityError` if the torch view disagrees.
    """
    request = Request(None, dict(inputs or {}), dict(input_shapes or {}), tuple(states), {})
    prepared = prepare(model, request)
    if not prepared.cell_graph.has_one_length:
        raise UsageError(
            "The recurrences take different numbers of steps: the audit counts their paths, this does not",
            got=", ".join(f"{site.id}: {site.num_steps}" for site in prepared.findings.sites),
            do="lsc-graph audit MODEL",
        )
    if prepared.chain is not None and num_steps not in (None, 1):
        raise UsageError(
            "The model has no recurrence, so its grid has a single step",
            got=f"--steps {num_steps}",
            expected="--steps 1, or none",
        )
    found = connected_cells(prepared, terminals=True, time_axis=time_axis)
    if num_steps is None:
        return ModelCells(prepared, found.cells, found.notes)
    try:
        return ModelCells(prepared, stretched(found.cells, num_steps), found.notes)
    except UsageError:
        if num_steps > MAX_RUN_STEPS:
            raise
    prepared = prepare(model, replace(request, num_steps=num_steps))
    found = connected_cells(prepared, terminals=True, time_axis=time_axis)
    return ModelCells(prepared, found.cells, found.notes)


def states_only(cells: CellGraph) -> CellGraph:
    """The cell graph without its inputs and outputs."""
    layers = tuple(layer for layer in cells.layers if layer.role == "state")
    ids = {layer.id for layer in layers}
    edges = tuple(edge for edge in cells.depth_edges if {edge.source, edge.target} <= ids)
    return CellGraph(layers, edges, cells.num_steps)


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
