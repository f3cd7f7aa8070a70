"""Unrolled recurrences rewritten as loops, with the whole model verified equal in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from lsc_graph.canonical.normalize import normalize_open, upgraded
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError, ParityError, UsageError
from lsc_graph.files import write_bytes
from lsc_graph.memory import memory_errors_named
from lsc_graph.model_file.load import load
from lsc_graph.planning import Request, plan_inputs
from lsc_graph.recurrence.reversal import reads_in_reverse, turn_around
from lsc_graph.recurrence.unrolled.chosen import NO_STATE, Chosen, check_made, told_by_hand
from lsc_graph.recurrence.unrolled.roll import MIN_OPSET, RolledSteps, roll_steps
from lsc_graph.recurrence.written.reads import read_what_was_written
from lsc_graph.results import Rerolled, Rerolling
from lsc_graph.running.reference import Array, Reference

TOLERANCE = 1e-5
NUM_CHECKS = 3


@memory_errors_named()
def reroll(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
) -> Rerolling:
    """Rewrite every recognised unrolled recurrence of a model as one Scan node.

    Inputs, outputs, weights and their names stay; functions are inlined, and what shapes decide is folded.
    The result is run beside the original on random inputs before it is written.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        output: where to write the result; nothing is written by default, and never over the model itself.
        input_shapes: shapes to verify with, by input name.
        states: of the steps, as in `lsc_graph.audit`.

    Raises:
        UsageError: the output is the model, or the states are not those of written-out steps.
        AnalysisError: no unrolled recurrence is found.
        ParityError: the two models do not agree; nothing is written.
    """
    if output is not None and isinstance(model, (str, os.PathLike)):
        _check_not_in_place(model, output)
    loaded = load(model)
    proto = loaded.proto if _opset(loaded.proto) >= MIN_OPSET else upgraded(loaded.proto)
    plan, feed = plan_inputs(proto, Request(None, {}, dict(input_shapes or {}), (), {}))
    rolled_model = normalize_open(proto)
    read_what_was_written(rolled_model)

    def trial(part: onnx.ModelProto) -> dict[str, Array]:
        return Reference(part).run(feed(plan.shapes, 0) | plan.constants)

    chosen = _chosen(rolled_model.graph, states)
    steps, refusals = roll_steps(rolled_model, trial, chosen)
    check_made(chosen, (own.made for own in steps))
    if not steps:
        raise AnalysisError(
            "No unrolled recurrence was found",
            got="; ".join(f"{r.candidate}: {r.reason}" for r in refusals[:3]) or None,
            expected="weights that are used in a chain of at least three equal steps",
            do="lsc-graph inspect shows what the model consists of",
        )
    turn_around(rolled_model)
    result = _named_as(ir.to_proto(rolled_model), loaded.proto)
    feeds = [feed(plan.shapes, seed) | plan.constants for seed in range(NUM_CHECKS)]
    error = _largest_difference(loaded.proto, result, feeds)
    data = result.SerializeToString()
    if output is not None:
        write_bytes(output, data)
    return Rerolling(
        path=loaded.facts.path,
        output=os.fspath(output) if output is not None else None,
        recurrences=tuple(_facts(own) for own in steps),
        refusals=refusals,
        num_nodes_before=loaded.facts.num_nodes,
        num_nodes_after=len(result.graph.node),
        max_abs_error=error,
        num_checks=NUM_CHECKS,
        model=result,
    )


def _chosen(graph: ir.Graph, states: Sequence[tuple[str, str]]) -> Chosen:
    others, chosen = told_by_hand(graph, states)
    for before, after in others:
        raise UsageError(
            "--state names no value of steps that were written out",
            got=f"{before}:{after}".rstrip(":"),
            expected=f"values that a step takes over and hands on, or VALUE:{NO_STATE}",
            do="see what `lsc-graph inspect` says of the states",
        )
    return chosen


def _check_not_in_place(model: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    if os.path.exists(output) and os.path.exists(model) and os.path.samefile(model, output):
        raise UsageError(
            "The result would replace the model", got=os.fspath(output), do="give another file with -o"
        )


def _opset(proto: onnx.ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _named_as(proto: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """The result with the declared inputs, outputs and metadata of the original."""
    declared = {value.name: value for value in (*original.graph.input, *original.graph.output)}
    for value in (*proto.graph.input, *proto.graph.output):
        value.CopyFrom(declared[value.name])
    del proto.metadata_props[:]
    proto.metadata_props.extend(original.metadata_props)
    for tensor in proto.graph.initializer:  # onnx_ir writes what a tensor came with twice
        known = {entry.key: entry for entry in tensor.metadata_props}
        kept = list(known.values())
        del tensor.metadata_props[:]
        tensor.metadata_props.extend(kept)
    return proto


def _largest_difference(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: list[dict[str, Array]]
) -> float:
    onnx.checker.check_model(after)
    first, second = Reference(before), Reference(after)
    largest = 0.0
    for feed in feeds:
        expected, actual = first.run(feed), second.run(feed)
        for name, value in expected.items():
            error, limit = _difference(value, actual[name])
            if not error <= limit:
                raise ParityError(
                    "The rewritten model does not compute the same, so nothing was written",
                    where=name,
                    got=f"a difference of {error:.3g}",
                    expected=f"at most {limit:.3g}",
                    do="please report this model",
                )
            largest = max(largest, error)
    return largest


def _difference(first: Array, second: Array) -> tuple[float, float]:
    if first.shape != second.shape:
        return float("inf"), 0.0
    if first.dtype.kind != "f":
        return float(np.any(first != second)), 0.0
    one, two = first.astype(np.float64), second.astype(np.float64)
    scale = float(np.abs(one).max(initial=0.0))
    tolerance = TOLERANCE if first.dtype.itemsize > 2 else 1e-2
    return float(np.abs(one - two).max(initial=0.0)), tolerance * max(1.0, scale)


def _facts(own: RolledSteps) -> Rerolled:
    return Rerolled(
        name=own.name,
        weight=own.weight,
        num_steps=own.num_steps,
        num_nodes=own.num_nodes,
        states=own.rolled.state_names,
        is_reverse=reads_in_reverse(own.rolled.scan),
        over_depth=own.over_depth,
        chosen=own.made.texts,
        apart=_apart(own) if own.num_apart else None,
    )


def _apart(own: RolledSteps) -> str:
    """Which steps stay before the Scan, and why."""
    count = own.num_apart
    stay = "the first stays" if count == 1 else f"the first {count} stay"
    words = f"of {own.num_steps + count} steps {stay} before the Scan, computed in another way"
    starts = own.rolled.scan.inputs[: len(own.rolled.state_names)]
    is_open = any(start is None or static_shape(start) is None for start in starts)
    if not is_open:
        return f"{words}, which no known start explains"
    return (
        f"{words}: a start that explains it would have a size that the file leaves open. `lsc-graph inspect` "
        "and `audit` fix all sizes, and may count it as a step like the others; export with fixed sizes to "
        "have it in the Scan"
    )
