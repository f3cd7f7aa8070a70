"""Recurrences in branches that the data decide: how often each branch counts is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from lsc_graph.canonical.branches import BRANCH, CONDITION, LOOPING, TAKEN_IF
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.running.reference import Reference, with_outputs
from lsc_graph.running.sampling import Sample


@dataclass(frozen=True)
class Alternative:
    """A recurrence that stood in a branch, which counts if `condition` is `taken_if`."""

    node: str
    branch: str
    condition: str
    taken_if: bool


def alternatives(prepared: Prepared) -> tuple[Alternative, ...]:
    """Every recurrence of the main graph that stood in a branch."""
    return (*_loops(prepared.normalized.graph), *_steps(prepared))


def _loops(graph: onnx.GraphProto) -> Iterator[Alternative]:
    """Loops and recurrent operators."""
    for node in graph.node:
        if node.op_type in LOOPING and (own := _marked(node, node.name or node.output[0])) is not None:
            yield own


def _steps(prepared: Prepared) -> Iterator[Alternative]:
    """Steps that were written out: those of which a branch computed the states."""
    makers = {name: node for node in prepared.normalized.graph.node for name in node.output}
    for site in prepared.findings.sites:
        names = [name for lane in site.watched for name in lane if name in makers]
        found = [_marked(makers[name], site.node) for name in names]
        yield from dict.fromkeys(own for own in found if own is not None)


def _marked(node: onnx.NodeProto, name: str) -> Alternative | None:
    """What a node says of the branch that it stood in."""
    given = {entry.key: entry.value for entry in node.metadata_props}
    if BRANCH not in given:
        return None
    return Alternative(name, given[BRANCH], given[CONDITION], given[TAKEN_IF] == str(True))


def alternative_warnings(prepared: Prepared, samples: Sequence[Sample] = ()) -> tuple[str, ...]:
    """One line for each; with samples, how many of them take the branch."""
    found = alternatives(prepared)
    taken = _conditions(prepared, found, samples) if found and samples else {}
    return tuple(_line(own, taken.get(own.condition)) for own in found)


def _line(own: Alternative, values: Sequence[bool] | None) -> str:
    often = ""
    if values is not None:
        count = sum(value == own.taken_if for value in values)
        often = f", which {count} of {len(values)} samples take"
    return (
        f"{own.node} stands in {own.branch}{often}: both branches are computed and one is selected; the "
        "other passes no gradient on"
    )


def _conditions(
    prepared: Prepared, found: Sequence[Alternative], samples: Sequence[Sample]
) -> dict[str, list[bool]]:
    """What each condition is on each sample, where ONNX Runtime can show it."""
    known = {name for node in prepared.normalized.graph.node for name in node.output}
    names = [name for name in dict.fromkeys(own.condition for own in found) if name in known]
    if is_streaming(prepared) or not names:
        return {}
    reference = Reference(with_outputs(prepared.normalized, names))
    runs = [reference.run(sample.inputs | sample.initial, names) for sample in samples]
    return {name: [bool(run[name].reshape(-1)[0]) for run in runs] for name in names}
