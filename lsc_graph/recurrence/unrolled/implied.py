"""States that follow from other new states of their step: what they start from, or are joined of, tells.

A state that starts from f(0), where the other one starts from 0, is that function of it: carried beside it,
it would start from zeros too. A state that joins another one with more holds that one already: what is
carried are the parts, as where the step takes them over one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.reapplied import is_chosen
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter

Implied = tuple[ir.Value, dict[ir.Value, ir.Value], bool]
"""A state, the values that it follows from, each with what it starts from, and whether it might be one."""


def implied(steps: Steps, reads: Reads, constants: Constants, writer: GraphWriter) -> Iterator[Implied]:
    """States that other values of their step imply, as far as their first values do not speak against it."""
    for key, after in steps.after.items():
        start = steps.states[key][0]
        array = constants.array(start) if start is not None else None
        if after not in steps.values or (array is None and start not in constants):
            continue
        parts = _joined(key, steps, array, writer) if array is not None else None
        if parts is not None:
            yield from [] if is_chosen(steps, after) else [(key, parts, True)]
        elif array is None or array.any():
            others = {new: own for own, new in steps.after.items() if own is not key and new is not after}
            found = _determining(after, others.keys(), steps, reads)
            starts = {value: steps.states[others[value]][0] for value in found or ()}
            if starts:
                known = {value: first for value, first in starts.items() if first is not None}
                yield key, known, False


def _joined(
    key: ir.Value, steps: Steps, start: np.ndarray, writer: GraphWriter
) -> dict[ir.Value, ir.Value] | None:
    """What a state joins, if some of it is handed on by itself, each with its part of the start."""
    node = steps.after[key].producer()
    if node is None or node not in steps.nodes or node.op_type != "Concat":
        return None
    parts = [value for value in node.inputs if value is not None and value in steps.values]
    held = {new: own for own, new in steps.after.items()}
    shapes = [static_shape(value) for value in parts]
    if len({*parts}) < len(node.inputs) or not held.keys() & {*parts} or None in shapes:
        return None
    axis = node.attributes.get_int("axis", 0) % start.ndim
    ends = np.cumsum([shape[axis] for shape in shapes if shape is not None])[:-1]
    found = {}
    for value, first in zip(parts, np.split(start, ends, axis), strict=True):
        known = steps.states[held[value]][0] if value in held else None
        found[value] = known if known is not None else writer.constant(first, f"{value.name}.start")
    return found


def _determining(
    value: ir.Value, others: Collection[ir.Value], steps: Steps, reads: Reads
) -> set[ir.Value] | None:
    """Those of some new states that a value is computed from; None if it is computed from more."""
    found, pending, seen = set[ir.Value](), [value], set[ir.Value]()
    while pending:
        own = pending.pop()
        if own in others:
            found.add(own)
        elif own in steps.values and own not in seen:
            seen.add(own)
            node = own.producer()
            pending += [v for v in (node.inputs if node is not None else ()) if v is not None]
        elif own not in seen and own not in reads.captures:
            return None
    return found
