"""Every recurrence of a normalised model, and why each other candidate was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import onnx_ir as ir

from lsc_graph.canonical.branches import why_not_selected
from lsc_graph.canonical.normalize import simplify
from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.counters import with_clocks, with_counters
from lsc_graph.recurrence.dataflow import body_values, depends, direct_sources
from lsc_graph.recurrence.delays import new_states
from lsc_graph.recurrence.determined import determined_warnings
from lsc_graph.recurrence.ends import states_of_operators
from lsc_graph.recurrence.equal_states import merge_equal_states
from lsc_graph.recurrence.fused_ops import LoweredOp, inline_single_step_scans, lower_fused_ops
from lsc_graph.recurrence.loop_sites import is_over_depth, sites_of_loops, told_apart
from lsc_graph.recurrence.loops.lists import read_lists_as_tensors
from lsc_graph.recurrence.loops.rewrite import LoweredLoop, TripCount, lower_loops
from lsc_graph.recurrence.new_states import read_new_states
from lsc_graph.recurrence.packed import Piece, unpack
from lsc_graph.recurrence.reversal import turn_around
from lsc_graph.recurrence.scan import with_distinct_outputs
from lsc_graph.recurrence.selected_sequences import read_selected_sequences
from lsc_graph.recurrence.selections import read_selected_states, read_selected_states_of_step
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, StepSequence
from lsc_graph.recurrence.streaming import UNRELATED, StatePair, find_state_pairs
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unpack_scans import unpack_scans
from lsc_graph.recurrence.unrolled.chains import MIN_STEPS
from lsc_graph.recurrence.unrolled.chosen import check_made, told_by_hand
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.remarks import remarks_on
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.recurrence.unrolled.unrecognised import find_unrecognised
from lsc_graph.recurrence.written_selections import write_selections, write_selections_in
from lsc_graph.results import Direction, Form, Refusal

BRANCHES = "branches"
"""Finder of refusals: branches with weights that are used again and again."""


@dataclass(frozen=True)
class CarriedState:
    """A model input that receives a model output at the next call.

    `pieces` are the state variables that the input consists of, and where in it (a single one unless the
    state is packed; none where another recurrence holds it).
    """

    before: str
    after: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Findings:
    """The recurrent sites of `model`, which is the normalised model with fused operators lowered to Scan.

    `carried` are the states of a streaming model; they are part of `sites` unless they only carry the
    state of another recurrence from call to call. `counts` are there for loops that the data may end.
    """

    model: ir.Model
    sites: tuple[RecurrentSite, ...]
    carried: tuple[CarriedState, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    counts: tuple[TripCount, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """What else may be a recurrence: for reports that do not list what was refused."""
        words = {"streaming": "is not taken for a state", "loop": "is no layer", "scan": "is no layer"}
        words[BRANCHES] = "is not looked into"
        found = [r for r in self.refusals if r.finder in words]
        return tuple(f"{r.candidate} {words[r.finder]}: {r.reason}" for r in found)

    @property
    def choices(self) -> tuple[str, ...]:
        """What a person said of states: for reports that do not list the recurrences."""
        return tuple(
            f"{site.recurrence}: as chosen with --state {text}" for site in self.sites for text in site.chosen
        )

    @property
    def is_streaming(self) -> bool:
        """Whether one run of the model is one time step."""
        return any(site.form is Form.STREAMING for site in self.sites)


def find_recurrences(
    model: ir.Model,
    *,
    num_steps: int,
    states: Sequence[tuple[str, str]] = (),
    trial: Trial | None = None,
    more_trials: Sequence[Trial] = (),
) -> Findings:
    """Find the recurrences of a normalised model; the model is rewritten in place.

    Args:
        model: normalised model with static shapes.
        num_steps: how many calls of a streaming model make the sequence.
        states: pairs declared by hand: an input and the output that it receives next, or a value that a step
            of an unrolled recurrence takes over and one that it hands on (or "none", for a value that is no
            state); or `NO_STATE` alone.
        trial: runs parts of the model on one sample; needed where only a run can tell.
        more_trials: the same on other samples.
    """
    read_lists_as_tensors(model)
    of_operators = states_of_operators(model.graph)
    loops, refusals = lower_loops(model, trial, simplify, more_trials)
    states, chosen = told_by_hand(model.graph, states)
    rolled, refused = roll_steps(model, trial, chosen)
    check_made(chosen, (steps.made for steps in rolled))
    more, unrecognised = find_unrecognised(model.graph, refused)
    refusals += _with_more(refused, more)
    lowered = lower_fused_ops(model)
    turned = turn_around(model, {value for op in lowered for value in op.outputs})
    rolled = tuple(_turned_steps(steps) if steps.rolled.scan in turned else steps for steps in rolled)
    inline_single_step_scans(model)
    unpacked = unpack_scans(model)
    loops = tuple(_rewritten_loop(loop, unpacked) for loop in loops)
    rolled = tuple(_rewritten_steps(steps, unpacked) for steps in rolled)
    write_selections(model)
    merged = merge_equal_states(model, [scan for op in lowered for scan in op.scans])
    loops = tuple(_rewritten_loop(loop, merged) for loop in loops)
    rolled = tuple(_rewritten_steps(steps, merged) for steps in rolled)
    read_selected_states(model)
    read_selected_sequences(model)
    looped = [node for node in model.graph if node.op_type == "Scan"]
    pairs, refused = find_state_pairs(model, states, of_operators)
    refusals += refused
    refusals += (*_unread_loops(model.graph), *_searches(model.graph))
    constants = Constants(model.graph)
    carrying = looped
    if len(pairs) < len(model.graph.inputs):  # else nothing but the names tells steps from layers
        carrying = [node for node in looped if not is_over_depth(node, constants)]
    stepping = pairs if states else _stepping(model, pairs, carrying)
    single = [op for op in lowered if all(scan.graph is None for scan in op.scans)]
    warnings = unrecognised
    warnings += tuple(f"{own.candidate}: {own.reason}" for own in refusals if UNRELATED in own.reason)
    if stepping:
        found = _streaming_findings(model, pairs, num_steps, refusals, looped)
        return replace(found, warnings=(*warnings, *found.warnings))
    refusals += tuple(_single_step_refusal(op) for op in single)
    warnings += tuple(
        f"{p.before} -> {p.after} carries a recurrence's state from call to call" for p in pairs
    )
    warnings += tuple(
        f"{loop.name}: how often it runs depends on the data; {loop.num_steps} steps on most samples"
        for loop in loops
        if loop.counted is not None
    )
    warnings += tuple(remarks_on(rolled))
    carried = tuple(CarriedState(pair.before, pair.after, ()) for pair in pairs)
    all_sites = sites_of_loops(model, looped, lowered, rolled, loops)
    all_sites = tuple(with_counters(site, model.graph, constants) for site in all_sites)
    sites, refused = told_apart(model, looped, all_sites)
    given = {str(value.name) for value in model.graph.inputs}
    main = body_values(model.graph)
    warnings += tuple(warning for site in sites for warning in determined_warnings(site, given, main))
    counts = tuple(loop.counted for loop in loops if loop.counted is not None)
    return Findings(model, sites, carried, refusals + refused, warnings, counts)


def _with_more(refused: Sequence[Refusal], more: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Refusals, of which those of the same candidate are replaced."""
    return tuple({refusal.candidate: refusal for refusal in (*refused, *more)}.values())


