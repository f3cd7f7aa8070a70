"""Feed-forward models: the chain of dominators of the dataflow gives the blocks of depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer, size
from lsc_graph.layers.gradient_flow import FromInputs, GradientFlow
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.site import StateVariable
from lsc_graph.wording import few


@dataclass(frozen=True)
class Chain:
    """Values that every gradient from some inputs to one output passes, one after each block with weights.

    Args:
        boundaries: names of these values, in order.
        cells: a layer for each.
        inputs: the inputs that these gradients lead to; what is computed from others alone is held.
        output: where they lead.
        sides: for each block, and at last for what computes all outputs, the values that it reads past the
            boundary before it; the first block reads inputs.
    """

    boundaries: tuple[str, ...]
    cells: CellGraph
    inputs: tuple[str, ...]
    output: str | None
    sides: tuple[tuple[str, ...], ...]


def find_chain(model: ir.Model, *, may_have_states: bool = False) -> Chain:
    """The blocks of a normalised feed-forward model; each holds one stretch of weights, and T = 1.

    A block is cut off where the next dominating value is computed with weights (floating-point matrices
    or kernels), so that a linear operator and the nonlinearity behind it form one layer. Padding belongs to
    the block that it prepares. Of several outputs the first with the most blocks before it is followed, and
    of several inputs all, unless there are more blocks behind a single one of them. Whatever is chosen, the
    derivatives between the boundaries are those of the model, with all else held. Where an input may be a
    state nothing is chosen: the blocks are those on all ways from all inputs to all outputs.
    """
    flow = GradientFlow(model.graph)
    inputs = tuple(str(value.name) for value in model.graph.inputs)
    best = FromInputs(flow, inputs)
    output, boundaries = _deepest(best)
    if may_have_states:
        every = [_boundaries(best, name) for name in flow.outputs]
        boundaries = [name for name in boundaries if all(name in own for own in every)]
    for name in inputs if len(inputs) > 1 and not may_have_states else ():
        ways = FromInputs(flow, (name,))
        end, found = _deepest(ways)
        if len(found) > len(boundaries):
            best, output, boundaries = ways, end, found
    layers = tuple(_layer(index, flow.values[name]) for index, name in enumerate(boundaries))
    edges = tuple(DepthEdge(a.id, b.id) for a, b in pairwise(layers))
    sides = tuple(_sides(best, boundaries)) if boundaries else ()
    reached = flow.stops_before(boundaries[0], inputs) if boundaries else set()
    sources = tuple(name for name in best.sources if name in reached)
    return Chain(tuple(boundaries), CellGraph(layers, edges, 1), sources, output, sides)


def _deepest(ways: FromInputs) -> tuple[str | None, list[str]]:
    """The output with the most blocks before it, and their boundaries."""
    found = [(name, _boundaries(ways, name)) for name in ways.flow.outputs]
    return max(found, key=lambda own: len(own[1]), default=(None, []))


def why_no_chain(model: ir.Model) -> Iterator[str]:
    """Why no value with weights before it is on all ways to any output, where that is so."""
    flow = GradientFlow(model.graph)
    weighted = [name for name in flow.values if flow.depends_on_input(name) and flow.reads_weights(name)]
    if not weighted:
        yield "no floating-point matrix or kernel of the file is read on the way from inputs to outputs"
        return
    shapes = {name: static_shape(flow.values[name]) for name in weighted}
    unshaped = [name for name, shape in shapes.items() if shape is None]
    empty = [name for name, shape in shapes.items() if shape is not None and size(shape) == 0]
    held = [name for name in weighted if name not in flow.carrying]
    rest = [name for name in weighted if name not in {*unshaped, *empty, *held}]
    for words, names in (
        ("weights enter a value whose size is not known", unshaped),
        ("weights enter a value without any element", empty),
        ("weights are read by integers alone", held),
        ("weights enter on no way to an output that gradients take", rest),
    ):
        if names:
            yield f"{words}: {few(names)}"


def _boundaries(ways: FromInputs, output: str) -> list[str]:
    flow = ways.flow
    found: list[str] = []
    is_open = has_weights = False
    for name in ways.dominators_of(output):
        has_weights |= ways.has_weights(name)
        value = flow.values.get(name)
        shape = static_shape(value) if value is not None else None
        if value is None or name not in flow.carrying or shape is None or size(shape) == 0:
            continue
        if has_weights:
            found.append(name)
            is_open, has_weights = True, False
        elif is_open and not _is_padded(value, flow):
            found[-1] = name
        else:
            is_open = False
    return found


def _is_padded(value: ir.Value, flow: GradientFlow) -> bool:
    """Whether a value is another one between constants."""
    node = value.producer()
    if node is None or node.op_type not in ("Pad", "Concat"):
        return False
    return node.op_type == "Pad" or sum(flow.depends_on_input(str(own.name)) for own in inputs_of(node)) == 1


def _sides(ways: FromInputs, boundaries: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What each block reads past the boundary before it, in the order of the graph."""
    flow = ways.flow
    order = {name: number for number, name in enumerate((*sorted(flow.inputs), *flow.values))}
    yield ()
    for before, after in pairwise(boundaries):
        yield tuple(sorted(_Block(ways, before).held(after), key=order.__getitem__))
    known = {*flow.inputs, *boundaries[:-1]}
    ends = [name for name in flow.outputs if name != boundaries[-1] and flow.depends_on_input(name)]
    yield tuple(sorted(_read_of(flow, known, ends, boundaries[-1]), key=order.__getitem__))


def _read_of(flow: GradientFlow, known: set[str], ends: Sequence[str], start: str) -> set[str]:
    """The known values that `ends` are computed from, without `start` and what comes before these."""
    seen, pending = {start, *ends}, list(ends)
    while pending:
        name = pending.pop()
        for source in () if name in known else flow.sources(name):
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return seen & known


class _Block:
    """What is computed from the boundary before a block alone, and what else the block reads."""

    def __init__(self, ways: FromInputs, start: str) -> None:
        self._ways, self._flow, self._inside = ways, ways.flow, {start}

    def held(self, end: str) -> set[str]:
        """The values nearest to `end` that are held: no gradient comes to them through the boundary."""
        found, seen, pending = set[str](), {end, *self._inside}, [end]
        while pending:
            name = pending.pop()
            before = set(self._flow.before(name))
            for source in self._flow.sources(name) - seen:
                # All that is differentiated by the sources of the chain comes from the boundary.
                if (source in before and self._ways.reach(source)) or self._is_inside(source):
                    seen.add(source)
                    pending.append(source)
                else:
                    found.add(source)
        return found

    def _is_inside(self, name: str) -> bool:
        """Whether no input reaches a value but through the boundary."""
        seen, pending = {name}, [name]
        while pending:
            current = pending.pop()
            if current in self._flow.inputs:
                return False
            for source in self._flow.sources(current) - self._inside - seen:
                seen.add(source)
                pending.append(source)
        self._inside |= seen
        return True


def _layer(index: int, value: ir.Value) -> Layer:
    shape = static_shape(value) or ()
    name = str(value.name)
    state = StateVariable(name=name, shape=shape, before=name, after=name, initial=None, final=None)
    return Layer(f"layer_{index}", name, None, (state,), size(shape), 0)
