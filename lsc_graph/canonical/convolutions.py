"""Convolutions as products of matrices, for which ONNX Runtime has kernels in double precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.canonical.shapes import static_shape

# Patches of a convolution hold every element about as often as its kernel has elements: beyond this it stays.
_MAX_PATCHES = 2**21
_DEFAULT = ("", "ai.onnx")


def write_out_convolutions(model: ir.Model) -> None:
    """Replace every Conv of known sizes by patches times weights, in place; what is too large stays.

    Where there is padding, what takes its place needs operator set 9.

    Args:
        model: with the shapes of its values.
    """
    taken = {value.name for graph in model.graphs() for value in _values(graph)}
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Conv" and node.domain in _DEFAULT and node.graph is not None:
            found = _Product(node, taken)
            nodes = found.nodes() if found.is_known else []
            if nodes:
                node.graph.insert_before(node, nodes)
                put_in_place(node.outputs[0], nodes[-1].outputs[0])
                node.graph.remove(node, safe=True)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values that a graph has itself."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in graph:
        yield from node.outputs


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a convolution."""

    size: int
    kernel: int
    stride: int
    dilation: int
    padded: tuple[int, int]

    @property
    def num_places(self) -> int:
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + sum(self.padded) - reach) // self.stride + 1

    @property
    def is_plain(self) -> bool:
        """Whether one tap reads every element where it stands."""
        return self.kernel == self.stride == 1 and not any(self.padded)

    def sources(self) -> Any:
        """Which element [kernel, places] each tap reads at each place; outside of the axis, none is there."""
        taps = self.dilation * np.arange(self.kernel)[:, None]
        return taps + self.stride * np.arange(self.num_places) - self.padded[0]


