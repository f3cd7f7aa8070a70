"""One canonical form for every model.

Static shapes, no functions, no constants as nodes, no branches that the inputs decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.branches import take_decided_branches
from lsc_graph.errors import AnalysisError, UnsupportedOpsetError
from lsc_graph.folding import fold_constants
from lsc_graph.indices import count_indices_from_the_front

LOOPING_OPS = frozenset(("RNN", "GRU", "LSTM", "Scan", "Loop"))
MIN_LOOPING_OPSET, UPGRADED_OPSET = 13, 17
MAX_ROUNDS = 64


def upgrade_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operator set 17, if it is older than 13 and has loops over time; else as it is.

    Raises:
        UnsupportedOpsetError: onnx cannot convert it.
    """
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= MIN_LOOPING_OPSET or not any(n.op_type in LOOPING_OPS for n in _all_nodes(proto.graph)):
        return proto
    try:
        return onnx.version_converter.convert_version(proto, UPGRADED_OPSET)
    except Exception as error:  # the converter raises bare RuntimeErrors of its C++ side
        raise UnsupportedOpsetError(
            "A recurrent model of an old operator set could not be upgraded",
            got=f"operator set {version}: {' '.join(str(error).split())}",
            expected=f"operator set {MIN_LOOPING_OPSET} or later",
            do="export the model again with a later operator set",
        ) from error


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def normalize(
    proto: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> ir.Model:
    """The model that computes the same at these input shapes, in canonical form.

    Functions are inlined, Constant nodes are initializers of the main graph, shapes are inferred from the
    real input shapes, everything that shapes and constants decide is folded, branches included. Float
    computations on weights are never folded: they stay functions of their initializers.

    Args:
        proto: the model; it is not changed.
        shapes: a shape for every input that is not an initializer.
        constants: inputs with a fixed value; they become initializers.
    """
    model = ir.from_proto(_with_static_inputs(proto, shapes, constants))
    passes.InlinePass()(model)
    _lift_constants(model)
    passes.RemoveInitializersFromInputsPass()(model)
    passes.NameFixPass()(model)
    passes.TopologicalSortPass()(model)
    for _ in range(MAX_ROUNDS):
        model = _inferred(model)
        changed = fold_constants(model)
        if take_decided_branches(model):
            # Read anew, so that the branches not taken no longer count as readers of anything.
            model, changed = ir.from_proto(ir.to_proto(model)), True
        if not changed:
            break
        _lift_constants(model)
        passes.NameFixPass()(model)
        passes.RemoveUnusedNodesPass()(model)
    else:
        raise AnalysisError("The model keeps changing when it is simplified", do="please report this model")
    count_indices_from_the_front(model)
    passes.RemoveUnusedNodesPass()(model)
    return _inferred(model)


def _with_static_inputs(
    proto: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    """A copy with concrete input shapes, fixed inputs as initializers, and no stale shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    for value in list(graph.input):
        if value.name in constants:
            tensor = onnx.numpy_helper.from_array(np.asarray(constants[value.name]), value.name)
            graph.initializer.append(tensor)
            graph.input.remove(value)
        elif value.name in shapes:
            value.type.tensor_type.ClearField("shape")
            for size in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = size
            if not shapes[value.name]:
                value.type.tensor_type.shape.SetInParent()
    _forget_shapes(graph)
    return copy


def _forget_shapes(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
            if value.type.tensor_type.elem_type == onnx.TensorProto.UNDEFINED:
                value.ClearField("type")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.type == attribute.GRAPH else ()), *attribute.graphs):
                _forget_shapes(inner)


def _lift_constants(model: ir.Model) -> None:
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)


def _inferred(model: ir.Model) -> ir.Model:
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    return model
