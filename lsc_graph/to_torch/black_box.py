"""A piece of a model that only ONNX Runtime can run, as a torch function: derivatives by finite differences.

What the error bars of these do to anything computed from such derivatives shows where they are taken again,
changed by as much as the bars allow; where nothing has moved at all, nothing is changed.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import torch
from torch import Tensor, nn

from lsc_graph.canonical.inference import infer_shapes
from lsc_graph.canonical.precision import in_double_precision
from lsc_graph.errors import AnalysisError, LimitExceededError
from lsc_graph.model_file.proto_walk import model_scopes
from lsc_graph.running.reference import Array, Reference
from lsc_graph.to_torch.black_points import mapped_rows, merged_points, points
from lsc_graph.to_torch.convolutions import write_out_convolutions
from lsc_graph.to_torch.copies import Runs, flat_floats
from lsc_graph.to_torch.differences import Differences, cast_floats, differences
from lsc_graph.to_torch.directional import Directions, directional
from lsc_graph.to_torch.free_sizes import bytes_depending, free_sizes
from lsc_graph.to_torch.kept import digest_of
from lsc_graph.to_torch.pushes import push

MAX_INPUT_ELEMENTS = 20_000
"""Every element that is differentiated by takes four runs of the piece: beyond this, products with directions
are taken where these tell enough."""
MAX_BYTES = 2**31
"""What the whole derivative of one piece at one point may take."""
_AGREES = 1e-3
_DEFINING_OPSET = 18
_SERIALS = itertools.count()


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
        self._runs: Runs | None = None
        self.names = [value.name for value in proto.graph.input]

    @property
    def num_elements(self) -> int:
        """How many elements all inputs of floating-point numbers have together."""
        floats = (value.type.tensor_type for value in self._proto.graph.input)
        kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
        return sum(
            math.prod(dim.dim_value for dim in own.shape.dim) for own in floats if own.elem_type in kinds
        )

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        read = [values[index] for index in self._used]
        result: tuple[Tensor, ...] = _call(self, (False,) * len(read), None, *read)
        return result

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Outputs at one point."""
        found = self._single.run(dict(zip(self.names, values, strict=True)))
        return [found[name] for name in self._single.output_names]

    def known(self, values: Sequence[Array], digests: Sequence[bytes]) -> list[Array]:
        """Outputs at a point, by the digests of what it holds."""
        return self.record.values.at(_key(self.serial, digests), lambda: self.run(values))

    def jacobian(
        self, values: Sequence[Array], wanted: Sequence[int], digests: Sequence[bytes] = ()
    ) -> dict[int, Array]:
        """d outputs / d input at one point, [m, n_i] by number of the input; m counts all float outputs.

        Args:
            values: the point.
            wanted: numbers of the inputs to differentiate by.
            digests: of the values, where these are known.
        """
        known = digests or [digest_of(value) for value in values]
        self._check_size(values, wanted, known)
        runs = self._finest(values)

        def taken(index: int) -> Array:
            key = _key(self.serial, [*known, str(index).encode()])
            return self.record.at(key, lambda: differences(runs, values, index, self.record))

        return {index: taken(index) for index in wanted}

    def _check_size(self, values: Sequence[Array], wanted: Sequence[int], digests: Sequence[bytes]) -> None:
        """Before anything is allocated.

        Raises:
            LimitExceededError: the whole derivative takes too much memory.
        """
        count = sum(values[index].size for index in wanted)
        rows = sum(own.size for own in self.known(values, digests) if own.dtype.kind == "f")
        if 8 * rows * count > MAX_BYTES:
            raise LimitExceededError(
                "Too many elements for finite differences by each of them",
                where=", ".join(self.record.parts[:1]),
                got=f"{count:,} elements to differentiate {rows:,} by, which take "
                f"{8 * rows * count / 2**30:,.1f} GiB",
                expected=f"at most {MAX_BYTES / 2**30:,.1f} GiB",
                do="audit a smaller batch or fewer steps",
            )

    def product(
        self, values: Sequence[Array], directions: Directions, digests: Sequence[bytes] = ()
    ) -> list[Array]:
        """J v of every float output at one point.

        Args:
            values: the point.
            directions: v, by the numbers of the inputs that it moves.
            digests: of the values, where these are known.
        """
        known = digests or [digest_of(value) for value in values]
        moved = [str(index).encode() + digest_of(own) for index, own in directions.items()]
        runs = self._finest(values)
        key = _key(self.serial, [*known, *moved])
        flat = self.record.at(key, lambda: directional(runs, values, directions, self.record))[:, 0]
        outputs = [own for own in self.known(values, known) if own.dtype.kind == "f"]
        ends = np.cumsum([own.size for own in outputs])[:-1]
        return [part.reshape(own.shape) for part, own in zip(np.split(flat, ends), outputs, strict=True)]

    def _finest(self, values: Sequence[Array]) -> Runs:
        """How to run it in double precision, if it can be run so and gives the same; else in single."""
        if self._runs is None:
            double = ((form, np.float64) for form in _in_double_forms(self._proto))
            forms = itertools.chain(double, [(self._proto, np.float32)])
            found = (self._agreeing(form, dtype, values) for form, dtype in forms)
            runs = next((runs for runs in found if runs is not None), None)
            self._runs = runs or self._runs_of(self._single, self._proto, np.float32, has_free_sizes=False)
            self.record.has_double &= self._runs.dtype is np.float64
        return self._runs

    def _agreeing(self, proto: onnx.ModelProto, dtype: Any, values: Sequence[Array]) -> Runs | None:
        """A model that runs and gives what the piece does; if it can be, with other sizes as well."""
        theirs = flat_floats(self.run(values))
        for has_free_sizes in (True, False):
            try:
                reference = Reference(free_sizes(proto) if has_free_sizes else proto)
                runs = self._runs_of(reference, proto, dtype, has_free_sizes=has_free_sizes)
                ours = runs.one([cast_floats(value, dtype) for value in values])
            except (AnalysisError, onnx.checker.ValidationError):
                continue
            if theirs.shape == ours.shape and np.allclose(
                ours, theirs, rtol=_AGREES, atol=_AGREES, equal_nan=True
            ):
                return runs
        return None

    def _runs_of(
        self, reference: Reference, proto: onnx.ModelProto, dtype: Any, *, has_free_sizes: bool
    ) -> Runs:
        return Runs(
            reference,
            self.names,
            dtype,
            has_free_sizes=has_free_sizes,
            bytes_per_point=partial(bytes_depending, proto),
            note=self.record.note_run,
        )


