"""A piece of a model that onnx2fx converted to torch. The only module that knows onnx2fx."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import onnx
import onnx2fx
import torch
from onnx2fx.graph_builder import GraphBuilder
from onnx2fx.op_registry import get_handler
from torch import Tensor, nn

from lsc_graph.to_torch.functions import dft, lp_normalized, shape_of, size_of
from lsc_graph.to_torch.rewritten import ONLY
from lsc_graph.to_torch.spike import sign, spike
from lsc_graph.to_torch.surrogates import DOMAIN, SPIKE

_DFT_BY_INPUT = 20
# Tensors of more bytes are not kept twice: no operator's form depends on the values of so many.
_MAX_BYTES = 4096


class NotConvertedError(Exception):
    """onnx2fx does not convert an operator, or not in this form."""


class Converted(nn.Module):
    """A piece in torch. Copies of it are converted anew, as what onnx2fx makes cannot be copied faithfully.

    Args:
        proto: the piece; its larger tensors are emptied, as `graph` has them.
        on_host: initializers that do not move with the module, since the host reads them at every call.

    Raises:
        NotConvertedError: torch has no counterpart of an operator.
    """

    graph: torch.fx.GraphModule

    def __init__(self, proto: onnx.ModelProto, on_host: Collection[str]) -> None:
        super().__init__()
        self.graph = _converted(proto)
        self._proto, self._on_host = _emptied(proto).SerializeToString(), tuple(on_host)
        for name in self._on_host:
            self.replace(name, getattr(self.graph, name))

    def forward(self, *values: Tensor) -> Any:
        return self.graph.forward(*values)

    def replace(self, path: str, value: Tensor) -> None:
        """Let a parameter, or what a copy had there, stand for an initializer."""
        place, _, name = path.rpartition(".")
        module = self.graph.get_submodule(place)
        delattr(module, name)
        if isinstance(value, nn.Parameter):
            module.register_parameter(name, value)
        elif not place and name in self._on_host:
            setattr(module, name, value)
        else:
            module.register_buffer(name, value)

    def __getstate__(self) -> dict[str, Any]:
        kept: dict[str, Tensor] = dict(self.graph.named_parameters(remove_duplicate=False))
        kept |= dict(self.graph.named_buffers(remove_duplicate=False))
        kept |= {name: getattr(self.graph, name) for name in self._on_host}
        return self.__dict__ | {"_modules": {}, "_kept": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("_kept")
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.graph = _converted(_filled(onnx.load_from_string(self._proto))).train(self.training)
        for path, value in kept.items():
            self.replace(path, value)


def is_converted(op_type: str, opset: int) -> bool:
    """Whether onnx2fx knows an operator of the standard set."""
    return get_handler(op_type, "", opset) is not None


def _converted(proto: onnx.ModelProto) -> torch.fx.GraphModule:
    try:
        with torch.no_grad():
            return onnx2fx.convert(proto)
    except (onnx2fx.Onnx2FxError, NotImplementedError, ValueError, KeyError) as error:
        raise NotConvertedError(str(error)) from error


def _emptied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same without the values of larger tensors, in place."""
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _MAX_BYTES:
            tensor.ClearField("raw_data")
    return proto


def _filled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with zeros for the values left out, in place."""
    for tensor in proto.graph.initializer:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if not tensor.raw_data and math.prod(tensor.dims) * item > _MAX_BYTES:
            tensor.raw_data = bytes(math.prod(tensor.dims) * item)
    return proto


def _convert_spike(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """Our own operator (`lsc_graph.surrogates`) in an fx graph."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    kind, surrogate = given["kind"].decode(), given["surrogate"].decode()
    values = [builder.get_value(name) for name in node.input]
    numbers = (surrogate, given["dampening"], given["sharpness"])
    converted: torch.fx.Node = (
        builder.call_function(sign, args=(*values, *numbers))
        if kind == "Sign"
        else builder.call_function(spike, args=(*values, kind, *numbers))
    )
    return converted


def _convert_only(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """Our own operator (`lsc_graph.to_torch.rewritten`) in an fx graph."""
    converted: torch.fx.Node = builder.call_function(_only, args=(builder.get_value(node.input[0]),))
    return converted


def _only(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


def _convert_dft(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """The operator DFT, whose axis is an attribute until operator set 20."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    x, length, axis = (builder.get_value(name) if name else None for name in (*node.input, "", "")[:3])
    if axis is None:
        axis = given.get("axis", -2 if builder.opset_version >= _DFT_BY_INPUT else 1)
    inverse, onesided = bool(given.get("inverse", 0)), bool(given.get("onesided", 0))
    converted: torch.fx.Node = builder.call_function(dft, args=(x, length, axis, inverse, onesided))
    return converted


def _convert_lp_normalization(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """The operator LpNormalization."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    numbers = (given.get("axis", -1), given.get("p", 2))
    converted: torch.fx.Node = builder.call_function(
        lp_normalized, args=(builder.get_value(node.input[0]), *numbers)
    )
    return converted


def _convert_shape(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """The operator Shape."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    numbers = (given.get("start", 0), given.get("end"))
    converted: torch.fx.Node = builder.call_function(
        shape_of, args=(builder.get_value(node.input[0]), *numbers)
    )
    return converted


def _convert_size(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    """The operator Size."""
    converted: torch.fx.Node = builder.call_function(size_of, args=(builder.get_value(node.input[0]),))
    return converted


onnx2fx.register_op("Shape", handler=_convert_shape)
onnx2fx.register_op("Size", handler=_convert_size)
onnx2fx.register_op("DFT", handler=_convert_dft)
onnx2fx.register_op("LpNormalization", handler=_convert_lp_normalization)
onnx2fx.register_op(ONLY, handler=_convert_only, domain=DOMAIN)
onnx2fx.register_op(SPIKE, handler=_convert_spike, domain=DOMAIN)
