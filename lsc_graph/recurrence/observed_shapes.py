"""Shapes and types that only a run can tell: of what operators compute that onnx does not know."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.trial import Trial


def observe_shapes(model: ir.Model, trial: Trial) -> bool:
    """Run a model once, and note the shapes and types of what foreign operators of its main graph put out.

    Those that hold foreign operators, as loops do, count among them.

    Args:
        model: with static inputs; changed in place.
        trial: runs it.

    Returns:
        Whether there were any to note.

    Raises:
        AnalysisError: it does not run.
    """
    unknown = {
        str(value.name): value
        for node in model.graph
        if _is_foreign(node)
        for value in node.outputs
        if value.name and (static_shape(value) is None or value.dtype is None)
    }
    if not unknown:
        return False
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown if name not in known)
    found = trial(proto)
    for name, value in unknown.items():
        if name in found:
            value.shape = ir.Shape(found[name].shape)
            value.type = ir.TensorType(ir.DataType.from_numpy(found[name].dtype))
    return True


def _is_foreign(node: ir.Node) -> bool:
    inner = (own for graph in inner_graphs(node) for own in graph.all_nodes())
    return any(own.domain not in ("", "ai.onnx") for own in (node, *inner))
