"""What is computed from a flipped sequence, time by time: computed from the sequence itself instead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.layered.row_ways import ELEMENTWISE
from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.writer import GraphWriter, Names

_MAX_DEPTH = 100
Axes = list[int | None]
"""Along which axis of each operand one axis of a result runs; None for those that are the same along it."""


def flipped(value: ir.Value) -> tuple[ir.Value, int] | None:
    """What a value is the reverse of, and along which axis: by Slice, ReverseSequence, or Gather."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.shape is None or node.domain not in ("", "ai.onnx"):
        return None
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in source.shape)
    if node.op_type == "ReverseSequence":
        axis, lengths = node.attributes.get_int("time_axis", 0), array_of(node.inputs[1])
        return (source, axis) if lengths is not None and bool((lengths == shape[axis]).all()) else None
    if node.op_type == "Gather":
        return _gathered_backwards(node, source, shape)
    operands = [array_of(operand) for operand in node.inputs[1:]]
    if node.op_type != "Slice" or len(operands) < 4 or any(a is None or a.size != 1 for a in operands):
        return None
    start, end, axis, step = (int(a.reshape(-1)[0]) for a in operands if a is not None)
    axis %= len(shape)
    is_whole = range(shape[axis])[start:end:step] == range(shape[axis])[::-1]
    return (source, axis) if step == -1 and is_whole else None


def _gathered_backwards(
    node: ir.Node, source: ir.Value, shape: tuple[int, ...]
) -> tuple[ir.Value, int] | None:
    """As jax2onnx writes jnp.flip: every index, from the last to the first."""
    indices, axis = array_of(node.inputs[1]), node.attributes.get_int("axis", 0) % max(len(shape), 1)
    if indices is None or indices.ndim != 1 or len(indices) != shape[axis]:
        return None
    return (source, axis) if np.array_equal(indices % shape[axis], np.arange(shape[axis])[::-1]) else None


def unflipped(value: ir.Value, axis: int) -> ir.Value | None:
    """The value that this one is the reverse of along an axis, if a flip stands somewhere before it.

    What lies between works on every index of the axis alone, so it gives the same, reversed, without
    the flip. Copies of it are written where others read what was flipped.
    """
    search = _Search()
    if not search.leads_to_flips(value, axis, 0):
        return None
    if not search.between:
        return search.known[value]
    last = value.producer()
    assert last is not None
    assert isinstance(last.graph, ir.Graph)
    writer = GraphWriter(Names(last.graph).unique_prefix("unflipped"), value.dtype)
    for node, axes in search.between:
        _repeat(node, axes, search.known, writer)
    last.graph.insert_after(last, writer.nodes)
    return search.known[value]


def _repeat(node: ir.Node, axes: Axes, known: dict[ir.Value, ir.Value], writer: GraphWriter) -> None:
    """A copy that reads what `known` has for what runs along the axis.

    It reads the rest as it is, flipped values among it: each step of attention reads all of them.
    """
    made: dict[ir.Value, ir.Value] = {}
    writer.repeat([node], made)
    for index, (operand, own) in enumerate(zip(node.inputs, axes, strict=True)):
        if operand is not None and own is not None:
            writer.nodes[-1].replace_input_with(index, known[operand])
    known |= made


class _Search:
    """The way back from a value to flips: `known` has their sources, `between` the nodes behind them.

    With each node, the axes of its operands.
    """

    def __init__(self) -> None:
        self.known: dict[ir.Value, ir.Value] = {}
        self.between: list[tuple[ir.Node, Axes]] = []
        self._seen: dict[ir.Value, tuple[int, bool]] = {}

    def leads_to_flips(self, value: ir.Value, axis: int, depth: int) -> bool:
        """Whether everything that a value is computed from along an axis is flipped along it.

        Not if it is read along another axis, too: it would have to be written twice.
        """
        if value not in self._seen:
            self._seen[value] = axis, depth < _MAX_DEPTH and self._looked_up(value, axis, depth)
        return self._seen[value] == (axis, True)

    def _looked_up(self, value: ir.Value, axis: int, depth: int) -> bool:
        found, node = flipped(value), value.producer()
        if found is not None and found[1] == axis:
            self.known[value] = found[0]
            return True
        if node is None:
            return False
        axes = operand_axes(node, axis)
        if axes is None or all(own is None for own in axes):
            return False
        read = zip(node.inputs, axes, strict=True)
        if not all(
            operand is not None and self.leads_to_flips(operand, own, depth + 1)
            for operand, own in read
            if own is not None
        ):
            return False
        self.between.append((node, axes))
        return True


