"""A piece of an ONNX graph as a differentiable torch function. The only module that knows onnx2fx."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

import onnx
import onnx2fx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnx2fx.graph_builder import GraphBuilder
from onnx2fx.op_registry import get_handler
from torch import Tensor, nn

from lsc_graph.canonical.function_ops import write_out
from lsc_graph.canonical.normalize import simplify
from lsc_graph.errors import ConversionError
from lsc_graph.recurrence.not_weights import running_statistics
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.black_parts import Group, Parts, apart, moves_only, outputs_of
from lsc_graph.to_torch.differences import Differences
from lsc_graph.to_torch.functions import dft, lp_normalized, shape_of, size_of
from lsc_graph.to_torch.rewritten import ONLY, rewrite
from lsc_graph.to_torch.sizes import keep_on_host, lift_constants, sizes_in
from lsc_graph.to_torch.spike import sign, spike
from lsc_graph.to_torch.surrogates import DOMAIN, SPIKE
from lsc_graph.to_torch.unfaithful import refuse_unfaithful, why_unfaithful

_DFT_BY_INPUT = 20


class BlackBoxUse(StrEnum):
    """When pieces of a model run in ONNX Runtime instead of torch."""

    NEVER = "never"
    IF_NEEDED = "where torch has no counterpart"
    ALWAYS = "always"


class Parameters(nn.Module):
    """The floating-point initializers of a model, each one a parameter that every segment shares.

    Args:
        black_box: ALWAYS runs every piece in ONNX Runtime, with derivatives by finite differences, IF_NEEDED
            those that have no torch counterpart, NEVER none. Weights in such pieces are no parameters.
        fixed: initializers that are not trained, whichever piece reads them first.
    """

    def __init__(
        self, black_box: BlackBoxUse = BlackBoxUse.NEVER, fixed: Collection[str] = frozenset()
    ) -> None:
        super().__init__()
        self.black_box, self.differences, self.fixed = black_box, Differences(), frozenset(fixed)
        self._index: dict[str, str] = {}

    def share(self, name: str, value: Tensor, *, is_trainable: bool) -> nn.Parameter:
        """The parameter of initializer `name`, made from `value` at the first call."""
        if name not in self._index:
            self._index[name] = f"p{len(self._index)}"
            is_trained = is_trainable and name not in self.fixed
            self.register_parameter(self._index[name], nn.Parameter(value, requires_grad=is_trained))
        return self[name]

    def __getitem__(self, name: str) -> nn.Parameter:
        parameter = getattr(self, self._index[name])
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def names(self) -> tuple[str, ...]:
        """Initializer names, in order of first use."""
        return tuple(self._index)


class Segment(nn.Module):
    """The values `outputs` of a graph as a function of its values `inputs`, both given by name.

    Args:
        graph: the graph to cut from; it is not changed.
        inputs: names of the values to cut at; anything that is not needed is ignored.
        outputs: names of the values to compute.
        opsets: operator set versions.
        parameters: shared store of the floating-point initializers.
        scope: prefix of initializer names, for graphs that have a name space of their own.

    Raises:
        ConversionError: an operator has no torch counterpart.
    """

    _place: Tensor

    def __init__(
        self,
        graph: ir.Graph,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        opsets: dict[str, int],
        parameters: Parameters,
        scope: str = "",
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.is_empty = not outputs
        self.part = ""
        self.register_buffer("_place", torch.empty(0), persistent=False)
        if not self.is_empty:
            piece = ir.convenience.extract(graph, self.inputs, self.outputs)
            piece.opset_imports.update(opsets)
            self.part = _describe(piece, self.outputs)
            self.module = _module_of(piece, self.part, parameters, scope)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        if self.is_empty:
            return ()
        try:
            result = self._computed(*values)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            raise _conversion_error(error, self.part) from error
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def _computed(self, *values: Tensor) -> Any:
        # Not by calls, in which torch.fx would print the traceback of what may be tried otherwise.
        if self._place.device.type == "cpu":
            return self.module.forward(*values)
        with self._place.device:  # where operators put constants and shapes that they make
            return self.module.forward(*values)


def _module_of(piece: ir.Graph, part: str, parameters: Parameters, scope: str) -> nn.Module:
    """The piece in torch, or where that is wanted in ONNX Runtime."""
    if parameters.black_box is BlackBoxUse.ALWAYS:
        return _black_box(piece, part, parameters, scope)
    if parameters.black_box is BlackBoxUse.NEVER:
        return _convert(piece, part, parameters, scope)
    copy = piece.clone()
    try:
        return _convert(piece, part, parameters, scope)
    except ConversionError as error:
        parameters.differences.reasons.append(" ".join(str(error).split()))
        return _black_box(copy, part, parameters, scope)


def _black_box(piece: ir.Graph, part: str, parameters: Parameters, scope: str) -> nn.Module:
    """The piece in ONNX Runtime, but for what only moves elements to other places, in parts."""
    parameters.differences.parts.append(part)
    groups = apart(piece)
    modules = [_box(outputs_of(piece, own.outputs), own, part, parameters, scope) for own in groups]
    return Parts(modules, [own.outputs for own in groups])


def _box(graph: ir.Graph, group: Group, part: str, parameters: Parameters, scope: str) -> nn.Module:
    if group.inputs and moves_only(graph):
        # Differences would take four runs for each of what may be all elements of a sequence.
        with suppress(ConversionError):
            return _convert(graph.clone(), part, parameters, scope)
    model = ir.Model(graph, ir_version=10)
    passes.OutputFixPass()(model)
    return BlackBox(ir.to_proto(model), parameters.differences)


def _convert(piece: ir.Graph, part: str, parameters: Parameters, scope: str) -> nn.Module:
    rewrite(piece)
    known = set(piece.initializers)
    _write_out(piece)
    statistics = running_statistics(piece)
    lift_constants(piece)
    origins = _rename(piece)
    model = ir.Model(piece, ir_version=10)
    passes.OutputFixPass()(model)
    sizes = sizes_in(piece)
    try:
        with torch.no_grad():
            module = onnx2fx.convert(ir.to_proto(model))
    except (onnx2fx.Onnx2FxError, NotImplementedError, ValueError, KeyError) as error:
        raise _conversion_error(error, part) from error
    for safe_name, origin in origins.items():
        value = getattr(module, safe_name)
        if value.is_floating_point() and origin in known:
            delattr(module, safe_name)
            trainable = origin not in statistics
            shared = parameters.share(scope + origin, value, is_trainable=trainable)
            module.register_parameter(safe_name, shared)
    keep_on_host(module, sizes)
    return module


def _write_out(piece: ir.Graph) -> None:
    """Write out what torch has no counterpart of, but ONNX a definition for, in place.

    Raises:
        ConversionError: torch has no faithful counterpart of what is left, either.
    """
    opset = piece.opset_imports.get("", 0)

    def is_lacking(node: ir.Node) -> bool:
        is_known = get_handler(node.op_type, "", opset) is not None
        return not is_known or why_unfaithful(node) is not None

    try:
        refuse_unfaithful(piece)
        reason = None
    except ConversionError as error:
        reason = error
    if any(node.domain in ("", "ai.onnx") and is_lacking(node) for node in piece.all_nodes()):
        write_out(ir.Model(piece, ir_version=10), is_lacking, simplify)
        rewrite(piece)
    try:
        refuse_unfaithful(piece)
    except ConversionError as error:  # the operator of the file says more than what it consists of
        raise reason or error from error


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


def _describe(piece: ir.Graph, outputs: tuple[str, ...]) -> str:
    """A part of a model by what it computes and with which operators."""
    operators = list(dict.fromkeys(node.op_type for node in piece))
    more = f" and {len(operators) - 6} more" if len(operators) > 6 else ""
    return f"the part that computes {', '.join(outputs[:3])} ({', '.join(operators[:6])}{more})"


def _rename(piece: ir.Graph) -> dict[str, str]:
    """Names that stay distinct as Python identifiers; returns new -> old for the initializers."""
    inputs, parameters = (_stem_apart(letter, piece) for letter in "xp")
    for index, value in enumerate(piece.inputs):
        value.name = f"{inputs}{index}"
    origins = {}
    for index, value in enumerate(list(piece.initializers.values())):
        origins[f"{parameters}{index}"] = str(value.name)
        if value.const_value is not None:
            # Renaming a value renames its tensor, which the model that was cut from still uses.
            value.const_value = ir.tensor(value.const_value.numpy(), dtype=value.const_value.dtype)
        value.name = f"{parameters}{index}"
    return origins


def _stem_apart(stem: str, piece: ir.Graph) -> str:
    """A stem that no name of a graph consists of with a number behind it."""
    values = [*piece.inputs, *piece.initializers.values()]
    values += [value for node in piece.all_nodes() for value in (*node.inputs, *node.outputs) if value]
    names = {str(value.name) for value in values}
    while any(name.startswith(stem) and name[len(stem) :].isdigit() for name in names):
        stem += "_"
    return stem


def _conversion_error(error: Exception, part: str) -> ConversionError:
    return ConversionError(
        "A part of the model has no torch counterpart",
        where=part,
        got=" ".join(str(error).split()),
        expected="operators that onnx2fx converts",
        do="cut the model before this operator, or replace it, and audit that file",
    )
