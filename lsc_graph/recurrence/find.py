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
from lsc_graph.recurrence.delays import new_states, only_delays
from lsc_graph.recurrence.determined import determined_warnings
from lsc_graph.recurrence.ends import states_of_operators
from lsc_graph.recurrence.equal_states import merge_equal_states
from lsc_graph.recurrence.fused_ops import LoweredOp, inline_single_step_scans, lower_fused_ops
from lsc_graph.recurrence.loops.lists import read_lists_as_tensors
from lsc_graph.recurrence.loops.rewrite import LoweredLoop, TripCount, lower_loops
from lsc_graph.recurrence.new_states import read_new_states
from lsc_graph.recurrence.packed import Piece, unpack
from lsc_graph.recurrence.reversal import reads_in_reverse, turn_around
from lsc_graph.recurrence.scan import site_of_scan, with_distinct_outputs
from lsc_graph.recurrence.selected_sequences import read_selected_sequences
from lsc_graph.recurrence.selections import read_selected_states, read_selected_states_of_step
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, StepSequence
from lsc_graph.recurrence.streaming import UNRELATED, StatePair, find_state_pairs
from lsc_graph.recurrence.totals import is_running_total
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unpack_scans import unpack_scans
from lsc_graph.recurrence.unrolled.chains import MIN_STEPS
from lsc_graph.recurrence.unrolled.chosen import NO_STATE, check_made, told_by_hand
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.phase import OpenChoice
from lsc_graph.recurrence.unrolled.roll import MAX_TRIMMED, RolledSteps, roll_steps
from lsc_graph.recurrence.unrolled.start_search import ASSUMED, SOLVED
from lsc_graph.recurrence.unrolled.unrecognised import find_unrecognised
from lsc_graph.recurrence.weights import trained_tensors
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
        carrying = [node for node in looped if not _is_over_depth(node, constants)]
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
    warnings += tuple(_apart(steps) for steps in rolled if steps.num_apart)
    warnings += tuple(_tied(steps) for steps in rolled if steps.over_depth)
    warnings += tuple(_left_out(steps) for steps in rolled if steps.num_left_out)
    warnings += tuple(_STARTED[steps.start].format(steps.name) for steps in rolled if steps.start in _STARTED)
    warnings += tuple(_uneven(rolled))
    warnings += tuple(_of_several_times(steps.name, *steps.times) for steps in rolled if steps.times)
    warnings += tuple(_left_open(steps.name, choice) for steps in rolled for choice in steps.open)
    carried = tuple(CarriedState(pair.before, pair.after, ()) for pair in pairs)
    all_sites = _scan_sites(model, looped, lowered, rolled, loops)
    all_sites = tuple(with_counters(site, model.graph, constants) for site in all_sites)
    sites, refused = _told_apart(model, looped, all_sites)
    given = {str(value.name) for value in model.graph.inputs}
    main = body_values(model.graph)
    warnings += tuple(warning for site in sites for warning in determined_warnings(site, given, main))
    counts = tuple(loop.counted for loop in loops if loop.counted is not None)
    return Findings(model, sites, carried, refusals + refused, warnings, counts)


