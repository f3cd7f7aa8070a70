"""Scan nodes that run for a single step, replaced by the step itself."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output

_MIN_OPSET = 13  # Squeeze and Unsqueeze with axes as an input


def inline_single_step_scans(model: ir.Model) -> None:
    """Replace every Scan whose length is statically 1 by the nodes of its body, in place.

    The length is read from the shapes of the scanned values. Nested graphs are searched too. Outputs
    keep their names; values and nodes of the body are renamed only where their names are taken.

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
    names = Names(model.graph)
    for node in single:
        _inline(node, names)


def _is_single_step(node: ir.Node) -> bool:
    return (
        node.op_type == "Scan"
        and node.domain in ("", "ai.onnx")
        and any(value.shape is not None and value.shape[axis] == 1 for value, axis in _scanned_inputs(node))
    )


def _scanned_inputs(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """The scanned values and the axis of each."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    for value, axis in zip(list(node.inputs)[len(node.inputs) - count :], axes, strict=True):
        assert value is not None
        yield value, axis


def _inline(scan: ir.Node, names: Names) -> None:
    body, graph = scan.attributes["body"].as_graph(), scan.graph
    assert graph is not None
    names.renew(body)
    writer = GraphWriter(names.unique_prefix(f"{scan.name or 'Scan'}.inlined"), None)
    slices = [_slice(writer, value, axis) for value, axis in _scanned_inputs(scan)]
    num_states = len(scan.inputs) - len(slices)
    given = dict(zip(body.inputs, [*list(scan.inputs)[:num_states], *slices], strict=True))
    written = [given.get(value, value) for value in body.outputs]
    body.outputs.clear()
    for inner, outer in given.items():
        assert outer is not None
        ir.convenience.replace_all_uses_with(inner, outer)
    num_slicing = len(writer.nodes)
    results = [
        (old, _result(writer, scan, index, new, num_states))
        for index, (old, new) in enumerate(zip(scan.outputs, written, strict=True))
        if old.name and new is not None
    ]
    _move_initializers(body, graph)
    nodes = list(body)
    body.remove(nodes)
    graph.insert_before(scan, [*writer.nodes[:num_slicing], *nodes, *writer.nodes[num_slicing:]])
    for old, new in results:
        replace_output(old, new)
    graph.remove(scan, safe=True)


def _slice(writer: GraphWriter, value: ir.Value, axis: int) -> ir.Value:
    shape = list(value.shape) if value.shape is not None else None
    if shape is not None:
        del shape[axis]
    return writer.op("Squeeze", [value, writer.integers([axis])], "slice", shape, value.dtype)


def _result(writer: GraphWriter, scan: ir.Node, index: int, value: ir.Value, num_states: int) -> ir.Value:
    """What output `index` of the Scan is after one step that wrote `value`."""
    shape = list(value.shape) if value.shape is not None else None
    if index < num_states:
        return writer.op("Identity", [value], "final", shape, value.dtype)
    axes = scan.attributes.get_ints("scan_output_axes", [0] * len(scan.outputs))
    axis = axes[index - num_states]
    if shape is not None:
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 1)
    return writer.op("Unsqueeze", [value, writer.integers([axis])], "sequence", shape, value.dtype)


def _move_initializers(body: ir.Graph, graph: ir.Graph) -> None:
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        graph.register_initializer(value)
