"""What an audit feeds a model: concrete shapes for every input, and synthetic or given values.

Open dimensions are settled by what they do: one that sets the number of steps of a recurrence gets the
requested number, batch dimensions get 1, and for the others sizes are tried until the model runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.errors import AnalysisError, InputError, UsageError
from lsc_graph.running.index_arithmetic import (
    choices_for,
    constant,
    is_held_against_steps,
    only_picks_rows,
    readers,
    says_where,
)
from lsc_graph.running.reference import Array

Dimension = int | str
_BATCH = re.compile(r"batch|^n$|^b$|^bs$", re.IGNORECASE)
_TIME = re.compile(r"time|seq|length|len$|step|frame|^t$|^l$", re.IGNORECASE)
_LENGTH = re.compile(r"^(?!.*(past|cache|prev|max)).*(len|lens|length|lengths)$", re.IGNORECASE)
_MASK = re.compile(r"(^|[^a-z])masks?$", re.IGNORECASE)
_ANONYMOUS = re.compile(r"^(unk|none|\?|-1|p2o\.|dynamic)", re.IGNORECASE)
_SMALL = (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16)
_SIZES = (64, 32, 48, 128, 256, 16, 96, 224, 320, 512, 8, 160, 192, 640, 1024, 1)


@dataclass(frozen=True)
class OpenInput:
    """A graph input as declared; an open dimension is a name that is unique unless the model ties it."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[Dimension, ...]

    @property
    def open_dims(self) -> tuple[str, ...]:
        return tuple(dim for dim in self.dims if isinstance(dim, str))


@dataclass(frozen=True)
class InputPlan:
    """Concrete shapes and fixed values, and where each came from in words."""

    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, Array]
    inputs: tuple[OpenInput, ...]
    sources: dict[str, str] = field(default_factory=dict)


def declared_inputs(proto: onnx.ModelProto) -> tuple[OpenInput, ...]:
    """The graph inputs that are not initializers.

    Raises:
        InputError: an input is not a tensor.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    return tuple(_declared(value) for value in proto.graph.input if value.name not in stored)


def _declared(value: onnx.ValueInfoProto) -> OpenInput:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise InputError(
            "An input is not a tensor of known rank",
            where=value.name,
            got=str(value.type.WhichOneof("value")),
            expected="a tensor with a shape",
            do="export the model with tensors as inputs",
        )
    tensor = value.type.tensor_type
    dims = tuple(_dimension(value.name, axis, dim) for axis, dim in enumerate(tensor.shape.dim))
    return OpenInput(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), dims)


def _dimension(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    is_named = re.fullmatch(r"[A-Za-z_][\w.]*", dim.dim_param) and not _ANONYMOUS.match(dim.dim_param)
    return dim.dim_param if is_named else f"{name}[{axis}]"


def batch_dims(inputs: Sequence[OpenInput]) -> frozenset[str]:
    """The open dimensions that look like a batch: by name, or first and not named after time."""
    first = {value.dims[0] for value in inputs if value.dims and isinstance(value.dims[0], str)}
    return frozenset(
        dim
        for dim in open_dims(inputs)
        if _BATCH.search(dim.split("[")[0] if "[" not in dim else "")
        or (dim in first and ("[" in dim or not _TIME.search(dim)))
    )


def parse_value(name: str, text: str, dtype: np.dtype[np.generic]) -> Array:
    """The array that `--input NAME=VALUE` means: a number or a JSON list.

    Raises:
        UsageError: the text is neither.
    """
    try:
        value = json.loads(text)
        return np.asarray(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            "--input has no number or JSON list as its value",
            where=name,
            got=text,
            expected=f"something like {name}=16000 or {name}=[1,2,3], of type {dtype}",
        ) from error


def check_names(given: Mapping[str, object], inputs: Sequence[OpenInput], option: str) -> None:
    """Raise UsageError if an option names an input that the model does not have."""
    known = [value.name for value in inputs]
    for name in given:
        if name not in known:
            raise UsageError(
                f"{option} names no input of the model", got=name, expected="one of " + ", ".join(known)
            )


def apply_shapes(
    inputs: Sequence[OpenInput], given: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[OpenInput, ...], dict[str, int]]:
    """Inputs with given shapes filled in, and what that says about tied open dimensions.

    Raises:
        UsageError: a given shape contradicts the declared one.
    """
    sizes: dict[str, int] = {}
    for value in inputs:
        shape = given.get(value.name)
        if shape is None:
            continue
        fits = len(shape) == len(value.dims) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(value.dims, shape, strict=False)
        )
        if not fits or any(size < 1 for size in shape):
            raise UsageError(
                "A shape does not fit the model's input",
                where=value.name,
                got=",".join(map(str, shape)),
                expected=",".join(map(str, value.dims)),
                do="keep the sizes that are numbers: the file fixes them; for others, export the model again "
                "with open axes (torch: dynamic_shapes or dynamic_axes)",
            )
        sizes |= {dim: size for dim, size in zip(value.dims, shape, strict=True) if isinstance(dim, str)}
    return tuple(_filled(value, sizes) for value in inputs), sizes


def _filled(value: OpenInput, sizes: Mapping[str, int]) -> OpenInput:
    return replace(value, dims=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in value.dims))


def shapes_for(inputs: Sequence[OpenInput], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Concrete shapes once every open dimension has a size."""
    return {
        value.name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in value.dims)
        for value in inputs
    }


