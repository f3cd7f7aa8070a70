"""Convolutions as products of matrices, for which ONNX Runtime has kernels in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.canonical.shapes import static_shape

# Patches of a convolution hold every element about as often as its kernel has elements: beyond this it stays.
_MAX_PATCHES = 2**24
_DEFAULT = ("", "ai.onnx")


def write_out_convolutions(model: ir.Model) -> None:
    """Replace every Conv of known sizes by patches times weights, in place; what is too large stays.

    Args:
        model: with the shapes of its values.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Conv" and node.domain in _DEFAULT and node.graph is not None:
            found = _Product(node)
            nodes = found.nodes() if found.is_known else []
            if nodes:
                node.graph.insert_before(node, nodes)
                put_in_place(node.outputs[0], nodes[-1].outputs[0])
                node.graph.remove(node, safe=True)


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

    def sources(self) -> Any:
        """Which element [kernel, places] each tap reads at each place; outside of the axis, none is there."""
        taps = self.dilation * np.arange(self.kernel)[:, None]
        return taps + self.stride * np.arange(self.num_places) - self.padded[0]


class _Product:
    """A convolution as a gather of patches [N, G, Q, places] and a product with the weights [G, M / G, Q]."""

    def __init__(self, node: ir.Node) -> None:
        self._node = node
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

        flat = self._reshaped(source, (count, channels, math.prod(self._shape[2:])), "flat")
        patches = self._patches(flat)
        columns = self._reshaped(patches, (count, num_groups, inner, math.prod(places)), "columns")
        rows = self._reshaped(weight, (num_groups, outputs // num_groups, inner), "rows")
        found = self._reshaped(
            self._made_by("MatMul", [rows, columns], "product"), (count, outputs, *places), "whole"
        )
        if bias is not None:
            found = self._made_by(
                "Add", [found, self._reshaped(bias, (outputs, *[1] * len(places)), "bias")], "sum"
            )
        return self._made

    def _patches(self, flat: ir.Value) -> ir.Value:
        """What every tap reads at every place [N, C, taps x places]: zeros outside."""
        indices: Any = np.zeros((1, 1), np.int64)
        is_inside: Any = np.ones((1, 1), dtype=bool)
        for axis in self._axes:
            own = axis.sources()
            inside = (own >= 0) & (own < axis.size)
            shape = indices.shape[0] * own.shape[0], indices.shape[1] * own.shape[1]
            clipped = np.where(inside, own, 0)
            indices = (indices[:, None, :, None] * axis.size + clipped[None, :, None, :]).reshape(shape)
            is_inside = (is_inside[:, None, :, None] & inside[None, :, None, :]).reshape(shape)
        numbers = self._constant(indices.reshape(-1), "indices")
        patches = self._made_by("Gather", [flat, numbers], "patches", [ir.AttrInt64("axis", 2)])
        if is_inside.all():
            return patches
        assert self._dtype is not None
        chosen = self._constant(is_inside.reshape(-1), "inside")
        zero = self._constant(np.zeros(1, self._dtype.numpy()), "zero")
        return self._made_by("Where", [chosen, patches, zero], "padded")

    def _reshaped(self, value: ir.Value | None, shape: Sequence[int], name: str) -> ir.Value:
        target = self._constant(np.array(shape, np.int64), f"{name}.shape")
        return self._made_by("Reshape", [value, target], name)

    def _constant(self, array: Any, name: str) -> ir.Value:
        tensor = ir.tensor(array, name=f"{self._node.outputs[0].name}.{name}")
        found = self._made_by("Constant", [], name, [ir.AttrTensor("value", tensor)])
        found.dtype = tensor.dtype
        return found

    def _made_by(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str, own: Sequence[ir.Attr] = ()
    ) -> ir.Value:
        made = ir.Node("", op_type, inputs, own, name=f"{self._node.name}/{name}")
        made.outputs[0].name = f"{self._node.outputs[0].name}.{name}"
        if self._dtype is not None and op_type != "Constant":
            made.outputs[0].dtype = self._dtype
        self._made.append(made)
        return made.outputs[0]


def _same(size: int, kernel: int, stride: int, dilation: int, *, is_upper: bool) -> tuple[int, int]:
    """Paddings that give every stride of an axis a place; an odd one is at the end, or in front."""
    reach = dilation * (kernel - 1) + 1
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    half = total // 2
    return (half, total - half) if is_upper else (total - half, half)