class RewrittenScan(Protocol):
    """A Scan with other states than the one whose place it took."""

    @property
    def scan(self) -> ir.Node: ...

    def names(self, names: Sequence[str]) -> tuple[str, ...]: ...

    def watched(self, names: Sequence[tuple[str | None, ...]]) -> tuple[tuple[str | None, ...], ...]: ...


def _rewritten_loop(loop: LoweredLoop, rewritten: Mapping[ir.Node, RewrittenScan]) -> LoweredLoop:
    """A Loop with the Scan that took its Scan's place, if one did."""
    new = rewritten.get(loop.scan)
    return loop if new is None else replace(loop, scan=new.scan, state_names=new.names(loop.state_names))


def _rewritten_steps(steps: RolledSteps, rewritten: Mapping[ir.Node, RewrittenScan]) -> RolledSteps:
    """Unrolled steps with the Scan that took their Scan's place, if one did."""
    old = steps.rolled
    new = rewritten.get(old.scan)
    if new is None:
        return steps
    names, watched = new.names(old.state_names), new.watched(old.watched)
    return replace(steps, rolled=replace(old, scan=new.scan, state_names=names, watched=watched))


def _turned_steps(steps: RolledSteps) -> RolledSteps:
    """Unrolled steps that stand in the reverse of the order in which they were found."""
    old = steps.rolled
    watched = tuple(names[::-1] for names in old.watched)
    return replace(steps, rolled=replace(old, is_reverse=not old.is_reverse, watched=watched))