class _Product:
    """A convolution as a gather of patches [N, G, Q, places] and a product with the weights [G, M / G, Q].

    Args:
        node: the Conv.
        taken: names of values in its model, to which those of the new ones are added.
    """

    def __init__(self, node: ir.Node, taken: set[str | None]) -> None:
        self._node, self._taken = node, taken
        self._shape, self._weights = (static_shape(value) for value in node.inputs[:2])
        self._dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        self._made: list[ir.Node] = []

    @property
    def is_known(self) -> bool:
        """Whether sizes are known, and something is left to compute that is not too large."""
        if self._shape is None or self._weights is None or self._dtype is None:
            return False
        self._axes = self._spatial_axes()
        places = [axis.num_places for axis in self._axes]
        num_patches = math.prod(self._shape[:2]) * math.prod(self._weights[2:]) * math.prod(places)
        return min(places, default=0) > 0 and 0 < num_patches <= _MAX_PATCHES

    def _spatial_axes(self) -> list[_Axis]:
        assert self._shape is not None
        assert self._weights is not None
        sizes, kernel = self._shape[2:], self._weights[2:]
        strides, dilations = (self._numbers(name, [1] * len(sizes)) for name in ("strides", "dilations"))
        given = self._numbers("pads", [0] * 2 * len(sizes))
        padded = list(zip(given[: len(sizes)], given[len(sizes) :], strict=True))
        auto = self._node.attributes.get("auto_pad")
        kind = "NOTSET" if auto is None else auto.as_string()
        if kind.startswith("SAME"):
            own = zip(sizes, kernel, strides, dilations, strict=True)
            padded = [_same(*numbers, is_upper=kind == "SAME_UPPER") for numbers in own]
        elif kind == "VALID":
            padded = [(0, 0)] * len(sizes)
        rows = zip(sizes, kernel, strides, dilations, padded, strict=True)
        return [_Axis(*row) for row in rows]

    def _numbers(self, name: str, default: Sequence[int]) -> list[int]:
        attribute = self._node.attributes.get(name)
        return list(default if attribute is None else attribute.as_ints())

    def nodes(self) -> list[ir.Node]:
        """The nodes that compute it."""
        assert self._shape is not None
        assert self._weights is not None
        source, weight, bias = [*self._node.inputs, None][:3]
        (count, channels), (outputs, _) = self._shape[:2], self._weights[:2]
        groups = self._node.attributes.get("group")
        num_groups = 1 if groups is None else groups.as_int()
        taps, places = math.prod(self._weights[2:]), [axis.num_places for axis in self._axes]
        inner = channels // num_groups * taps

        patches = self._patches(source)
        columns = self._reshaped(patches, (count, num_groups, inner, math.prod(places)), "columns")
        rows = self._reshaped(weight, (num_groups, outputs // num_groups, inner), "rows")
        found = self._reshaped(
            self._made_by("MatMul", [rows, columns], "product"), (count, outputs, *places), "whole"
        )
        if bias is not None:
            added = self._reshaped(bias, (outputs, *[1] * len(places)), "bias")
            self._made_by("Add", [found, added], "sum")
        return self._made

    def _patches(self, source: ir.Value | None) -> ir.Value | None:
        """What every tap reads at every place [N, C, taps ..., places ...]: zeros outside."""
        assert self._shape is not None
        for number, axis in enumerate(self._axes):
            if not axis.is_plain:
                source = self._read_along(source, number)
        if all(axis.is_plain for axis in self._axes):
            return source
        pairs = [size for axis in self._axes for size in (axis.kernel, axis.num_places)]
        apart = self._reshaped(source, (*self._shape[:2], *pairs), "apart")
        taps, places = range(2, 2 + len(pairs), 2), range(3, 3 + len(pairs), 2)
        order = ir.AttrInt64s("perm", [0, 1, *taps, *places])
        return self._made_by("Transpose", [apart], "patches", [order])

    def _read_along(self, source: ir.Value | None, number: int) -> ir.Value:
        """What every tap reads at every place of one axis, in place of that axis."""
        axis = self._axes[number]
        places = axis.sources()
        is_inside = (places >= 0) & (places < axis.size)
        indices = self._constant(np.where(is_inside, places, 0).reshape(-1), "indices")
        read = self._made_by("Gather", [source, indices], "read", [ir.AttrInt64("axis", 2 + number)])
        if is_inside.all():
            return read
        assert self._dtype is not None
        shape = -1, *[1] * (len(self._axes) - number - 1)
        chosen = self._constant(is_inside.reshape(shape), "inside")
        zero = self._constant(np.zeros(1, self._dtype.numpy()), "zero")
        return self._made_by("Where", [chosen, read, zero], "padded")

    def _reshaped(self, value: ir.Value | None, shape: Sequence[int], name: str) -> ir.Value:
        target = self._constant(np.array(shape, np.int64), f"{name}.shape")
        return self._made_by("Reshape", [value, target], name)

    def _constant(self, array: Any, name: str) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        found = self._made_by("Constant", [], name, [ir.AttrTensor("value", tensor)])
        found.dtype = tensor.dtype
        return found

    def _made_by(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str, own: Sequence[ir.Attr] = ()
    ) -> ir.Value:
        made = ir.Node("", op_type, inputs, own)
        made.outputs[0].name = self._unused(f"{self._node.outputs[0].name}.{name}")
        if self._dtype is not None and op_type != "Constant":
            made.outputs[0].dtype = self._dtype
        self._made.append(made)
        return made.outputs[0]

    def _unused(self, name: str) -> str:
        """A name that no value of the model has."""
        numbered = (f"{name}.{number}" for number in itertools.count())
        found = next(own for own in itertools.chain([name], numbered) if own not in self._taken)
        self._taken.add(found)
        return found


def _same(size: int, kernel: int, stride: int, dilation: int, *, is_upper: bool) -> tuple[int, int]:
    """Paddings that give every stride of an axis a place; an odd one is at the end, or in front."""
    reach = dilation * (kernel - 1) + 1
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    half = total // 2
    return (half, total - half) if is_upper else (total - half, half)
