"""Which element of a torch module's parameters stands at which place of its exported initializers.

The exporter is asked, not believed: it exports copies of the module whose parameters hold their own element
numbers, shuffled. What moves, splits, transposes or copies parameters is undone by reading the numbers; what
computes with them, or does not depend on them, gives numbers that do not agree between two shuffles. Where
an export holds the parameters' own memory, and nothing beside it that could be a copy, that is not needed.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from lsc_graph.canonical.origins import Origin
from lsc_graph.errors import ConversionError, UsageError, VerificationError
from lsc_graph.writeback.tensors import is_writable, values_of

Array = np.ndarray[Any, np.dtype[Any]]
Indices = np.ndarray[Any, np.dtype[np.int64]]
_NUM_SHUFFLES = 2


class ParameterMap:
    """Element numbers of the module's parameters, by initializer.

    Elements are numbered over `module.parameters()`, one after another in row-major order.

    Args:
        module: the module; it is not changed.
        arguments: what it is called with.
        dynamic_shapes: as in `torch.onnx.export`.
        proto: the module as `exported` gives it.
        own: element numbers of the initializers that are parameters, as `exported_with_own` gives them; None
            where others must be asked for.

    Raises:
        UsageError: the module has no parameters.
        VerificationError: another export of the module has other initializers.
    """

    def __init__(
        self,
        module: nn.Module,
        arguments: tuple[Any, ...],
        dynamic_shapes: Any,
        proto: onnx.ModelProto,
        own: Mapping[str, Indices] | None = None,
    ) -> None:
        self.sizes = [parameter.numel() for parameter in module.parameters()]
        self.num_elements = sum(self.sizes)
        if not self.num_elements:
            raise UsageError("The module has no parameters to train")
        if own is not None:
            self.of_initializer = dict(own)
            return
        shapes = {name: array.shape for name, array in floats(proto).items()}
        found = []
        for shuffle in range(_NUM_SHUFFLES):
            order = np.random.default_rng(shuffle).permutation(self.num_elements)
            numbers = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
            whole = {name: np.ones(shape, bool) for name, shape in shapes.items()}
            for digits, weight, base in _digits(order, module):
                with_digits = _exported_digits(module, arguments, dynamic_shapes, digits, shapes)
                for name, array in with_digits.items():
                    whole[name] &= (array == np.floor(array)) & (array >= 0) & (array < base)
                    numbers[name] += np.where(whole[name], array, 0).astype(np.int64) * weight
            found.append(_elements(order, numbers, whole))
        self.of_initializer = {
            name: found[0][name]
            for name in shapes
            if all((one[name] >= 0).all() and (one[name] == found[0][name]).all() for one in found)
        }

    def loaded(self, module: nn.Module, values: Mapping[Origin, Array]) -> list[Tensor]:
        """The module's parameters with new values of initializers put back where they came from.

        Raises:
            VerificationError: an initializer is not a copy of parameters, or copies differ.
        """
        flat = np.concatenate([_numpy(p).ravel() for p in module.parameters()])
        is_set = np.zeros(self.num_elements, dtype=bool)
        for origin, array in values.items():
            indices = self.of_initializer.get("/".join(origin))
            if indices is None:
                raise _not_exact(origin, "its numbers are computed, or no parameters")
            new = array.astype(np.float64)
            again = is_set[indices] | _is_repeated(indices)
            flat[indices] = np.where(is_set[indices], flat[indices], new)
            if (flat[indices] != new)[again].any():
                raise _not_exact(origin, "one parameter stands in several places, which were trained apart")
            is_set[indices] = True
        parts = np.split(flat, np.cumsum(self.sizes)[:-1])
        return [
            torch.from_numpy(part.reshape(tuple(p.shape))).to(p)
            for part, p in zip(parts, module.parameters(), strict=True)
        ]

    def inexact(self, names: Sequence[str]) -> list[str]:
        """Those of the initializers whose numbers are not copies of parameters."""
        return [name for name in names if name not in self.of_initializer]

    def frozen(self, module: nn.Module) -> list[str]:
        """Initializers with an element of a parameter that requires no gradient."""
        free = np.repeat([p.requires_grad for p in module.parameters()], self.sizes)
        return [name for name, indices in self.of_initializer.items() if not free[indices].all()]


def exported(module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any = None) -> onnx.ModelProto:
    """The module as ONNX, its parameters as they are: nothing is folded.

    Raises:
        ConversionError: torch does not export it.
    """
    proto: onnx.ModelProto = _program(module, arguments, dynamic_shapes).model_proto
    return proto


def exported_with_own(
    module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any = None
) -> tuple[onnx.ModelProto, dict[str, Indices] | None]:
    """The module as ONNX, and the element numbers of those initializers that are its parameters themselves.

    None instead of these where another initializer may be a copy of parameters. What the exporter writes
    again for each use of one parameter is one initializer here, so that it is trained as one.
    """
    program = _program(module, arguments, dynamic_shapes)
    proto: onnx.ModelProto = program.model_proto
    own = _own(module, program, floats(proto))
    return (_joined(proto, own), own) if own is not None else (proto, None)


def _joined(proto: onnx.ModelProto, own: Mapping[str, Indices]) -> onnx.ModelProto:
    """The model with one initializer for each parameter: the first of those that are this parameter."""
    model = ir.from_proto(proto)
    initializers, first = model.graph.initializers, dict[tuple[tuple[int, ...], bytes], ir.Value]()
    for name, numbers in own.items():
        value = initializers[name]
        kept = first.setdefault((numbers.shape, numbers.tobytes()), value)
        if kept is not value and not value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, kept)
            del initializers[name]
    return ir.to_proto(model) if len(initializers) < len(proto.graph.initializer) else proto


def _own(module: nn.Module, program: Any, values: Mapping[str, Array]) -> dict[str, Indices] | None:
    starts, start = {}, 0
    for parameter in module.parameters():
        starts[_place(parameter)] = start
        start += parameter.numel()
    held = {name: value.const_value for name, value in program.model.graph.initializers.items()}
    tensors = {name: getattr(held.get(name), "raw", None) for name in values}
    places = {name: _place(raw) for name, raw in tensors.items() if isinstance(raw, Tensor)}
    found = {
        name: starts[place] + np.arange(values[name].size).reshape(values[name].shape)
        for name, place in places.items()
        if place in starts
    }
    buffers = {_place(buffer) for buffer in module.buffers()}
    every = np.concatenate([_numpy(p).ravel() for p in module.parameters()] or [np.zeros(0)])
    for name, array in values.items():
        if name not in found and places.get(name) not in buffers and np.isin(array, every).all():
            return None
    return found


def _place(tensor: Tensor) -> tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _program(module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any) -> Any:
    with evaluated(module), _silence():
        try:
            program = torch.onnx.export(
                module, arguments, dynamo=True, optimize=False, verbose=False, dynamic_shapes=dynamic_shapes
            )
        except Exception as error:  # the exporter's errors have no common base class
            raise ConversionError(
                "torch does not export the module to ONNX",
                where=type(module).__name__,
                got=" ".join(str(error).split())[:400],
            ) from error
    assert program is not None
    return program


def floats(proto: onnx.ModelProto) -> dict[str, Array]:
    """Floating-point initializers by name, as float64."""
    tensors = (tensor for tensor in proto.graph.initializer if is_writable(tensor))
    return {tensor.name: values_of(tensor).astype(np.float64) for tensor in tensors}


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's remarks on libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, each submodule put back into its own mode afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def _digits(order: Indices, module: nn.Module) -> Iterator[tuple[Indices, int, int]]:
    """Element numbers + 1 as digits that every parameter's type holds exactly: (digits, weight, base)."""
    epsilons = [torch.finfo(p.dtype).eps for p in module.parameters() if p.is_floating_point()]
    base = min(round(1 / max(epsilons)), 2**23)
    count = max(1, math.ceil(math.log(len(order) + 1, base)))
    for position in range(count):
        weight = base**position
        yield (order + 1) // weight % base, weight, base


