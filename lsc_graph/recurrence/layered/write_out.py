"""Loops over layers written out, so that every layer is seen: with its own weights, state and edges.

A loop over layers stands inside a step (and carries a stack of states), around whole recurrences, or alone.
A loop over depth whose weights are tied stays what it is: a recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import lift_constants, remove_identities, remove_unused
from lsc_graph.recurrence.layered.iterations import write_iterations
from lsc_graph.recurrence.layered.layer_weights import split_weights
from lsc_graph.recurrence.layered.over_layers import Iterations, loops_over_layers
from lsc_graph.recurrence.layered.released import drop_released, is_loop, release_unchanged, share_shapes
from lsc_graph.recurrence.layered.stacks import join_rows, read_rows
from lsc_graph.recurrence.writer import Names

MAX_NODES = 50_000
"""Models are not written out beyond this size."""
_MAX_NESTED = 8


def write_out_layers(model: ir.Model, simplify: Callable[[ir.Model], None]) -> tuple[str, ...]:
    """Write out the loops over layers of a normalised model, in place.

    Args:
        model: normalised model with static shapes.
        simplify: infers shapes and folds constants.

    Returns:
        What was written out, in words.
    """
    if not any(is_loop(node) for node in model.graph.all_nodes()):
        return ()
    release_unchanged(model)
    share_shapes(model, simplify)
    words: list[str] = []
    for _ in range(_MAX_NESTED):
        loops = _affordable(model, loops_over_layers(model))
        if not loops:
            break
        words += [_said(loop) for loop in loops]
        names = Names(model.graph)
        for loop in loops:
            write_iterations(loop, names)
        _tidy(model, simplify)
        release_unchanged(model)
    if words:
        drop_released(model)
        share_shapes(model, simplify)
        read_rows(model)
        _tidy(model, simplify)
        join_rows(model)
        _tidy(model, simplify)
        split_weights(model)
        _tidy(model, simplify)
    return tuple(dict.fromkeys(words))


def _affordable(model: ir.Model, loops: Sequence[Iterations]) -> list[Iterations]:
    num_nodes, found = sum(1 for _ in model.graph.all_nodes()), []
    for loop in loops:
        num_nodes += loop.num * sum(1 for _ in loop.body.all_nodes())
        if num_nodes <= MAX_NODES:
            found.append(loop)
    return found


def _said(loop: Iterations) -> str:
    name = loop.node.name or loop.node.outputs[0].name
    return f"{name} runs over layers: its {loop.num} iteration(s) are read as if written one after another"


def _tidy(model: ir.Model, simplify: Callable[[ir.Model], None]) -> None:
    lift_constants(model)
    remove_identities(model)
    remove_unused(model)
    passes.NameFixPass()(model)
    simplify(model)
    passes.TopologicalSortPass()(model)
    remove_unused(model)