def _stepping(model: ir.Model, pairs: Sequence[StatePair], looped: list[ir.Node]) -> list[StatePair]:
    """The pairs that make a model one step: not those that loops over time carry, nor delays beside these."""
    own = [pair for pair in pairs if not _is_carried_by(model, pair, looped)]
    inputs = {str(value.name): value for value in model.graph.inputs}
    outputs = {str(value.name): value for value in model.graph.outputs}
    are_delays = all(not depends(outputs[pair.after], inputs[pair.before]) for pair in own)
    return [] if are_delays and len(own) < len(pairs) else own


def _is_carried_by(model: ir.Model, pair: StatePair, looped: list[ir.Node]) -> bool:
    """Whether every way from the pair's input to its output leads through a loop over time."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    after = next(value for value in model.graph.outputs if value.name == pair.after)
    if after.producer() in looped:
        return True
    stops = {inputs[pair.before], *(output for node in looped for output in node.outputs)}
    is_delay = not depends(after, inputs[pair.before])
    return not is_delay and inputs[pair.before] not in direct_sources(after, stops)


def _unread_loops(graph: ir.Graph) -> Iterator[Refusal]:
    """Loops, and branches with weights, that may hold recurrences which are not looked into."""
    for holder in graph:
        if holder.op_type == "If" and any(map(_repeats_weights, inner_graphs(holder))):
            yield Refusal(str(holder.name or holder.outputs[0].name), BRANCHES, _why_unread(holder))
        for inner in inner_graphs(holder):
            for node in inner.all_nodes():
                if node.op_type in ("Loop", "Scan"):
                    yield Refusal(str(node.name), node.op_type.lower(), _why_unread(holder))


def _searches(graph: ir.Graph) -> Iterator[Refusal]:
    """Operators of others that run a network inside them, such as BeamSearch and GreedySearch."""
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            for name, attribute in node.attributes.items():
                if attribute.type is ir.AttributeType.GRAPH:
                    reason = (
                        f"{node.op_type} runs its {name} once for each token that it chooses, which cuts the "
                        f"gradient: audit the {name} as a model of its own"
                    )
                    yield Refusal(str(node.name or node.outputs[0].name), "loop", reason)


def _repeats_weights(branch: ir.Graph) -> bool:
    """Whether nodes of a branch use one matrix as often as the steps of a recurrence do."""
    uses = Counter(
        value
        for node in branch.all_nodes()
        for value in node.inputs
        if value is not None and value.is_initializer() and len(value.shape or ()) > 1
    )
    return max(uses.values(), default=0) >= MIN_STEPS


def _why_unread(holder: ir.Node) -> str:
    name = f"{holder.op_type} {holder.name or holder.outputs[0].name}"
    if holder.op_type == "If":
        reason = why_not_selected(holder) or "it lies in a graph that is not looked into"
        return f"it lies in a branch of {name}, which the data decide, and both cannot be computed: {reason}"
    return f"it runs inside every step of {name}: its steps are part of that step, its states no layer"


def _single_step_refusal(op: LoweredOp) -> Refusal:
    return Refusal(
        op.original_name, "fused_op", f"{op.op_type} runs for one step only, and no state is carried"
    )


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
    warnings += [
        f"{pair.before} -> {pair.after}: taken for a state by its names; if it is none, say --state none"
        for pair in pairs
        if pair.is_doubtful
    ]
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
        chosen=tuple(f"{pair.before}:{pair.after}" for pair in pairs if pair.is_declared),
    )
    site = with_clocks(site)
    write_selections_in(model.graph)
    afters, delays = new_states(site)
    read_selected_states_of_step(model, afters)
    read_new_states(model, afters, delays)
    return Findings(model, (site,), tuple(carry for carry, _ in carried), refusals, tuple(warnings))


def _slice(value: ir.Value) -> StepSequence:
    return StepSequence(body=str(value.name), main=str(value.name), axis=-1, reverse=False)


def _carry(graph: ir.Graph, pair: StatePair) -> tuple[CarriedState, tuple[StateVariable, ...]]:
    before = next(value for value in graph.inputs if value.name == pair.before)
    after = next(value for value in graph.outputs if value.name == pair.after)
    pieces = unpack(graph, before, after)
    inputs = {str(value.name): value for value in graph.inputs}
    values = {str(value.name): value for node in graph for value in node.outputs} | {pair.after: after}
    variables = tuple(_variable(inputs[piece.before], values[piece.after]) for piece in pieces)
    return CarriedState(pair.before, pair.after, pieces), variables


def _variable(before: ir.Value, after: ir.Value) -> StateVariable:
    return StateVariable(
        name=str(before.name),
        shape=static_shape(before) or (),
        before=str(before.name),
        after=str(after.name),
        initial=None,
        final=None,
    )