def open_dims(inputs: Sequence[OpenInput]) -> tuple[str, ...]:
    """The distinct open dimensions of all inputs."""
    return tuple(dict.fromkeys(dim for value in inputs for dim in value.open_dims))


def step_dims(
    dims: Sequence[str], sizes: Mapping[str, int], lengths: Callable[[Mapping[str, int]], tuple[int, ...]]
) -> tuple[tuple[str, ...], ...]:
    """The open dimensions that set how many steps the recurrences take; those that go together as one.

    Inputs that are joined have dimensions that are the same though no name says so: the model takes no other
    size for one of them alone.

    Args:
        dims: open dimensions.
        sizes: a first size for each.
        lengths: number of steps of each recurrence when the open dimensions have given sizes; none where
            the model does not take these.
    """
    before = lengths(sizes)
    if not before:
        return ()

    def grown(*own: str) -> tuple[int, ...]:
        return lengths({**sizes, **{dim: 2 * sizes[dim] + 1 for dim in own}})

    alone = {dim: grown(dim) for dim in dims}
    tied = [tuple(dim for dim in dims if not alone[dim] and sizes[dim] == size) for size in {*sizes.values()}]
    together = {dim: own for own in tied if len(own) > 1 and grown(*own) for dim in own}
    groups = dict.fromkeys(together.get(dim, (dim,)) for dim in dims)
    return tuple(own for own in groups if (alone[own[0]] if len(own) == 1 else grown(*own)) != before)


def size_for_steps(
    dims: Sequence[str],
    num_steps: int,
    sizes: Mapping[str, int],
    lengths: Callable[[Mapping[str, int]], tuple[int, ...]],
) -> int:
    """The smallest size found for `dims` with which the recurrences take at least `num_steps` steps."""
    size = num_steps
    for _ in range(8):
        taken = max(lengths({**sizes, **dict.fromkeys(dims, size)}), default=0)
        if taken == num_steps or (taken > num_steps and size <= 1):
            return size
        size = max(1, math.ceil(size * num_steps / taken)) if taken else 2 * size
    return size


def candidate_sizes(dims: Sequence[str], asked: Sequence[int] = ()) -> Iterator[dict[str, int]]:
    """Sizes to try for open dimensions of unknown meaning, all equal: usual ones, those that are asked for by
    the weights, multiples of 16, any.
    """
    for size in dict.fromkeys((*_SIZES, *asked, *range(16, 1025, 16), *range(1, 129))):
        yield dict.fromkeys(dims, size)


def first_that_runs(
    candidates: Iterator[dict[str, int]], runs: Callable[[Mapping[str, int]], AnalysisError | None]
) -> dict[str, int]:
    """The first candidate sizes with which the model runs.

    Raises:
        InputError: there are none.
    """
    error: AnalysisError | None = None
    for sizes in candidates:
        error = runs(sizes)
        if error is None:
            return sizes
    raise InputError(
        "No input shapes were found that the model accepts",
        got=str(error.got) if error is not None else "no candidates",
        expected="a model that runs on synthetic inputs",
        do="give the shapes with --input-shape NAME:1,576 (and fixed values with --input NAME=VALUE)",
    )


