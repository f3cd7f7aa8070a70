"""Whether a sequence runs against the time of the inputs that it is computed from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import ancestors
from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.unflipped import flipped, operand_axes

_MOST_NODES = 20_000
Source = tuple[ir.Value, int, bool]
"""What a value is computed from, the axis there, and whether it is turned around on the way."""


def runs_backwards(value: ir.Value, axis: int) -> bool | None:
    """Whether a value runs along an axis against all inputs and loops that it is computed from.

    What mixes times, such as convolutions and running sums, keeps their order. None where nothing is known,
    or where one runs with it and one against it.
    """
    found, seen = set[bool](), set[Source]()
    pending: list[Source] = [(value, axis, False)]
    while pending:
        place = pending.pop()
        if place in seen:
            continue
        seen.add(place)
        own, at, is_turned = place
        if own.producer() is None:
            found |= {is_turned} if own.is_graph_input() else set()
            continue
        sources = _sources(own, at)
        if sources is None and is_constant(own):
            continue
        if sources is None or len(seen) > _MOST_NODES:
            return None
        pending += [(source, there, is_turned != turns) for source, there, turns in sources]
    return found.pop() if len(found) == 1 else None


def is_constant(value: ir.Value) -> bool:
    """Whether a value is computed from no input: then its order is no order of time."""
    return all(own.producer() is not None or own.is_initializer() for own in ancestors(value))


def _sources(value: ir.Value, axis: int) -> list[Source] | None:
    """What runs along the axis among the operands; None if the node may do anything with it."""
    node, flip = value.producer(), flipped(value)
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if flip is not None and flip[1] == axis:
        return [(*flip, True)]
    if node.op_type in ("Constant", "ConstantOfShape", "Shape"):
        return []
    if node.op_type == "Scan":
        return _of_scan(node, value, axis)
    if node.op_type == "Gather" and (chosen := _of_gather(node, axis)) is not None:
        return chosen
    axes = operand_axes(node, axis)
    if axes is not None:
        read = zip(node.inputs, axes, strict=True)
        return [(operand, own, False) for operand, own in read if operand is not None and own is not None]
    way = _IN_ORDER.get(node.op_type)
    return way(node, axis) if way is not None else None


def _of_scan(node: ir.Node, value: ir.Value, axis: int) -> list[Source] | None:
    """A sequence that a loop writes runs as those that it reads."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    index = (value.index() or 0) - (len(node.inputs) - count)
    sequences = [own for own in node.inputs[len(node.inputs) - count :] if own is not None]
    if index < 0 or len(sequences) < count or axis != _entry(node, "scan_output_axes", index):
        return None
    is_written_back = _entry(node, "scan_output_directions", index)
    return [
        (
            own,
            _entry(node, "scan_input_axes", i) % max(1, _rank(own)),
            _entry(node, "scan_input_directions", i) != is_written_back,
        )
        for i, own in enumerate(sequences)
        if own.dtype is not None and own.dtype.is_floating_point()
    ]


def _entry(node: ir.Node, name: str, index: int) -> int:
    entries = node.attributes.get_ints(name, [])
    return entries[index] if index < len(entries) else 0


def _first(node: ir.Node, axis: int) -> list[Source] | None:
    value = node.inputs[0]
    return [(value, axis, False)] if value is not None else None


def _of_window(node: ir.Node, axis: int) -> list[Source] | None:
    """Convolutions and pools: batch and places keep their order, channels do not."""
    return _first(node, axis) if axis != 1 else None


def _of_concat(node: ir.Node, axis: int) -> list[Source] | None:
    return [(value, axis, False) for value in node.inputs if value is not None]


def _of_slice(node: ir.Node, axis: int) -> list[Source] | None:
    """Also some of the times, in their order or in the reverse of it."""
    rank = _rank(node.outputs[0])
    axes, steps = (array_of(node.inputs[i]) if len(node.inputs) > i else None for i in (3, 4))
    value = node.inputs[0]
    if value is None or axes is None or (rank == 0 and (axes < 0).any()):
        return None
    strides = [1] * axes.size if steps is None else steps.reshape(-1).tolist()
    stride = dict(zip(np.where(axes < 0, axes + rank, axes).reshape(-1).tolist(), strides, strict=True)).get(
        axis, 1
    )
    return [(value, axis, stride < 0)]


def _of_gather(node: ir.Node, axis: int) -> list[Source] | None:
    value, indices = node.inputs[0], array_of(node.inputs[1])
    if value is None or indices is None or indices.ndim != 1 or axis != node.attributes.get_int("axis", 0):
        return None
    if (indices < 0).any() and not (indices < 0).all():
        length = value.shape[axis] if value.shape is not None and axis < _rank(value) else None
        if not isinstance(length, int):
            return None
        indices = indices % length
    ways = set(np.sign(np.diff(indices)).tolist())
    return [(value, axis, ways == {-1})] if ways in ({1}, {-1}) else None


def _rank(value: ir.Value) -> int:
    """The number of axes, also where their sizes are open; 0 where nothing is known."""
    return len(value.shape) if value.shape is not None else 0


_IN_ORDER: dict[str, Callable[[ir.Node, int], list[Source] | None]] = {
    **dict.fromkeys(("CumSum", "LogSoftmax", "Pad", "Softmax"), _first),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), _first),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _first),
    **dict.fromkeys(("AveragePool", "Conv", "LpPool", "MaxPool"), _of_window),
    "Concat": _of_concat,
    "Slice": _of_slice,
}
