"""Tensors that an exporter has made by itself, such as zeros that states start from: no parameters.

PyTorch's exporters tell them apart: one notes in the file what is a parameter, the other writes what is none
as Constant nodes. Folded parameters are made, too: it takes a look at the elements to tell. Rewritten
models keep the note.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

from lsc_graph.model_file.proto_walk import attribute_tensors, model_scopes

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_MADE = "lsc_graph.made"


def note_made(proto: ModelProto) -> None:
    """Note on every tensor of a file that an exporter has made it, if the file tells."""
    for scope in model_scopes(proto):
        constants = [node for node in scope.node if node.op_type == "Constant"]
        for node in constants:
            for attribute in node.attribute:
                for tensor in attribute_tensors(attribute):
                    _note(tensor)
        if isinstance(scope, GraphProto):
            _note_beside_parameters(scope)


def is_made(value: ir.Value) -> bool:
    """Whether the file tells that an exporter has made an initializer."""
    tensor = value.const_value
    return tensor is not None and _MADE in tensor.metadata_props


def _note_beside_parameters(graph: GraphProto) -> None:
    kinds = {value.name for value in graph.value_info if any(e.key == _KIND for e in value.metadata_props)}
    for tensor in graph.initializer if kinds else ():
        if tensor.name not in kinds:
            _note(tensor)


def _note(tensor: TensorProto) -> None:
    if any(entry.key == _MADE for entry in tensor.metadata_props):
        return
    entry = tensor.metadata_props.add()
    entry.key, entry.value = _MADE, "1"
