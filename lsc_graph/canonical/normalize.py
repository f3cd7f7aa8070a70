"""One canonical form for every model.

Static shapes, no functions, no constants as nodes, no branches that the inputs decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import FunctionProto, ModelProto, TensorProto, TypeProto

from lsc_graph.canonical.branches import select_open_branches, take_decided_branches
from lsc_graph.canonical.folding import fold_constants
from lsc_graph.canonical.fused_products import write_out_fused_products
from lsc_graph.canonical.indices import count_indices_from_the_front
from lsc_graph.canonical.inference import infer_loops, infer_scans, infer_shapes, root_cause
from lsc_graph.canonical.made import note_made
from lsc_graph.canonical.origins import mark_origins
from lsc_graph.canonical.rewiring import cast_to_known_types, lift_constants, remove_identities, remove_unused
from lsc_graph.errors import (
    AnalysisError,
    ConversionError,
    InputError,
    LimitExceededError,
    LscGraphError,
    UnsupportedOpsetError,
    UsageError,
)
from lsc_graph.model_file.proto_walk import Scope, model_scopes

Array = np.ndarray[Any, np.dtype[Any]]

LOOPING_OPS = frozenset(("RNN", "GRU", "LSTM", "Scan", "Loop"))
MIN_LOOPING_OPSET, UPGRADED_OPSET = 13, 17
BATCHED_SCAN_OPSET = 8
MAX_ROUNDS = 64


def upgrade_opset(proto: ModelProto) -> ModelProto:
    """The model in operator set 17, if it is older than 13 and has loops over time; else as it is.

    Raises:
        UnsupportedOpsetError: onnx cannot convert it, or takes what it converts for something else.
    """
    version = _default_opset(proto)
    operators = {node.op_type for scope in model_scopes(proto) for node in scope.node}
    if version <= BATCHED_SCAN_OPSET and "Scan" in operators:
        raise UnsupportedOpsetError(
            "Scan over batches, as in operator set 8, is not supported",
            got=f"operator set {version}",
            expected=f"operator set {BATCHED_SCAN_OPSET + 1} or later",
            do="export the model again with a later operator set",
        )
    if version >= MIN_LOOPING_OPSET or not operators & LOOPING_OPS:
        return proto
    return upgraded(proto)


def upgraded(proto: ModelProto) -> ModelProto:
    """The model in operator set 17.

    Raises:
        UnsupportedOpsetError: onnx cannot convert it, or takes what it converts for something else.
    """
    version = _default_opset(proto)
    try:
        converted = onnx.version_converter.convert_version(proto, UPGRADED_OPSET)
        onnx.checker.check_model(converted)  # the converter passes over inner graphs: the checker notices
    except Exception as error:  # the converter raises bare RuntimeErrors of its C++ side
        raise UnsupportedOpsetError(
            "A model of an old operator set, with loops or repeated steps, could not be upgraded",
            got=f"operator set {version}: {root_cause(error)}",
            expected=f"operator set {MIN_LOOPING_OPSET} or later",
            do="export the model again with a later operator set",
        ) from error
    return converted


def _default_opset(proto: ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def normalize(
    proto: ModelProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, Array]
) -> ir.Model:
    """The model that computes the same at these input shapes, in canonical form.

    Functions are inlined, Constant nodes are initializers of the main graph, shapes are inferred from the
    real input shapes, everything that shapes and constants decide is folded, branches included. Float
    computations on weights are never folded: they stay functions of their initializers. Inputs, outputs
    and initializers of the main graph keep their names; `lsc_graph.canonical.origins.origin_of` tells
    where in the file any other initializer stands.

    Args:
        proto: the model; it is not changed.
        shapes: a shape for every input that is not an initializer.
        constants: inputs with a fixed value; they become initializers.

    Raises:
        UsageError: `shapes` or `constants` do not fit the model's inputs.
        AnalysisError: the model cannot be brought into this form.
    """
    _check_request(proto, shapes, constants)
    _check_dense(proto)
    with _simplifying():
        model = ir.from_proto(_with_static_inputs(proto, shapes, constants))
        _flatten(model)
        simplify(model)
        remove_unused(model)
    return model


def normalize_open(proto: ModelProto) -> ir.Model:
    """The same with the input shapes as they are declared: what open dimensions decide stays in the graph.

    Raises:
        AnalysisError: the model cannot be brought into this form.
    """
    _check_dense(proto)
    copy = ModelProto()
    copy.CopyFrom(proto)
    note_made(copy)
    with _simplifying():
        model = ir.from_proto(copy)
        _flatten(model)
        simplify(model)
        remove_unused(model)
    return model


@contextmanager
def _simplifying() -> Iterator[None]:
    try:
        yield
    except LscGraphError:
        raise
    except Exception as error:  # the passes raise many unrelated types on models that they cannot handle
        raise AnalysisError("The model cannot be simplified", got=root_cause(error)) from error


def _flatten(model: ir.Model) -> None:
    mark_origins(model)
    passes.InlinePass()(model)
    model.functions.clear()
    passes.RemoveInitializersFromInputsPass()(model)
    write_out_fused_products(model)
    _tidy(model)
    passes.TopologicalSortPass()(model)


def _tidy(model: ir.Model) -> None:
    lift_constants(model)
    remove_identities(model)
    remove_unused(model)
    passes.NameFixPass()(model)


def simplify(model: ir.Model) -> None:
    """Infer shapes, fold, take decided branches, until nothing changes; no index counts from the end."""
    for _ in range(MAX_ROUNDS):
        infer_shapes(model)
        cast_to_known_types(model)
        is_folded, is_taken = fold_constants(model), take_decided_branches(model)
        is_simpler = is_folded or is_taken or infer_scans(model) or infer_loops(model)
        if not (is_simpler or select_open_branches(model)):
            count_indices_from_the_front(model)
            return
        _tidy(model)
    raise LimitExceededError(
        "The model keeps changing when it is simplified",
        got=f"{MAX_ROUNDS} rounds",
        do="simplify the model first, or report it",
    )


def _check_request(
    proto: ModelProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, Array]
) -> None:
    stored = {tensor.name for tensor in proto.graph.initializer}
    names = {value.name for value in proto.graph.input}
    for name in (*shapes, *constants):
        if name not in names:
            raise UsageError("The model has no such input", got=name, expected=", ".join(sorted(names)))
    for name in sorted(names - stored - set(constants)):
        if name not in shapes:
            raise UsageError("An input has no shape", where=name, expected="a shape for every input")
    for value in proto.graph.input:
        if value.type.WhichOneof("value") != "tensor_type":
            raise InputError("An input is not a tensor", where=value.name)
    for value in proto.graph.output:
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            raise ConversionError("An output is not a tensor", where=value.name)


def _check_dense(proto: ModelProto) -> None:
    for scope in model_scopes(proto):
        sparse = [tensor.values.name for tensor in getattr(scope, "sparse_initializer", ())]
        sparse += [
            node.output[0]
            for node in scope.node
            if node.op_type == "Constant" and any(a.name == "sparse_value" for a in node.attribute)
        ]
        if sparse:
            raise ConversionError("Sparse tensors are not supported", where=sparse[0])


def _with_static_inputs(
    proto: ModelProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, Array]
) -> ModelProto:
    """A copy with concrete input shapes, fixed inputs as initializers, and no stale shapes."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    note_made(copy)
    graph = copy.graph
    for tensor in [tensor for tensor in graph.initializer if tensor.name in constants]:
        graph.initializer.remove(tensor)
    for value in list(graph.input):
        tensor_type = value.type.tensor_type
        if value.name in constants:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
            array = np.asarray(constants[value.name]).astype(dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            graph.input.remove(value)
        elif value.name in shapes:
            _set_shape(tensor_type, shapes[value.name])
    for scope in model_scopes(copy):
        _forget_shapes(scope)
    return copy


def _set_shape(tensor_type: TypeProto.Tensor, shape: tuple[int, ...]) -> None:
    tensor_type.ClearField("shape")
    tensor_type.shape.SetInParent()
    for size in shape:
        tensor_type.shape.dim.add().dim_value = size


def _forget_shapes(scope: Scope) -> None:
    """Drop what an exporter noted about sizes: it may belong to other input shapes. Ranks stay."""
    del scope.value_info[:]
    if isinstance(scope, FunctionProto):
        return
    for value in scope.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
            if value.type.tensor_type.elem_type == TensorProto.UNDEFINED:
                value.ClearField("type")
