"""A piece of a model that only ONNX Runtime can run, as a torch function: derivatives by finite differences.

Central differences at h and 2 h along every input element, extrapolated to order h^4: D = (4 D_h - D_2h) / 3.
Twice what they differ by is a bar that D stays within: where the finite step is what errs, D_h is off by a
third of it and D by less; where rounding is, or quantisation, D is off by 4/3 of what D_h is, as is about the
difference. Rounding adds eps |f| / h; with h = eps^(1/5) times the input's scale it is as large as what the
extrapolation leaves.
At a kink, such as that of a ReLU at zero, D is the mean of two slopes: how far these are apart, as far as
that does not shrink with h, is added to the bar.
Where the bar is wide, a smaller step, which passes over as many times fewer kinks, takes the place of h if
its bar is smaller and its value within the bar of the other.
What the bars do to anything computed from such derivatives shows where they are taken again, changed by as
much as the bars allow; where nothing has moved at all, nothing is changed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from torch import Tensor, nn

from lsc_graph.canonical.precision import in_double_precision
from lsc_graph.errors import AnalysisError
from lsc_graph.model_file.proto_walk import model_scopes
from lsc_graph.running.reference import Array, Reference

MAX_INPUT_ELEMENTS = 20_000
"""Every element that is differentiated by takes four runs of the piece."""
_AGREES = 1e-3
_DEFINING_OPSET = 18
_BAR = 2.0
# A bar, relative to the values, from which on a smaller step is tried, and how many times smaller: rounding
# then adds less than that.
_FINE_ENOUGH = 1e-3
_FINER = {np.float64: 128, np.float32: 16}
_KEPT_BYTES = 2**28
_RUNS_BETWEEN_WORDS = 64
_SERIALS = itertools.count()


@dataclass(frozen=True)
class Difference:
    """A Jacobian [m, n] by differences, the length of each column's error bar [n], and what moved at all."""

    jacobian: Array
    bars: Array
    has_moved: Array

    def changed(self, seed: int) -> Array:
        """Another one within the bars: each column moved in a random direction by as much as they allow."""
        random = np.random.default_rng(seed).standard_normal(self.jacobian.shape) * self.has_moved
        lengths = np.linalg.norm(random, axis=0)
        return self.jacobian + random * (self.bars / np.where(lengths > 0, lengths, 1.0))


@dataclass
class Differences:
    """What finite differences were taken of, and how well they are known.

    `errors` holds, for every Jacobian, the norm of its error bars relative to its own. Those that were taken
    last are kept, as far as they fit. `progress` is told now and then how many runs there have been.
    """

    parts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    has_double: bool = True
    num_runs: int = 0
    is_changed: bool = False
    progress: Callable[[int], None] | None = None
    _kept: OrderedDict[bytes, Difference] = field(default_factory=OrderedDict)
    _num_bytes: int = 0

    def note_run(self) -> None:
        """One more run."""
        self.num_runs += 1
        if self.progress is not None and self.num_runs % _RUNS_BETWEEN_WORDS == 0:
            self.progress(self.num_runs)

    @contextmanager
    def changed(self) -> Iterator[None]:
        """All derivatives are others within their bars, the same ones at the same points."""
        self.is_changed = True
        try:
            yield
        finally:
            self.is_changed = False

    def at(self, key: bytes, take: Callable[[], Difference]) -> Array:
        """The Jacobian of this key, taken if it is not kept."""
        found = self._kept.pop(key, None)
        if found is None:
            found = take()
            self._num_bytes += found.jacobian.nbytes
        self._kept[key] = found
        while self._num_bytes > _KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._num_bytes -= old.jacobian.nbytes
        return found.changed(int.from_bytes(key[:8], "little")) if self.is_changed else found.jacobian