def _exported_digits(
    module: nn.Module,
    arguments: tuple[Any, ...],
    dynamic_shapes: Any,
    digits: Indices,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    clone = copy.deepcopy(module)
    start = 0
    with torch.no_grad():
        for parameter in clone.parameters():
            part = digits[start : start + parameter.numel()]
            parameter.copy_(torch.from_numpy(part.astype(np.float64)).reshape(parameter.shape))
            start += parameter.numel()
    found = floats(exported(clone, arguments, dynamic_shapes))
    if {name: array.shape for name, array in found.items()} != dict(shapes):
        raise VerificationError(
            "Two exports of the module have different initializers, so no mapping between them is exact",
            where=type(module).__name__,
        )
    return found


def _elements(
    order: Indices, numbers: Mapping[str, Indices], whole: Mapping[str, Array]
) -> dict[str, Indices]:
    """Element numbers by initializer; -1 where a number is none."""
    inverse = np.argsort(order)
    found = {}
    for name, shuffled in numbers.items():
        is_number = whole[name] & (shuffled >= 1) & (shuffled <= len(order))
        found[name] = np.where(is_number, inverse[np.where(is_number, shuffled - 1, 0)], -1)
    return found


def _is_repeated(indices: Indices) -> Array:
    """Whether each index stands in more than one place of the array."""
    _, inverse, counts = np.unique(indices, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse].reshape(indices.shape) > 1)


def _numpy(parameter: nn.Parameter) -> Array:
    return parameter.detach().cpu().double().numpy()


def _not_exact(origin: Origin, why: str) -> VerificationError:
    return VerificationError(
        "New values cannot be put back into the module exactly",
        where="/".join(origin),
        got=why,
        do="leave it out with freeze=[...]",
    )
