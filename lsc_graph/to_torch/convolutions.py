"""Convolutions as products of matrices, for which ONNX Runtime has kernels in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import replace_node
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.writer import GraphWriter, Names

# Patches of a convolution hold every element about as often as its kernel has elements: beyond this it stays.
_MAX_PATCHES = 2**21
_DEFAULT = ("", "ai.onnx")


def write_out_convolutions(model: ir.Model) -> None:
    """Replace every Conv of known sizes by patches times weights, in place; what is too large stays.

    Where there is padding, what takes its place needs operator set 9.

    Args:
        model: with the shapes of its values.
    """
    names = Names(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Conv" and node.domain in _DEFAULT:
            found = _Product(node)
            if found.is_known:
                replace_node(node, found.nodes(names.unique_prefix(f"{node.outputs[0].name}.product")))


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
    """

    def __init__(self, node: ir.Node) -> None:
        self._node, source = node, node.inputs[0]
        self._dtype = source.dtype if source is not None else None
        shapes = [static_shape(value) for value in node.inputs[:2]]
        self._shape, self._weights = (shape or () for shape in shapes)
        self._axes = self._spatial_axes() if None not in shapes else []

    @property
    def is_known(self) -> bool:
        """Whether sizes are known, and something is left to compute that is not too large."""
        places = [axis.num_places for axis in self._axes]
        num_patches = math.prod((*self._shape[:2], *self._weights[2:], *places))
        is_there = self._dtype is not None and min(places, default=0) > 0
        return is_there and 0 < num_patches <= _MAX_PATCHES

    def _spatial_axes(self) -> list[_Axis]:
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

    def nodes(self, prefix: str) -> list[ir.Node]:
        """The nodes that compute it, with names of this prefix."""
        writer = GraphWriter(prefix, self._dtype)
        source, weight, bias = [*self._node.inputs, None][:3]
        (count, channels), (outputs, _) = self._shape[:2], self._weights[:2]
        groups = self._node.attributes.get("group")
        num_groups = 1 if groups is None else groups.as_int()
        taps, places = math.prod(self._weights[2:]), [axis.num_places for axis in self._axes]
        inner = channels // num_groups * taps

        def reshaped(value: ir.Value | None, shape: Sequence[int], name: str) -> ir.Value:
            return writer.op("Reshape", [value, writer.integers(shape)], name)

        patches = self._patches(writer, source)
        columns = reshaped(patches, (count, num_groups, inner, math.prod(places)), "columns")
        rows = reshaped(weight, (num_groups, outputs // num_groups, inner), "rows")
        whole = reshaped(writer.op("MatMul", [rows, columns], "groups"), (count, outputs, *places), "whole")
        if bias is not None:
            added = reshaped(bias, (outputs, *[1] * len(places)), "bias")
            writer.op("Add", [whole, added], "sum")
        return writer.nodes

    def _patches(self, writer: GraphWriter, source: ir.Value | None) -> ir.Value | None:
        """What every tap reads at every place [N, C, taps ..., places ...]: zeros outside."""
        for number, axis in enumerate(self._axes):
            if not axis.is_plain:
                source = self._read_along(writer, source, number)
        if all(axis.is_plain for axis in self._axes):
            return source
        pairs = [size for axis in self._axes for size in (axis.kernel, axis.num_places)]
        apart = writer.op("Reshape", [source, writer.integers((*self._shape[:2], *pairs))], "apart")
        taps, places = range(2, 2 + len(pairs), 2), range(3, 3 + len(pairs), 2)
        return writer.op("Transpose", [apart], "patches", perm=[0, 1, *taps, *places])

    def _read_along(self, writer: GraphWriter, source: ir.Value | None, number: int) -> ir.Value:
        """What every tap reads at every place of one axis, in place of that axis."""
        axis = self._axes[number]
        places = axis.sources()
        is_inside = (places >= 0) & (places < axis.size)
        indices = writer.integers(np.where(is_inside, places, 0).reshape(-1).tolist())
        read = writer.op("Gather", [source, indices], "read", axis=2 + number)
        if is_inside.all():
            return read
        shape = -1, *[1] * (len(self._axes) - number - 1)
        chosen = writer.constant(is_inside.reshape(shape), "inside")
        return writer.op("Where", [chosen, read, writer.number(0.0)], "padded")


def _same(size: int, kernel: int, stride: int, dilation: int, *, is_upper: bool) -> tuple[int, int]:
    """Paddings that give every stride of an axis a place; an odd one is at the end, or in front."""
    reach = dilation * (kernel - 1) + 1
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    half = total // 2
    return (half, total - half) if is_upper else (total - half, half)