@dataclass(frozen=True)
class Domain:
    """Which values an input may take: `choices` if it is compared or indexed, else any number.

    `is_length` marks sequence lengths, which are settled once the number of steps is known, `is_token` what
    is a number of a row and nothing else.
    """

    choices: Array | None
    words: str
    is_length: bool = False
    is_token: bool = False


def domains(proto: onnx.ModelProto) -> dict[str, Domain]:
    """The domain of each input, by what the model does with it.

    Integers that feed a Gather are valid indices; those that are compared with constants take these;
    others are 1, but for tensors of 8 or 16 bits, which are sounds or images. Booleans are true; floats are
    standard normal, but for masks.
    """
    model = ir.from_proto(proto)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return {str(value.name): _domain(value) for value in model.graph.inputs}


def _domain(value: ir.Value) -> Domain:
    if value.dtype is None or value.dtype.is_floating_point():
        if _MASK.search(str(value.name)):
            return Domain(np.array([1.0]), "1, as a mask")
        return Domain(None, "standard normal")
    if value.dtype is ir.DataType.BOOL:
        return Domain(np.array([True]), "true")
    for node, index in readers(value, with_arithmetic=True):
        is_of_operator = node.op_type in ("RNN", "GRU", "LSTM") and index == 4
        if is_of_operator or is_held_against_steps(node, index):
            return Domain(np.array([1]), "sequence lengths", is_length=True)
        if node.op_type == "Gather" and index == 1 and (found := _table_indices(value, node)) is not None:
            return replace(found, is_token=only_picks_rows(value))
        if node.op_type == "OneHot" and index == 0 and (depth := constant(node.inputs[1])) is not None:
            return _indices(np.arange(int(depth.item())), int(depth.item()), "", _compared(value))
    compared, is_mask = _compared(value), _MASK.search(str(value.name)) is not None
    if is_mask and not compared.any():  # compared with 0 alone, if at all: zeros would hide everything
        return Domain(np.array([1]), "1, as a mask")
    if compared.size:
        return Domain(compared, f"{_few(compared)}, which it is compared with")
    is_length = _LENGTH.search(str(value.name)) is not None
    if value.dtype in _SMALL and not is_length and value.shape and not says_where(value):
        return _any_of(value.dtype)
    return Domain(np.array([1]), "1", is_length=is_length)


def _any_of(dtype: ir.DataType) -> Domain:
    """Any number of a type; 1, which is what a single integer is set to, stands last."""
    bounds = np.iinfo(dtype.numpy())
    numbers = np.arange(bounds.min, bounds.max + 1)
    return Domain(np.append(numbers[numbers != 1], 1), f"{bounds.min} to {bounds.max}")


def _table_indices(value: ir.Value, gather: ir.Node) -> Domain | None:
    """The values for which a Gather finds an entry in a table of known size."""
    table, index = gather.inputs[:2]
    axis = gather.attributes.get_int("axis", 0)
    size = table.shape[axis] if table is not None and table.shape is not None else None
    if not isinstance(size, int) or index is None:
        return None
    choices = choices_for(value, index, size)
    if choices is None or not choices.size:
        return None
    return _indices(choices, size, f", which feed {gather.name or 'a Gather'}", _compared(value))


def _indices(choices: Array, size: int, words: str, special: Array) -> Domain:
    """Indices below a size, but for those that the model tells apart: padding is masked, and says nothing."""
    kept = np.setdiff1d(choices, special)
    if not np.isin(special, choices).any() or not kept.size:
        return Domain(choices, f"indices below {size}{words}")
    return Domain(kept, f"indices below {size} but for {_few(special)}{words}")


def _compared(value: ir.Value) -> Array:
    """The constants that an input is compared with."""
    equal = [(node, index) for node, index in readers(value) if node.op_type == "Equal"]
    found = [constant(node.inputs[1 - index]) for node, index in equal]
    numbers = [np.ravel(other).astype(np.int64) for other in found if other is not None]
    return np.unique(np.concatenate(numbers)) if numbers else np.empty(0, np.int64)


def _few(values: Array) -> str:
    return str(values.item()) if values.size == 1 else f"{values.min()} to {values.max()}"


def synthetic(
    domain: Domain, shape: tuple[int, ...], dtype: np.dtype[np.generic], generator: np.random.Generator
) -> Array:
    """Random values of a domain."""
    if domain.choices is None:
        return generator.standard_normal(shape).astype(dtype)
    return generator.choice(domain.choices, size=shape).astype(dtype)
