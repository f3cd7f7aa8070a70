"""Scan nodes that run for a single step, replaced by the step itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.recurrence.dataflow import subgraphs_of
from lsc_graph.recurrence.writer import GraphWriter, Names, values_in

_MIN_OPSET = 13  # Squeeze and Unsqueeze with axes as an input


def inline_single_step_scans(model: ir.Model) -> None:
    """Replace every Scan whose length is statically 1 by the nodes of its body, in place.

    The length is read from the shapes of the scanned values. Nested graphs are searched too. Outputs keep their
    names; values and nodes of the body are renamed only where their names are taken.

    Raises:
        UnsupportedOpsetError: there is such a Scan, and the model's opset is below 13.
    """
    single = [node for node in model.graph.all_nodes() if _is_single_step(node)]
    version = model.opset_imports.get("", 0)
    if single and version < _MIN_OPSET:
        raise UnsupportedOpsetError(
            "A Scan of one step is only inlined for newer operator sets",
            where=str(single[0].name),
            got=f"opset {version}",
            expected=f"opset {_MIN_OPSET} or newer",
            do="convert the model first, for instance with onnx.version_converter",
        )
    for node in single:
        _inline(model, node)


def _is_single_step(node: ir.Node) -> bool:
    return (
        node.op_type == "Scan"
        and node.domain in ("", "ai.onnx")
        and any(
            value.shape is not None and value.shape[axis] == 1 for value, axis in _scanned_inputs(node)
        )
    )


def _scanned_inputs(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """The scanned values and the axis of each."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    for value, axis in zip(list(node.inputs)[len(node.inputs) - count :], axes, strict=True):
        assert value is not None
        yield value, axis


def _inline(model: ir.Model, scan: ir.Node) -> None:
    names = _names_outside(model, scan)
    name = names.unique_prefix(scan.name or "Scan")
    body, graph = scan.attributes["body"].as_graph(), scan.graph
    assert graph is not None
    _rename(body, names, name)
    before = GraphWriter(f"{name}.inputs", ir.DataType.UNDEFINED)
    after = GraphWriter(f"{name}.outputs", ir.DataType.UNDEFINED)
    scanned = [_slice(before, value, axis) for value, axis in _scanned_inputs(scan)]
    states = list(scan.inputs)[: len(scan.inputs) - len(scanned)]
    for inner, given in zip(body.inputs, [*states, *scanned], strict=True):
        assert given is not None
        ir.convenience.replace_all_uses_with(inner, given, replace_graph_outputs=True)
    results = _results(after, scan, list(body.outputs), len(states))
    body.outputs.clear()
    _move_initializers(body, graph)
    nodes = list(body)
    body.remove(nodes)
    graph.insert_before(scan, [*before.nodes, *nodes, *after.nodes])
    for old, new in results:
        replace_output(old, new)
    graph.remove(scan, safe=True)
