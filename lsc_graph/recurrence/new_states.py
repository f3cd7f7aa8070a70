"""What is computed from a new state in another shape is read from the new state itself.

Exporters hand a layer's output to the layer above and, reshaped or packed, to the state that the next step
takes over. Both are the same state at the same time; read from two values they would look like two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import RESHAPING, copied

_REPEATING = frozenset({"Expand", "Tile"})
_STANDARD = ("", "ai.onnx")
_Chain = list[tuple[ir.Node, ir.Value]]


def read_new_states(model: ir.Model, afters: Sequence[ir.Value], delays: Sequence[ir.Value] = ()) -> None:
    """Let whoever reads a value that a new state is a reshaped copy of read the new state, in place.

    Args:
        model: one step.
        afters: outputs of its graph that are new states.
        delays: those that only delay something: what they hand on of a value that is such a state, they read
            from the state.
    """
    chains = {after: _chain(after) for after in (*afters, *delays)}
    settled = {node for after in afters for node, _ in chains[after]}
    done = set(afters)
    for after, chain in chains.items():
        settled |= {node for node, _ in chain}
        done.add(after)
        _Reading(model.graph, after, settled, done).follow(chain)
    passes.TopologicalSortPass()(model)


def _chain(after: ir.Value) -> _Chain:
    """The nodes, last one first, that give a value another shape or order and keep all of its elements."""
    nodes: _Chain = []
    value = after
    while (node := value.producer()) is not None and _keeps_elements(node):
        source = node.inputs[0]
        assert source is not None
        nodes.append((node, source))
        value = source
    return nodes


def _keeps_elements(node: ir.Node) -> bool:
    if node.domain not in _STANDARD or not node.inputs or node.inputs[0] is None:
        return False
    if copied(node.outputs[0]) is not None:
        return True
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if node.op_type in _REPEATING:
        return before is not None and after is not None and math.prod(before) == math.prod(after)
    return node.op_type in RESHAPING | {"Transpose"} and before is not None


class _Reading:
    """The values along the chain of one new state, computed back from it where somebody reads them."""

    def __init__(self, graph: ir.Graph, after: ir.Value, settled: set[ir.Node], done: set[ir.Value]) -> None:
        self.graph, self.after, self.settled, self.done = graph, after, settled, done

    def follow(self, chain: _Chain) -> None:
        back = self.after
        for number, (node, source) in enumerate(chain):
            is_of_other = node.inputs[0] is not source or source in self.done
            if is_of_other or source in self.graph.inputs:
                return
            readers = [use for use in source.uses() if use.node not in self.settled]
            back = self._undone(node, back, f"{self.after.name}.back{number}")
            for use in readers:
                use.node.replace_input_with(use.idx, back)
            if source.is_graph_output() and source not in self.done:
                self._put_out(source, back)

    def _undone(self, node: ir.Node, value: ir.Value, name: str) -> ir.Value:
        """The input of a node, computed from its output."""
        source = node.inputs[0]
        assert source is not None
        if copied(node.outputs[0]) is not None:
            return value
        if node.op_type == "Transpose":
            rank = len(static_shape(source) or ())
            perm = list(node.attributes.get_ints("perm", [])) or list(reversed(range(rank)))
            undo = ir.node("Transpose", [value], {"perm": [int(i) for i in np.argsort(perm)]}, name=name)
        else:
            shape = ir.tensor(np.array(static_shape(source), dtype=np.int64), name=f"{name}.shape")
            dims = ir.val(f"{name}.shape", const_value=shape, shape=[len(shape.numpy())])
            self.graph.register_initializer(dims)
            undo = ir.node("Reshape", [value, dims], name=name)
        result = undo.outputs[0]
        result.name, result.type, result.shape = name, source.type, source.shape
        self.graph.append(undo)
        return result

    def _put_out(self, source: ir.Value, back: ir.Value) -> None:
        """An output of the step that is a new state in another shape."""
        name = str(source.name)
        copy = ir.node("Identity", [back], name=name)
        source.name = f"{name}.raw"
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = name, source.type, source.shape
        self.graph.append(copy)
        self.graph.outputs[self.graph.outputs.index(source)] = copy.outputs[0]