def _in_double_forms(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model in double precision; the same in the operator set that defines more operators by others.

    ONNX Runtime falls back on these definitions where it has no kernel, as of Softplus. Convolutions, for
    which it has neither, are written out.
    """
    yield in_double_precision(_without_convolutions(proto))
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and max(versions) < _DEFINING_OPSET:
        try:
            newer = onnx.version_converter.convert_version(proto, _DEFINING_OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError):
            return
        yield in_double_precision(_without_convolutions(newer))


def _without_convolutions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with products of matrices in place of convolutions, as far as that can be."""
    if not any(node.op_type == "Conv" for scope in model_scopes(proto) for node in scope.node):
        return proto
    try:
        model = ir.from_proto(proto)
        infer_shapes(model)
        write_out_convolutions(model)
        return ir.to_proto(model)
    except (AnalysisError, ir.serde.SerdeError):
        return proto


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


def _key(serial: int, digests: Sequence[bytes]) -> bytes:
    """Of a piece, and what it was given."""
    return hashlib.blake2b(b"".join((str(serial).encode(), *digests))).digest()


class _Call(torch.autograd.Function):
    """Inputs with a flag have a leading axis of `size` points; then every output has one, too."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        box: BlackBox, flags: tuple[bool, ...], size: int | None, *values: Tensor
    ) -> tuple[Tensor, ...]:
        found = [box.known(*point) for point in points(box.record, flags, size, values)]
        columns = zip(*found, strict=True)
        outputs = [np.stack(column) if size is not None else np.array(column[0]) for column in columns]
        return tuple(torch.from_numpy(value) for value in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.box, ctx.flags, ctx.size, *values = inputs
        ctx.save_for_backward(*values)
        ctx.save_for_forward(*values)
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
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        values, given = ctx.saved_tensors, tangents[3:]
        wanted = tuple(i for i, own in enumerate(given) if own is not None and own.dtype.is_floating_point)
        kinds = tuple(ctx.is_float)
        directions = [
            given[index][None]
            if ctx.size is None or ctx.flags[index]
            else given[index].expand(ctx.size, *given[index].shape)[None]
            for index in wanted
        ]
        moved = iter(push(ctx.box, ctx.flags, ctx.size, wanted, len(values), *values, *directions))
        return tuple(next(moved)[0] if is_float else None for is_float in kinds)

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
        flags, merged = merged_points(values, dims, flags, count, size)
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
        for number, (point, digests) in enumerate(points(box.record, flags, size, values)):
            own = cotangents if size is None else [c[:, number] for c in cotangents]
            rows = np.concatenate([c.detach().cpu().double().numpy().reshape(count, -1) for c in own], 1)
            jacobians = box.jacobian(point, wanted, digests)
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
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], Any]:
        return mapped_rows(_pull, info.batch_size, in_dims, *arguments)


def _call(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_Call.apply(*arguments))  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _pull(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_Pull.apply(*arguments))  # type: ignore[no-untyped-call]  # torch leaves it untyped
