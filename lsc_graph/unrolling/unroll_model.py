"""The depth x time grid of a model: its layers, or every one of its ONNX nodes, over any number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx

from lsc_graph.counting.ends import Ends, first_ends, last_ends
from lsc_graph.counting.model_cells import Source, model_cells, parse_ends, states_only
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.memory import memory_errors_named
from lsc_graph.unrolling.annotate import annotate_counts, annotate_factors
from lsc_graph.unrolling.unroll_nodes import unroll_nodes

MAX_COUNTED_NODES = 250_000
"""Larger grids are not annotated with path counts, which are large integers themselves."""


@memory_errors_named()
def unroll_model(
    model: Source,
    *,
    num_steps: int | None = None,
    nodes: bool = False,
    measure: bool = False,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    time_axis: int | None = None,
) -> nx.DiGraph[GridNode]:
    """The unrolled graph of a model, with inputs and outputs, path counts, and if wanted radii.

    Attributes are those of `unroll` or `unroll_nodes`, of `annotate_counts` up to MAX_COUNTED_NODES
    nodes, and with `measure` of `annotate_factors`; `notes` of the graph says what could not be told.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default the model's own, or 32.
        nodes: one node for each ONNX node of each step, instead of each layer.
        measure: audit the model over its own steps for the radii and gains of the edges between layers.
        sources, targets: where counted paths start and end, as in `paths`; by default from the first to the
            last states, or with `nodes` from all inputs to all outputs.
        inputs, input_shapes, states: as in `lsc_graph.audit`.
        time_axis: time in inputs and outputs of which several axes could be it.

    Raises:
        UsageError, AnalysisError: as `paths`.
        LimitExceededError: the graph would be too large.
    """
    prepared, cells, notes = model_cells(
        model,
        num_steps=num_steps,
        inputs=inputs,
        input_shapes=input_shapes,
        states=states,
        time_axis=time_axis,
    )
    grid = unroll_nodes(prepared, cells, time_axis=time_axis) if nodes else unroll(cells)
    grid.graph["notes"] = notes
    # What is read or written at single times is no node at the others.
    terminals = [layer.id for layer in cells.layers if layer.role != "state"]
    unused = [GridNode(name, time) for name in terminals for time in range(cells.num_steps)]
    grid.remove_nodes_from([node for node in unused if node in grid and not grid.degree(node)])
    if len(grid) <= MAX_COUNTED_NODES:
        starts = [end for text in sources for end in parse_ends(text, cells, is_source=True)]
        stops = [end for text in targets for end in parse_ends(text, cells, is_source=False)]
        if nodes:
            roles = {layer.id: layer.role for layer in cells.layers}
            starts = starts or [Ends(name, None) for name, role in roles.items() if role == "input"]
            stops = stops or [Ends(name, None) for name, role in roles.items() if role == "output"]
        else:
            inner = states_only(cells)
            starts, stops = starts or list(first_ends(inner)), stops or list(last_ends(inner))
        annotate_counts(grid, _nodes(grid, starts, cells.num_steps), _nodes(grid, stops, cells.num_steps))
    if measure:
        from lsc_graph.audit_model import audit

        analysis = audit(model, inputs=inputs, input_shapes=input_shapes, states=states, num_samples=1)
        annotate_factors(grid, analysis.layers)
    return grid


def _nodes(grid: nx.DiGraph[GridNode], ends: Sequence[Ends], num_steps: int) -> list[GridNode]:
    """The nodes meant; at the level of ONNX nodes, only those of inputs and outputs are known by layer."""
    found = [GridNode(end.layer, time) for end in ends for time in end.times(num_steps)]
    return [node for node in found if node in grid]