def _with_more(refused: Sequence[Refusal], more: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Refusals, of which those of the same candidate are replaced."""
    return tuple({refusal.candidate: refusal for refusal in (*refused, *more)}.values())


_STARTED = {
    SOLVED: "{}: its first step reads constants where the others compute from their state: taken for a start "
    "that was multiplied by the weights beforehand, and one that gives these constants was found",
    ASSUMED: "{}: its first step reads constants where the others compute from their state, and no start is "
    "known that gives them with these weights, as behind a nonlinearity, or where weights were changed or "
    "rounded later: it is taken for a step like the others",
}
"""What is said of first steps, unless the constants of the file leave no doubt."""


def _apart(steps: RolledSteps) -> str:
    total = steps.num_steps + steps.num_apart
    return (
        f"{steps.name}: of {total} steps the first {steps.num_apart} are computed in another way, and are no "
        "part of the layer: the network begins so, or their constants were folded or rounded apart"
    )


def _tied(steps: RolledSteps) -> str:
    return (
        f"{steps.name}: {steps.num_steps} layers use tensors of equal values, and so are taken for the steps "
        "of one layer, a loop over depth; layers that are copies of one another until they are trained look "
        "the same, for exporters store equal tensors once: give each values of its own to audit them apart"
    )


def _left_out(steps: RolledSteps) -> str:
    return (
        f"{steps.name}: behind its {steps.num_steps} steps another one lacks what nobody reads, such as the "
        "condition that keeps a state: it is no part of the layer"
    )


def _of_several_times(name: str, sequence: str, count: int) -> str:
    return (
        f"{name}: each of its steps reads {count} times of {sequence}: what is computed at one of these "
        f"differs from the next, so {count} times are one step, and radii are those of {count} times together"
    )


def _uneven(rolled: Sequence[RolledSteps]) -> Iterator[str]:
    """Layers of one weight that have nearly as many steps as another: these are steps of one network."""
    for own in rolled:
        alike = [one for one in rolled if one.weight == own.weight and not one.over_depth]
        longest = max(alike, key=lambda one: one.num_steps, default=own)
        missing = longest.num_steps - own.num_steps - own.num_apart
        if not own.over_depth and 0 < missing <= MAX_TRIMMED:
            yield (
                f"{own.name} has {own.num_steps} steps, and {longest.name} of the same weight "
                f"{longest.num_steps}: its first or last ones are computed in another way or read by nothing,"
                " and are no part of the layer"
            )


def _left_open(name: str, choice: OpenChoice) -> str:
    values, other = ", ".join(choice.values), choice.other
    if choice.source is not None and other.after == NO_STATE:
        return (
            f"{name}: nothing in the file tells whether a step hands on {values}, as is assumed, or "
            f"{choice.source}, of which a weight makes it: radii and gains depend on it; "
            f"--state {other.before}:{other.after} takes the other reading"
        )
    if choice.source is not None:
        return (
            f"{name}: nothing in the file tells whether a step hands on {choice.source}, as is assumed, or "
            f"{values}, which is made of that: path counts, gains and radii depend on it; --state "
            f"{other.before}:{other.after} takes the other reading"
        )
    return (
        f"{name}: nothing in the file tells whether {values} is computed at the end of a step, as is "
        "assumed, or at the start of the next one: gains depend on it, and radii where steps differ; "
        f"--state {other.before}:{other.after} takes the other reading"
    )


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


def _scan_sites(
    model: ir.Model,
    looped: list[ir.Node],
    lowered: Sequence[LoweredOp],
    rolled: Sequence[RolledSteps],
    loops: Sequence[LoweredLoop],
) -> tuple[RecurrentSite, ...]:
    origin = {scan: op for op in lowered for scan in op.scans}
    unrolled = {steps.rolled.scan: steps for steps in rolled}
    written = {loop.scan: loop for loop in loops}
    repeated = Counter(op.original_name for op in lowered)
    recurrences: dict[str, str] = {}
    sites: list[RecurrentSite] = []
    for node in looped:
        op = origin.get(node)
        name = str(node.name)
        if op is not None:
            name = op.node_name if repeated[op.original_name] > 1 else op.original_name
        elif node in unrolled:
            name = unrolled[node].name
        elif node in written:
            name = written[node].name
        recurrence = recurrences.setdefault(name, f"recurrence_{len(recurrences)}")
        if op is not None:
            sites.append(_fused_site(model, node, op, recurrence, name))
        elif node in unrolled:
            sites.append(_unrolled_site(model, unrolled[node], recurrence))
        elif node in written:
            sites.append(_loop_site(model, written[node], recurrence))
        else:
            sites.append(site_of_scan(model, node, recurrence=recurrence, name=name, form=Form.SCAN))
    return tuple(sites)


def _fused_site(model: ir.Model, node: ir.Node, op: LoweredOp, recurrence: str, name: str) -> RecurrentSite:
    both = op.direction is Direction.BIDIRECTIONAL
    suffix = (".reverse" if reads_in_reverse(node) else ".forward") if both else ""
    return site_of_scan(
        model,
        node,
        recurrence=recurrence,
        name=name + suffix,
        form=Form.FUSED_OP,
        direction=op.direction if both else None,
        state_names=op.state_names,
    )


def _loop_site(model: ir.Model, loop: LoweredLoop, recurrence: str) -> RecurrentSite:
    return site_of_scan(
        model,
        loop.scan,
        recurrence=recurrence,
        name=loop.name,
        form=Form.LOOP,
        state_names=loop.state_names,
    )


def _told_apart(
    model: ir.Model, looped: Sequence[ir.Node], sites: Sequence[RecurrentSite]
) -> tuple[tuple[RecurrentSite, ...], tuple[Refusal, ...]]:
    """Loops over time, loops over depth, and mere iterations, which train nothing and are refused."""
    constants = Constants(model.graph)
    found, refused = [], []
    is_any_layer = any(site.states and not only_delays(site) for site in sites)
    for node, site in zip(looped, sites, strict=True):
        if is_any_layer and only_delays(site):
            reason = (
                "what its steps carry only delays what they read, as in a causal convolution step by step: "
                "part of what is around it"
            )
            refused.append(Refusal(site.node, site.form.value, reason))
        elif site.form not in (Form.LOOP, Form.SCAN):
            found.append(site)
        elif not site.states:
            reason = "no step hands anything on to the next one: a map, part of what is around it"
            refused.append(Refusal(site.node, site.form.value, reason))
        elif is_running_total(site, _read_outputs(node)):
            reason = "its steps only add up: a running total, as in pooling"
            refused.append(Refusal(site.node, site.form.value, reason))
        elif not _is_over_depth(node, constants):
            found.append(site)
        elif trained_tensors(model.graph, site):
            found.append(replace(site, over_depth=True))
        else:
            reason = "its steps read no sequence and train no weight: an iteration, part of what is around it"
            refused.append(Refusal(site.node, site.form.value, reason))
    return tuple(found), tuple(refused)


def _read_outputs(node: ir.Node) -> set[str]:
    """The names of a node's outputs that anybody reads."""
    used = (value for value in node.outputs if value.is_graph_output() or any(True for _ in value.uses()))
    return {str(value.name) for value in used}


def _is_over_depth(node: ir.Node, constants: Constants) -> bool:
    """Whether a Scan reads no sequence but of constants (weights of its layers, say), and leaves none."""
    num_sequences = node.attributes.get_int("num_scan_inputs", 0)
    num_states = len(node.inputs) - num_sequences
    left = [v for v in node.outputs[num_states:] if v.is_graph_output() or any(True for _ in v.uses())]
    return not left and all(value in constants for value in node.inputs[num_states:])


def _unrolled_site(model: ir.Model, steps: RolledSteps, recurrence: str) -> RecurrentSite:
    site = site_of_scan(
        model,
        steps.rolled.scan,
        recurrence=recurrence,
        name=steps.name,
        form=Form.UNROLLED,
        state_names=steps.rolled.state_names,
    )
    return replace(site, over_depth=steps.over_depth, watched=steps.rolled.watched, chosen=steps.made.texts)


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
