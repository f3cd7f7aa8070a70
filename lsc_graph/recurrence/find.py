"""Every recurrence of a normalised model, and why each other candidate was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import direct_sources
from lsc_graph.recurrence.fused_ops import LoweredOp, inline_single_step_scans, lower_fused_ops
from lsc_graph.recurrence.packed import unpack
from lsc_graph.recurrence.scan import site_of_scan, with_distinct_outputs
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, StepSequence
from lsc_graph.recurrence.streaming import StatePair, find_state_pairs
from lsc_graph.results import Direction, Form, Refusal
from lsc_graph.shapes import static_shape


@dataclass(frozen=True)
class CarriedState:
    """A model input that receives a model output at the next call.

    `pieces` are the state variables that the input consists of, concatenated along `axis`
    (a single one, and axis None, unless the state is packed; none where another recurrence holds it).
    """

    before: str
    after: str
    pieces: tuple[str, ...]
    axis: int | None


@dataclass(frozen=True)
class Findings:
    """The recurrent sites of `model`, which is the normalised model with fused operators lowered to Scan.

    `carried` are the states of a streaming model; they are part of `sites` unless they only carry the
    state of another recurrence from call to call.
    """

    model: ir.Model
    sites: tuple[RecurrentSite, ...]
    carried: tuple[CarriedState, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]

    @property
    def is_streaming(self) -> bool:
        """Whether one run of the model is one time step."""
        return any(site.form is Form.STREAMING for site in self.sites)


def find_recurrences(model: ir.Model, *, num_steps: int, states: Sequence[tuple[str, str]] = ()) -> Findings:
    """Find the recurrences of a normalised model; the model is rewritten in place.

    Args:
        model: normalised model with static shapes.
        num_steps: how many calls of a streaming model make the sequence.
        states: (input, output) pairs declared by hand.
    """
    lowered = lower_fused_ops(model)
    inline_single_step_scans(model)
    looped = [node for node in model.graph if node.op_type == "Scan"]
    pairs, refusals = find_state_pairs(model, states)
    refusals += tuple(_unread_loops(model.graph))
    stepping = [pair for pair in pairs if states or not _is_carried_by(model, pair, looped)]
    single = [op for op in lowered if all(scan.graph is None for scan in op.scans)]
    if stepping:
        return _streaming_findings(model, pairs, num_steps, refusals, looped)
    refusals += tuple(_single_step_refusal(op) for op in single)
    warnings = tuple(f"{p.before} -> {p.after} carries a recurrence's state from call to call" for p in pairs)
    carried = tuple(CarriedState(pair.before, pair.after, (), None) for pair in pairs)
    return Findings(model, _scan_sites(model, looped, lowered), carried, refusals, warnings)


def _is_carried_by(model: ir.Model, pair: StatePair, looped: list[ir.Node]) -> bool:
    """Whether every way from the pair's input to its output leads through a loop over time."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    after = next(value for value in model.graph.outputs if value.name == pair.after)
    stops = {inputs[pair.before], *(output for node in looped for output in node.outputs)}
    return inputs[pair.before] not in direct_sources(after, stops)


def _unread_loops(graph: ir.Graph) -> Iterator[Refusal]:
    """Loops that may hold recurrences which are not looked into."""
    for node in graph.all_nodes():
        nested = node.graph is not graph
        if node.op_type == "Loop":
            yield Refusal(str(node.name), "loop", "recurrences written as Loop are not analysed yet")
        elif node.op_type == "Scan" and nested:
            yield Refusal(str(node.name), "scan", "it lies inside another loop or a branch that stays open")


def _single_step_refusal(op: LoweredOp) -> Refusal:
    return Refusal(
        op.original_name, "fused_op", f"{op.op_type} runs for one step only, and no state is carried"
    )


def _scan_sites(
    model: ir.Model, looped: list[ir.Node], lowered: Sequence[LoweredOp]
) -> tuple[RecurrentSite, ...]:
    origin = {scan: op for op in lowered for scan in op.scans}
    repeated = Counter(op.original_name for op in lowered)
    recurrences: dict[str, str] = {}
    sites = []
    for node in looped:
        op = origin.get(node)
        name = str(node.name)
        if op is not None:
            name = op.node_name if repeated[op.original_name] > 1 else op.original_name
        recurrence = recurrences.setdefault(name, f"recurrence_{len(recurrences)}")
        both = op is not None and op.direction is Direction.BIDIRECTIONAL
        suffix = ("", ".forward", ".reverse")[1 + op.scans.index(node) if both and op is not None else 0]
        site = site_of_scan(
            model,
            node,
            recurrence=recurrence,
            name=name + suffix,
            form=Form.FUSED_OP if op is not None else Form.SCAN,
            direction=op.direction if op is not None else Direction.FORWARD,
            state_names=op.state_names if op is not None else None,
        )
        sites.append(site)
    return tuple(sites)


def _streaming_findings(
    model: ir.Model,
    pairs: Sequence[StatePair],
    num_steps: int,
    refusals: tuple[Refusal, ...],
    looped: list[ir.Node],
) -> Findings:
    with_distinct_outputs(model)
    warnings = [
        f"{node.name} loops over an axis inside one step: analysed as part of the step" for node in looped
    ]
    carried = tuple(_carry(model.graph, pair) for pair in pairs)
    warnings += [f"{pair.before} -> {pair.after}: taken by {pair.evidence}" for pair in pairs
                 if pair.evidence == "structure alone"]  # fmt: skip
    states = tuple(variable for carry, variables in carried for variable in variables)
    befores = {variable.before for variable in states}
    site = RecurrentSite(
        id="step",
        recurrence="recurrence_0",
        form=Form.STREAMING,
        node=", ".join(f"{pair.before} -> {pair.after}" for pair in pairs),
        direction=Direction.FORWARD,
        num_steps=num_steps,
        body=model,
        states=states,
        inputs=tuple(_slice(value) for value in model.graph.inputs if value.name not in befores),
        outputs=tuple(_slice(value) for value in model.graph.outputs),
        captures={},
    )
    return Findings(model, (site,), tuple(carry for carry, _ in carried), refusals, tuple(warnings))


def _slice(value: ir.Value) -> StepSequence:
    return StepSequence(body=str(value.name), main=str(value.name), axis=-1, reverse=False)


def _carry(graph: ir.Graph, pair: StatePair) -> tuple[CarriedState, tuple[StateVariable, ...]]:
    before = next(value for value in graph.inputs if value.name == pair.before)
    after = next(value for value in graph.outputs if value.name == pair.after)
    unpacked = unpack(graph, before, after)
    if unpacked is None:
        return CarriedState(pair.before, pair.after, (pair.before,), None), (_variable(before, after),)
    inputs = {str(value.name): value for value in graph.inputs}
    values = {str(value.name): value for node in graph for value in node.outputs}
    variables = tuple(
        _variable(inputs[b], values[a]) for b, a in zip(unpacked.before, unpacked.after, strict=True)
    )
    return CarriedState(pair.before, pair.after, unpacked.before, unpacked.axis), variables


def _variable(before: ir.Value, after: ir.Value) -> StateVariable:
    return StateVariable(
        name=str(before.name),
        shape=static_shape(before) or (),
        before=str(before.name),
        after=str(after.name),
        initial=None,
        final=None,
    )
