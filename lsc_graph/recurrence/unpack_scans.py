"""Scans that carry several state variables in one tensor, rewritten with one loop-carried value for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.packed import Piece, unpack
from lsc_graph.recurrence.viewed import View
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output


@dataclass(frozen=True)
class UnpackedScan:
    """A Scan that took another one's place, and how many states each one of that has become."""

    scan: ir.Node
    counts: tuple[int, ...]

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of the states, numbered where they are pieces."""
        return tuple(
            f"{name}.{number}" if count > 1 else name
            for name, count in zip(names, self.counts, strict=True)
            for number in range(count)
        )

    def watched(self, names: Sequence[tuple[str | None, ...]]) -> tuple[tuple[str | None, ...], ...]:
        """What the states are called at each step; pieces have no names."""
        return tuple(
            () if count > 1 else own
            for own, count in zip(names, self.counts, strict=False)
            for _ in range(count)
        )


def unpack_scans(model: ir.Model) -> dict[ir.Node, UnpackedScan]:
    """Rewrite the Scans of the main graph whose states are packed, in place; new ones by old ones."""
    names = Names(model.graph)
    found = {}
    for node in list(model.graph):
        if node.op_type == "Scan" and node.domain in ("", "ai.onnx"):
            unpacked = _unpacked(node, names)
            if unpacked is not None:
                found[node] = unpacked
    return found


def _unpacked(node: ir.Node, names: Names) -> UnpackedScan | None:
    body = node.attributes["body"].as_graph()
    num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    states = list(zip(body.inputs[:num_states], body.outputs[:num_states], strict=True))
    for (before, _), initial in zip(states, node.inputs, strict=False):
        if before.shape is None and initial is not None:
            before.shape = initial.shape
    pieces = [unpack(body, before, after) for before, after in states]
    counts = tuple(len(own) for own in pieces)
    if not any(piece.place for own in pieces for piece in own):
        return None
    written = {str(value.name): value for inner in body for value in inner.outputs}
    body.outputs[:num_states] = [
        written[piece.after] if piece.place else after
        for own, (_, after) in zip(pieces, states, strict=True)
        for piece in own
    ]
    writer = GraphWriter(names.unique_prefix(f"{node.name or 'scan'}.unpacked"), None)
    return UnpackedScan(_Rewriting(node, pieces, writer).scan, counts)


class _Rewriting:
    """The main graph around one Scan: first states are cut in pieces, last ones joined again."""

    def __init__(self, node: ir.Node, pieces: Sequence[tuple[Piece, ...]], writer: GraphWriter) -> None:
        self.writer = writer
        graph, num_states = node.graph, len(pieces)
        assert graph is not None
        initial = [
            self._cut(value, piece) for own, value in zip(pieces, node.inputs, strict=False) for piece in own
        ]
        finals = [
            writer.value(f"final_{number}", value.shape, value.dtype) for number, value in enumerate(initial)
        ]
        self.scan = writer.append(
            "Scan", [*initial, *node.inputs[num_states:]], [*finals, *self._outputs(node, num_states)]
        )
        self.scan.attributes.update(node.attributes)
        self.scan.name = node.name
        self.scan.metadata_props.update(node.metadata_props)
        remaining = iter(finals)
        joined = [self._joined([(piece, next(remaining)) for piece in own]) for own in pieces]
        graph.insert_before(node, writer.nodes)
        for old, new in zip(node.outputs, [*joined, *self.scan.outputs[len(finals) :]], strict=True):
            if old.name:
                replace_output(old, new)
        graph.remove(node, safe=True)

    def _cut(self, value: ir.Value | None, piece: Piece) -> ir.Value:
        assert value is not None
        for own in piece.place:
            if isinstance(own, View):
                value = self._seen(value, own, f"{piece.before}.first")
                continue
            axis, start, end = own
            shape = list(static_shape(value) or ())
            shape[axis] = end - start
            bounds = [self.writer.integers([bound]) for bound in (start, end, axis)]
            value = self.writer.op("Slice", [value, *bounds], f"{piece.before}.first", shape, value.dtype)
        return value

    def _seen(self, value: ir.Value, view: View, name: str) -> ir.Value:
        if view.perm:
            return self.writer.op(
                "Transpose", [value], name, list(view.after), value.dtype, perm=list(view.perm)
            )
        shape = self.writer.integers(list(view.after))
        return self.writer.op("Reshape", [value, shape], name, list(view.after), value.dtype)

    def _outputs(self, node: ir.Node, num_states: int) -> list[ir.Value]:
        """New values for the scan outputs, alike."""
        return [
            self.writer.value(f"sequence_{number}", old.shape, old.dtype)
            for number, old in enumerate(node.outputs[num_states:])
        ]

    def _joined(self, pieces: Sequence[tuple[Piece, ir.Value]]) -> ir.Value:
        """The packed state of values in the order of their places."""
        if not pieces[0][0].place:
            return pieces[0][1]
        groups = groupby(pieces, key=lambda pair: pair[0].place[0])
        parts = []
        for _, group in groups:
            inner = [(replace(piece, place=piece.place[1:]), value) for piece, value in group]
            parts.append(self._joined(inner))
        first = pieces[0][0].place[0]
        if isinstance(first, View):
            return self._seen(parts[0], first.undone, "joined")
        return self.writer.op("Concat", parts, "joined", None, parts[0].dtype, axis=first[0])
