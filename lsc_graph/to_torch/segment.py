"""A piece of an ONNX graph as a differentiable torch function."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn

from lsc_graph.canonical.function_ops import write_out
from lsc_graph.canonical.normalize import simplify
from lsc_graph.canonical.precision import in_double_precision
from lsc_graph.errors import ConversionError
from lsc_graph.recurrence.not_weights import running_statistics
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.black_parts import Group, Parts, apart, moves_only, outputs_of
from lsc_graph.to_torch.converted import Converted, NotConvertedError, is_converted
from lsc_graph.to_torch.differences import Differences
from lsc_graph.to_torch.rewritten import rewrite
from lsc_graph.to_torch.sizes import lift_constants, sizes_in
from lsc_graph.to_torch.unfaithful import refuse_unfaithful, why_unfaithful


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
        is_double: whether torch computes in double precision what the file has in single.
    """

    def __init__(
        self,
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
        fixed: Collection[str] = frozenset(),
        *,
        is_double: bool = False,
    ) -> None:
        super().__init__()
        self.black_box, self.differences, self.fixed = black_box, Differences(), frozenset(fixed)
        self.is_double = is_double
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
    on_host, proto = sizes_in(piece), ir.to_proto(model)
    try:
        module = Converted(in_double_precision(proto) if parameters.is_double else proto, on_host)
    except NotConvertedError as error:
        raise _conversion_error(error, part) from error
    for safe_name, origin in origins.items():
        value = getattr(module.graph, safe_name)
        if value.is_floating_point() and origin in known and safe_name not in on_host:
            trainable = origin not in statistics
            module.replace(safe_name, parameters.share(scope + origin, value, is_trainable=trainable))
    return module


def _write_out(piece: ir.Graph) -> None:
    """Write out what torch has no counterpart of, but ONNX a definition for, in place.

    Raises:
        ConversionError: torch has no faithful counterpart of what is left, either.
    """
    opset = piece.opset_imports.get("", 0)

    def is_lacking(node: ir.Node) -> bool:
        return not is_converted(node.op_type, opset) or why_unfaithful(node) is not None

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
