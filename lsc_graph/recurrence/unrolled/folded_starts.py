"""First steps of which an exporter has computed beforehand what follows from a constant start, written out.

A state that starts from a learned constant is multiplied by the weights of the first step once and for all:
a constant stands there where the others compute from their state. Here the step computes it from the start
again, and adds what is missing to that constant: its value stays what the file has for any weights, and its
derivative is that of the other steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants, mark_offset
from lsc_graph.recurrence.unrolled.first_step import agree, earlier_reads
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.start_search import Folded, Start, StartSearch
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter, Names


@dataclass(frozen=True)
class _Place:
    """A node of the step before the first, and the input at which it reads a constant."""

    node: ir.Node
    position: int


def write_out_start(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    order: Order,
    constants: Constants,
    trial: Trial,
    *,
    is_zero: bool = False,
) -> bool:
    """Let the step before the first compute from its start what it reads as constants; whether it does now.

    Args:
        model: gets the new nodes; its steps have to be found anew.
        steps, reads, nodes: the recurrence, and the nodes of its step in order.
        order, constants: of the graph.
        trial: runs parts of the model.
        is_zero: whether it starts from zeros; else such a step, which can be put back otherwise, stays.
    """
    places = _places(steps, constants)
    between = _between(places, steps, reads, nodes, constants) if places else None
    if not places or between is None:
        return False
    folded = [Folded(value, constant) for value, (constant, _) in places.items()]
    search = StartSearch(model, steps, reads, between, folded, constants, trial)
    start = search.find(is_zero=is_zero)
    if start is None or not _is_first_step(model, steps, reads, nodes, folded, start, constants, trial):
        return False
    _Writing(model.graph, steps, reads, between, start).write(folded, places, order)
    return True


def _places(steps: Steps, constants: Constants) -> dict[ir.Value, tuple[ir.Value, list[_Place]]]:
    """The values of a step for which constants stand in the step before the first, and who reads these.

    Empty, if one does not fit.
    """
    found: dict[ir.Value, tuple[ir.Value, list[_Place]]] = {}
    for value, images in steps.begun.items():
        constant = images[0] if images and value in steps.values else None
        if constant is None or constant not in constants or value.producer() in steps.heads:
            continue
        if _is_computed_alike(constant, value):
            continue
        readers = _readers(value, constant, steps, constants)
        if not readers or not _fits(constant, value, constants):
            return {}
        found[value] = (constant, readers)
    return found


def _is_computed_alike(constant: ir.Value, value: ir.Value) -> bool:
    """Whether the file computes a constant as a step computes the value: there is nothing to write out."""
    one, two = constant.producer(), value.producer()
    return one is not None and two is not None and is_alike(one, two)


def _readers(value: ir.Value, constant: ir.Value, steps: Steps, constants: Constants) -> list[_Place]:
    found = []
    for use in value.uses():
        begun = [steps.begun.get(output, []) for output in use.node.outputs]
        makers = {images[0].producer() for images in begun if images and images[0] is not None} - {None}
        for node in makers if use.node in steps.nodes else ():
            if node is not None and is_alike(node, use.node):
                read = node.inputs[use.idx]
                if read is not None and constants.same(read, constant):
                    found.append(_Place(node, use.idx))
    return found


def _fits(constant: ir.Value, value: ir.Value, constants: Constants) -> bool:
    """Whether a constant has the type and the shape of a value, or is repeated along axes of it."""
    array, shape = constants.array(constant), static_shape(value)
    own = array.shape if array is not None else static_shape(constant)
    dtype = ir.DataType.from_numpy(array.dtype) if array is not None else constant.dtype
    if own is None or shape is None or dtype != value.dtype or not constants.is_weight(constant):
        return False
    try:
        return np.broadcast_shapes(own, shape) == shape
    except ValueError:
        return False


def _between(
    places: Mapping[ir.Value, object],
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    constants: Constants,
) -> list[ir.Node] | None:
    """The nodes of the step that lead from states to such values; None if they read what no state decides."""
    found, pending, seen = set[ir.Node](), [*places], set[ir.Value]()
    while pending:
        own = pending.pop()
        if own in seen or own in steps.states or reads.captures.get(own, own) in constants:
            continue
        seen.add(own)
        node = own.producer() if own in steps.values else None
        begun = steps.begun.get(own, [])
        is_computed = bool(begun) and begun[0] is not None and begun[0] not in constants
        if node is None or is_computed:
            return None
        found.add(node)
        pending += [value for value in node.inputs if value is not None]
    return [node for node in nodes if node in found]


def _is_first_step(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    folded: Sequence[Folded],
    start: Start,
    constants: Constants,
    trial: Trial,
) -> bool:
    """Whether the step with the constants in their places gives the states that the first one starts with."""
    writer = GraphWriter("lsc_graph.folded_start", None)
    earlier = earlier_reads(steps, reads, constants, writer, lifts=True)
    standing = {own.value: own.constant for own in folded}
    states = start.states(writer)
    is_so = earlier is not None and agree(model, steps, nodes, earlier, states, trial, standing=standing)
    writer.discard()
    return is_so


class _Writing:
    """Writes the first step's part, and an offset for every step."""

    def __init__(
        self, graph: ir.Graph, steps: Steps, reads: Reads, between: Sequence[ir.Node], start: Start
    ) -> None:
        self.graph, self.steps, self.between, self.start = graph, steps, between, start
        self.writer = GraphWriter(Names(graph).unique_prefix("start"), None)
        self.states = dict(reads.captures) | start.states(self.writer)

    def write(
        self,
        folded: Sequence[Folded],
        places: Mapping[ir.Value, tuple[ir.Value, list[_Place]]],
        order: Order,
    ) -> None:
        computed = self._first_step(folded)
        for own in folded:
            for place in places[own.value][1]:
                place.node.replace_input_with(place.position, computed[own.value])
            self._add_nothing(own.value)
        self.graph.extend(self.writer.nodes)
        self.graph.sort()

    def _first_step(self, folded: Sequence[Folded]) -> dict[ir.Value, ir.Value]:
        """What the first step computes from its start, by nodes like those of the others.

        What is missing is computed by nodes of its own, from the constants as they are.
        """
        known, apart = dict(self.states), dict(self.states)
        given = {own.value: own.constant for own in folded}
        for node in self.between:
            self.writer.repeat([node], known)
            self.writer.repeat([node], apart)
            for value in node.outputs:
                if value in given:
                    offset = self._op("Sub", [given[value], apart[value]], "offset", value)
                    mark_offset(offset, self.start.evidence)
                    known[value] = self._op("Add", [known[value], offset], str(value.name), value)
                    apart[value] = given[value]
        return known

    def _add_nothing(self, value: ir.Value) -> None:
        """The other steps add zeros to what they compute, so that they are like the first."""
        dtype, shape = value.dtype or ir.DataType.FLOAT, static_shape(value) or ()
        tensor = ir.tensor(np.zeros(shape, dtype=dtype.numpy()))
        zeros = self.writer.op("Constant", [], "nothing", shape, dtype, value=tensor)
        mark_offset(zeros, self.start.evidence)
        for image in self.steps.values[value]:
            uses = tuple(image.uses()) if image is not None else ()
            if image is not None and uses:
                added = self._op("Add", [image, zeros], str(image.name), value)
                for use in uses:
                    use.node.replace_input_with(use.idx, added)

    def _op(self, op_type: str, inputs: Sequence[ir.Value], name: str, like: ir.Value) -> ir.Value:
        return self.writer.op(op_type, inputs, name, like.shape, like.dtype)
