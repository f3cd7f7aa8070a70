"""Nodes that go on behind the last step as a next one would: they are no step's, and tell nothing of it."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.lanes import Lane, Walk, is_alike


class Behind:
    """What is read by nodes alone that go on as a step would.

    The last step may lack what nobody reads, and so may not be one of the steps: what it took over is read
    by its nodes, as the steps before read it, and is handed on to nobody else.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk

    def is_last(self, lane: Lane) -> bool:
        """Whether the last node of a lane is read so."""
        node = lane.images[max(lane.images)]
        uses = [(use.node, use.idx) for value in node.outputs for use in value.uses()]
        is_put_out = any(value.is_graph_output() for value in node.outputs)
        return bool(uses) and not is_put_out and all(self._goes_on(lane, other, idx) for other, idx in uses)

    def _goes_on(self, lane: Lane, node: ir.Node, index: int) -> bool:
        """Whether a node that is no step's reads a lane at an input where those of steps read it."""
        own = [reader for reader, position in self._readers[id(lane)] if position == index]
        return node not in self.walk.where and any(self._is_like(node, reader) for reader in own)

    def _is_like(self, node: ir.Node, lane: Lane) -> bool:
        own, known = self.walk.pattern(lane), self.walk.constants
        return is_alike(node, own) and all(
            one is other if one is None or other is None else known.same(one, other)
            for one, other in zip(node.inputs, own.inputs, strict=True)
            if one is None or other is None or one in known or other in known
        )

    @cached_property
    def _readers(self) -> defaultdict[int, list[tuple[Lane, int]]]:
        """The lanes that read a lane, and at which input, by its id."""
        found: defaultdict[int, list[tuple[Lane, int]]] = defaultdict(list)
        for lane in self.walk.lanes:
            for position, read in lane.reads.items():
                found[id(read.lane)].append((lane, position))
        return found
