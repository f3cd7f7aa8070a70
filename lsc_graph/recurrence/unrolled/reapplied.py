"""States that a weight makes of a value which is read elsewhere too: that value is the state.

An exporter merges equal products. Where one weight is applied to the new state twice, for the next step
and for what this one gives, the product is what is taken over. A step that hands on the value itself says
the same, and what it gives follows from its new state alone. A person may choose the product instead.

Where nothing else reads the value, the product may be an output that is fed back: then it is the state, and
a person may choose the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.chosen import NO_STATE
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.phase import Choice, OpenChoice
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.steps import Steps

Path = tuple[ir.Node, ...]


def reapplied(
    steps: Steps, reads: Reads, constants: Constants, ancestors: Mapping[ir.Value, Mapping[ir.Value, Path]]
) -> Iterator[tuple[ir.Value, ir.Value, Path]]:
    """States, each with the value that it is made of and the nodes that lead there.

    Args:
        steps, reads, constants: of the recurrence.
        ancestors: per state, the values of the step that it is an affine function of, the nearest first.
    """
    for key, base, path in _products(steps, reads, constants, ancestors):
        after = steps.after[key]
        is_read = any(node in steps.nodes for node, _ in after.uses())
        if is_read and not is_chosen(steps, after) and _is_read_beside(base, path, steps):
            yield key, base, path


def fed_back(
    steps: Steps, reads: Reads, constants: Constants, ancestors: Mapping[ir.Value, Mapping[ir.Value, Path]]
) -> Iterator[tuple[ir.Value, ir.Value, Path]]:
    """States that others than the steps read, and that a weight makes of values as large which nobody else
    reads: with these values and the nodes between. Arguments as above.
    """
    seen = set[ir.Value]()
    for key, base, path in _products(steps, reads, constants, ancestors):
        after = steps.after[key]
        is_alone = static_shape(base) == static_shape(after) and not _is_read_beside(base, path, steps)
        if key not in seen and is_alone and _is_read_outside(after, steps) and not is_chosen(steps, after):
            yield key, base, path
        seen.add(key)


def _products(
    steps: Steps, reads: Reads, constants: Constants, ancestors: Mapping[ir.Value, Mapping[ir.Value, Path]]
) -> Iterator[tuple[ir.Value, ir.Value, Path]]:
    """States that a weight makes of a value, the nearest one that it is applied to."""
    for key, after in steps.after.items():
        for base, path in ancestors[key].items() if after in steps.values else ():
            is_weighted = any(_is_by_weight(node, reads, constants) for node in path)
            if is_weighted and base not in steps.after.values():
                yield key, base, path


def as_open(steps: Steps, source: str, after: ir.Value) -> OpenChoice:
    """The other reading: that what is made of `source` is handed on."""
    before = steps.values[after][steps.position - 1]
    assert before is not None
    return OpenChoice((str(after.name),), Choice(str(before.name), str(after.name)), source)


def as_fed_back(steps: Steps, base: ir.Value, after: ir.Value) -> OpenChoice:
    """The other reading: that what the product is made of is handed on."""
    before = steps.values[after][steps.position - 1]
    assert before is not None
    return OpenChoice((str(after.name),), Choice(str(before.name), NO_STATE), str(base.name))


def is_chosen(steps: Steps, value: ir.Value) -> bool:
    """Whether a person says that a value is handed on."""
    chosen = {choice.after for choice in steps.made}
    return any(own is not None and own.name in chosen for own in steps.values[value])


def _is_by_weight(node: ir.Node, reads: Reads, constants: Constants) -> bool:
    held = [reads.captures[v] for v in node.inputs if v is not None and v in reads.captures]
    return node.op_type in ("MatMul", "Gemm") and any(v in constants for v in held)


def _is_read_beside(value: ir.Value, path: Sequence[ir.Node], steps: Steps) -> bool:
    """Whether others than the path read a value, in any step or outside of them."""
    lane = steps.values[value]
    on_path = {node for own in path for node in steps.nodes.get(own, [own]) if node is not None}
    read = (use.node for image in lane if image is not None for use in image.uses())
    return static_shape(value) is not None and any(node not in on_path for node in read)


def _is_read_outside(value: ir.Value, steps: Steps) -> bool:
    """Whether others than the states read a value that is handed on, in most steps."""
    lanes = (lane for key, lane in steps.nodes.items() if key not in steps.heads)
    inner = {node for lane in lanes for node in lane if node is not None}
    lane = [image for image in steps.values[value] if image is not None]
    read = [any(use.node not in inner for use in image.uses()) or image.is_graph_output() for image in lane]
    return 2 * sum(read) > len(read)