class BlackBox(nn.Module):
    """The outputs of an ONNX model as a function of its inputs, in the order of both.

    Works under torch.func's vjp and vmap. Derivatives of derivatives and forward mode do not exist.

    Args:
        proto: the piece; inputs and outputs of static types.
        record: where to note how the differences went.

    Raises:
        AnalysisError: ONNX Runtime does not load it.
    """

    def __init__(self, proto: onnx.ModelProto, record: Differences) -> None:
        super().__init__()
        read = _read_names(proto)
        self._used = tuple(i for i, value in enumerate(proto.graph.input) if value.name in read)
        proto = _with_inputs(proto, self._used)
        self._single, self.record = Reference(proto), record
        self._proto, self.serial = proto, next(_SERIALS)
        self._double: Reference | None = None
        self._is_tried = False
        self.names = [value.name for value in proto.graph.input]

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        read = [values[index] for index in self._used]
        result: tuple[Tensor, ...] = _call(self, (False,) * len(read), None, *read)
        return result

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Outputs at one point."""
        found = self._single.run(dict(zip(self.names, values, strict=True)))
        return [found[name] for name in self._single.output_names]

    def jacobian(self, values: Sequence[Array], wanted: Sequence[int]) -> dict[int, Array]:
        """d outputs / d input at one point, [m, n_i] by number of the input; m counts all float outputs."""
        count = sum(values[index].size for index in wanted)
        if count > MAX_INPUT_ELEMENTS:
            raise AnalysisError(
                "Too many elements for finite differences",
                where=", ".join(self.record.parts[:1]),
                got=f"{count} elements to differentiate by",
                expected=f"at most {MAX_INPUT_ELEMENTS}",
                do="audit a smaller batch or fewer steps",
            )
        runner, dtype = self._finest(values)

        def taken(index: int) -> Array:
            key = _digest(self.serial, index, values)
            return self.record.at(key, lambda: _differences(runner, values, index, dtype, self.record))

        return {index: taken(index) for index in wanted}

    def _finest(self, values: Sequence[Array]) -> tuple[Any, Any]:
        """How to run it in double precision, if it can be run so and gives the same; else in single."""
        if not self._is_tried:
            self._is_tried = True
            self._double = self._in_double(values)
            self.record.has_double &= self._double is not None
        reference = self._double or self._single
        dtype = np.float64 if self._double is not None else np.float32

        def run(given: Sequence[Array]) -> Array:
            self.record.note_run()
            found = reference.run(dict(zip(self.names, given, strict=True)))
            return _floats([found[name] for name in reference.output_names])

        return run, dtype

    def _in_double(self, values: Sequence[Array]) -> Reference | None:
        found = (self._agreeing(proto, values) for proto in _in_double_forms(self._proto))
        return next((reference for reference in found if reference is not None), None)

    def _agreeing(self, proto: onnx.ModelProto, values: Sequence[Array]) -> Reference | None:
        """A model in double precision, if it runs and gives what the piece does."""
        try:
            reference = Reference(proto)
            given = [_cast(value, np.float64) for value in values]
            found = reference.run(dict(zip(self.names, given, strict=True)))
        except (AnalysisError, onnx.checker.ValidationError):
            return None
        theirs, ours = _floats(self.run(values)), _floats([found[name] for name in reference.output_names])
        is_same = theirs.shape == ours.shape and np.allclose(ours, theirs, rtol=_AGREES, atol=_AGREES)
        return reference if is_same else None


def _in_double_forms(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model in double precision; the same in the operator set that defines more operators by others.

    ONNX Runtime falls back on these definitions where it has no kernel, as of Softplus.
    """
    yield in_double_precision(proto)
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and max(versions) < _DEFINING_OPSET:
        try:
            newer = onnx.version_converter.convert_version(proto, _DEFINING_OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError):
            return
        yield in_double_precision(newer)


def _read_names(proto: onnx.ModelProto) -> set[str]:
    """Names that anything in a model reads."""
    nodes = (node for scope in model_scopes(proto) for node in scope.node)
    return {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}


def _with_inputs(proto: onnx.ModelProto, kept: Sequence[int]) -> onnx.ModelProto:
    """The model without inputs that nothing reads: each element of them would cost four runs."""
    inputs = [proto.graph.input[index] for index in kept]
    if len(inputs) == len(proto.graph.input):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    return copy


def _cast(value: Array, dtype: Any) -> Array:
    return value.astype(dtype) if value.dtype.kind == "f" else value


def _floats(outputs: Sequence[Array]) -> Array:
    """All float outputs in one vector of doubles."""
    parts = [np.asarray(value, dtype=np.float64).reshape(-1) for value in outputs if value.dtype.kind == "f"]
    return np.concatenate(parts) if parts else np.zeros(0)


def _digest(serial: int, index: int, values: Sequence[Array]) -> bytes:
    """What a Jacobian depends on: the piece, which input, and all values."""
    found = hashlib.blake2b(f"{serial}, {index}".encode())
    for value in values:
        found.update(f"{value.dtype}, {value.shape}".encode() + value.tobytes())
    return found.digest()