def operand_axes(node: ir.Node, axis: int) -> Axes | None:
    """The axes of a node's operands along which one axis of its output runs, index by index.

    None where an index of the output may be computed from another one of an operand, or nothing is known.
    """
    shape = static_shape(node.outputs[0])
    way = _WAYS.get(node.op_type)
    if way is None or shape is None or node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return None
    if any(value is not None and static_shape(value) is None for value in node.inputs):
        return None
    return way(node, axis, shape)


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    return static_shape(value) or ()


def _first_only(node: ir.Node, axis: int | None) -> Axes:
    return [axis, *([None] * (len(node.inputs) - 1))]


def _aligned(value: ir.Value | None, axis: int, rank: int) -> int | None:
    """The axis of an operand that is broadcast to a rank; None if it is the same along it."""
    own = axis - (rank - len(_shape(value)))
    return own if value is not None and own >= 0 and _shape(value)[own] > 1 else None


def _of_elementwise(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes:
    return [_aligned(value, axis, len(shape)) for value in node.inputs]


def _of_matmul(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    left, right = (len(_shape(value)) for value in node.inputs)
    rank = len(shape)
    if min(left, right) < 2 or axis == rank - 1:
        return None
    if axis == rank - 2:
        return [left - 2, None]
    return [_aligned(value, axis, rank) for value in node.inputs]


def _of_gemm(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    if axis != 0 or node.attributes.get_int("transA", 0) != 0:
        return None
    bias = [_aligned(value, axis, len(shape)) for value in node.inputs[2:]]
    return [0, None, *bias]


def _of_transpose(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes:
    return [list(node.attributes.get_ints("perm", list(range(len(shape)))[::-1]))[axis]]


def _of_reshape(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    """Also Squeeze, Unsqueeze and Flatten: the axis stands between as many elements as before."""
    before = _shape(node.inputs[0])
    lead, size = int(np.prod(shape[:axis], dtype=int)), shape[axis]
    for at, own in enumerate(before):
        if own == size and int(np.prod(before[:at], dtype=int)) == lead and size > 1:
            return _first_only(node, at)
    return None


def _of_normalization(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    first = node.attributes.get_int("axis", -1) % len(shape)
    return _first_only(node, axis) if axis < first else None


def _of_einsum(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    """By the letter of the axis; None where ellipses or an implicit result leave it open."""
    operands, arrow, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    terms = operands.split(",")
    if not arrow or "." in operands or any(len(set(term)) < len(term) for term in (*terms, result)):
        return None
    return [term.index(result[axis]) if result[axis] in term else None for term in terms]


def _of_batch_normalization(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    return _first_only(node, axis) if axis != 1 and not node.attributes.get_int("training_mode", 0) else None


def _of_softmax(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    return _first_only(node, axis) if axis != node.attributes.get_int("axis", -1) % len(shape) else None


def _of_concat(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    joined = node.attributes.get_int("axis", 0) % len(shape)
    return [axis] * len(node.inputs) if axis != joined else None


def _of_slice(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    axes = array_of(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None or axis in (axes.reshape(-1) % len(shape)).tolist():
        return None
    return _first_only(node, axis)


def _of_gather(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    """Rows of a table by their numbers, or the same rows at every index."""
    table, indices = (_shape(value) for value in node.inputs)
    first = node.attributes.get_int("axis", 0) % max(len(table), 1)
    if first <= axis < first + len(indices):
        return [None, axis - first]
    return [axis if axis < first else axis - len(indices) + 1, None]


def _of_reduction(node: ir.Node, axis: int, shape: tuple[int, ...]) -> Axes | None:
    rank = len(_shape(node.inputs[0]))
    given = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None and "axes" in node.attributes:
        given = np.array(node.attributes.get_ints("axes", []))
    if given is None:
        return None
    reduced = {int(own) % rank for own in given.reshape(-1)}
    kept = [own for own in range(rank) if own not in reduced]
    if node.attributes.get_int("keepdims", 1):
        return _first_only(node, axis) if axis in kept else None
    return _first_only(node, kept[axis])


_WAYS: dict[str, Callable[[ir.Node, int, tuple[int, ...]], Axes | None]] = {
    **dict.fromkeys(ELEMENTWISE, _of_elementwise),
    **dict.fromkeys(("Cast", "Erf", "Gelu", "HardSigmoid", "Identity", "LeakyRelu", "Sign"), _of_elementwise),
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _of_elementwise),
    **dict.fromkeys(("Ceil", "Floor", "Mod", "Not", "Or", "Round", "Xor"), _of_elementwise),
    "Einsum": _of_einsum,
    "BatchNormalization": _of_batch_normalization,
    "MatMul": _of_matmul,
    "Gemm": _of_gemm,
    "Transpose": _of_transpose,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _of_reshape),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _of_normalization),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _of_softmax),
    "Concat": _of_concat,
    "Slice": _of_slice,
    "Gather": _of_gather,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _of_reduction),
}