def _differences(
    run: Any, values: Sequence[Array], index: int, dtype: Any, record: Differences
) -> Difference:
    """By central differences, extrapolated."""
    given = [_cast(value, dtype) for value in values]
    point = given[index]
    finite = point[np.isfinite(point)]
    scale = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 1.0
    step = float(np.finfo(dtype).eps) ** 0.2 * max(scale, 1e-2)
    columns, errors = [], []
    middle = run(given)
    has_moved = np.zeros((len(middle), point.size), dtype=bool)

    def moved(number: int, by: float) -> tuple[float, Array]:
        shifted = point.copy()
        shifted.flat[number] += by
        value = run([*given[:index], shifted, *given[index + 1 :]])
        has_moved[:, number] |= value != middle
        # What stays infinite has not moved.
        difference = np.subtract(value, middle, out=np.zeros_like(middle), where=value != middle)
        return float(shifted.flat[number]) - float(point.flat[number]), difference

    for number in range(point.size):
        if not np.isfinite(point.flat[number]):
            columns.append(np.full(len(middle), np.nan))
            errors.append(np.nan)
            continue
        slope, error, kink = _slope(partial(moved, number), step)
        if error + kink > _FINE_ENOUGH * np.linalg.norm(slope):
            # Seldom is a kink as near as a smaller step; and large elements may have made this one wide.
            finer, finer_error, finer_kink = _slope(partial(moved, number), step / _FINER[dtype])
            # Between two stairs of a quantised kernel nothing moves, which tells nothing.
            is_telling = dtype == np.float64 or bool(finer.any())
            is_consistent = np.linalg.norm(finer - slope) <= error + kink
            if is_telling and is_consistent and finer_error + finer_kink < error + kink:
                slope, error, kink = finer, finer_error, finer_kink
        columns.append(slope)
        errors.append(error + kink)
    jacobian = np.stack(columns, 1) if columns else np.zeros((len(middle), 0))
    norm = float(np.linalg.norm(jacobian))
    if norm > 0:
        record.errors.append(float(np.linalg.norm(errors)) / norm)
    return Difference(jacobian, np.asarray(errors), has_moved)


def _slope(moved: Callable[[float], tuple[float, Array]], step: float) -> tuple[Array, float, float]:
    """A derivative by steps of h and 2 h, the bar of a smooth function's, and what a kink adds to it.

    Args:
        moved: how far a shift by about so much really goes, and what it adds to the outputs.
        step: h.
    """

    def slopes(h: float) -> tuple[Array, Array]:
        """The mean of the slopes to the right and to the left, and their difference."""
        (right, after), (left, before) = moved(h), moved(-h)
        return (after - before) / (right - left), after / right - before / left

    (fine, jump), (coarse, wide_jump) = slopes(step), slopes(2 * step)
    kink = float(np.linalg.norm(2 * jump - wide_jump)) / 2
    return (4 * fine - coarse) / 3, _BAR * float(np.linalg.norm(fine - coarse)), kink


class _Call(torch.autograd.Function):
    """Inputs with a flag have a leading axis of `size` points; then every output has one, too."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        box: BlackBox, flags: tuple[bool, ...], size: int | None, *values: Tensor
    ) -> tuple[Tensor, ...]:
        points = [box.run(point) for point in _points(flags, size, values)]
        outputs = (
            [np.stack(column) for column in zip(*points, strict=True)] if size is not None else points[0]
        )
        return tuple(torch.from_numpy(np.asarray(value, order="C")) for value in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.box, ctx.flags, ctx.size, *values = inputs
        ctx.save_for_backward(*values)
        ctx.mark_non_differentiable(*(value for value in output if not value.dtype.is_floating_point))
        ctx.is_float = tuple(value.dtype.is_floating_point for value in output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        values = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        wanted = tuple(i for i, v in enumerate(values) if needed[i] and v.dtype.is_floating_point)
        cotangents = [g[None] for g, is_float in zip(gradients, ctx.is_float, strict=True) if is_float]
        pulled = _pull(ctx.box, ctx.flags, ctx.size, wanted, len(values), *values, *cotangents)
        found: list[Tensor | None] = [None] * len(values)
        for index, value in zip(wanted, pulled, strict=True):
            found[index] = value[0] if ctx.flags[index] or ctx.size is None else value[0].sum(0)
        return (None, None, None, *found)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        box: BlackBox,
        flags: tuple[bool, ...],
        size: int | None,
        *values: Tensor,
    ) -> tuple[tuple[Tensor, ...], Any]:
        dims, count = in_dims[3:], info.batch_size
        flags, merged = _merged(values, dims, flags, count, size)
        total = count if size is None else count * size
        outputs = _call(box, flags, total, *merged)
        if size is not None:
            outputs = tuple(value.reshape(count, size, *value.shape[1:]) for value in outputs)
        return outputs, (0,) * len(outputs)


class _Pull(torch.autograd.Function):
    """Cotangents [K, (points,) *shape] of the float outputs, pulled back to the wanted inputs, alike."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        box: BlackBox,
        flags: tuple[bool, ...],
        size: int | None,
        wanted: tuple[int, ...],
        num_values: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        values, cotangents = tensors[:num_values], tensors[num_values:]
        count = cotangents[0].shape[0]
        results: dict[int, list[Array]] = {index: [] for index in wanted}
        for number, point in enumerate(_points(flags, size, values)):
            own = cotangents if size is None else [c[:, number] for c in cotangents]
            rows = np.concatenate([c.detach().cpu().double().numpy().reshape(count, -1) for c in own], 1)
            jacobians = box.jacobian(point, wanted)
            for index in wanted:
                results[index].append((rows @ jacobians[index]).reshape(count, *point[index].shape))
        found = []
        for index in wanted:
            stacked = np.stack(results[index], 1) if size is not None else results[index][0]
            found.append(torch.from_numpy(stacked).to(values[index]))
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise AnalysisError("Finite differences have no derivative of their own")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        box: BlackBox,
        flags: tuple[bool, ...],
        size: int | None,
        wanted: tuple[int, ...],
        num_values: int,
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], Any]:
        dims, count = in_dims[5:], info.batch_size
        values, cotangents = tensors[:num_values], tensors[num_values:]
        value_dims, cotangent_dims = dims[:num_values], dims[num_values:]
        front = [
            c.movedim(d, 0) if d is not None else c.expand(count, *c.shape)
            for c, d in zip(cotangents, cotangent_dims, strict=True)
        ]
        if all(dim is None for dim in value_dims):
            folded = [c.reshape(-1, *c.shape[2:]) for c in front]
            found = _pull(box, flags, size, wanted, num_values, *values, *folded)
            return tuple(v.reshape(count, -1, *v.shape[1:]) for v in found), (0,) * len(found)
        flags, merged = _merged(values, value_dims, flags, count, size)
        total = count if size is None else count * size
        folded = [c.movedim(0, 1) for c in front]
        if size is not None:
            folded = [c.reshape(c.shape[0], total, *c.shape[3:]) for c in folded]
        found = _pull(box, flags, total, wanted, num_values, *merged, *folded)
        if size is not None:
            found = tuple(v.reshape(v.shape[0], count, size, *v.shape[2:]) for v in found)
        return found, (1,) * len(found)


def _merged(
    values: Sequence[Tensor], dims: Sequence[Any], flags: tuple[bool, ...], count: int, size: int | None
) -> tuple[tuple[bool, ...], list[Tensor]]:
    """Values with a new axis of `count` points in front of, and merged with, that of `size`."""
    new_flags, merged = [], []
    for value, dim, flag in zip(values, dims, flags, strict=True):
        if dim is None and not flag:
            new_flags.append(False)
            merged.append(value)
            continue
        moved = value.movedim(dim, 0) if dim is not None else value.expand(count, *value.shape)
        if size is not None:
            moved = moved if flag else moved[:, None].expand(count, size, *moved.shape[1:])
            moved = moved.reshape(count * size, *moved.shape[2:])
        new_flags.append(True)
        merged.append(moved)
    return tuple(new_flags), merged


def _points(flags: tuple[bool, ...], size: int | None, values: Sequence[Tensor]) -> list[list[Array]]:
    """The inputs of every point as arrays."""
    arrays = [np.asarray(value.detach().cpu().numpy(), order="C") for value in values]
    if size is None:
        return [arrays]
    pairs = list(zip(arrays, flags, strict=True))
    return [[np.asarray(a[number]) if flag else a for a, flag in pairs] for number in range(size)]


def _call(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_Call.apply(*arguments))  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _pull(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_Pull.apply(*arguments))  # type: ignore[no-untyped-call]  # torch leaves it untyped
