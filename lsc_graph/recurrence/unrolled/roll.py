"""Steps that were written out one after another, brought back to a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import RECURRENT_OPS, remove_unused
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.chains import (
    MIN_STEPS,
    SLICES_ARE_A_CHAIN,
    Chain,
    Order,
    find_chains,
    repeated_uses,
)
from lsc_graph.recurrence.unrolled.chosen import Chosen
from lsc_graph.recurrence.unrolled.constants import Constants, evidence_of
from lsc_graph.recurrence.unrolled.continuation import check_end
from lsc_graph.recurrence.unrolled.derived import merge_derived
from lsc_graph.recurrence.unrolled.equal_numbers import merge_over_equal_numbers
from lsc_graph.recurrence.unrolled.factors import write_factors_of_one
from lsc_graph.recurrence.unrolled.first_heads import find_first_heads
from lsc_graph.recurrence.unrolled.first_step import num_apart, put_back_first_steps
from lsc_graph.recurrence.unrolled.folded_starts import write_out_start
from lsc_graph.recurrence.unrolled.lanes import StepsDifferError
from lsc_graph.recurrence.unrolled.paired import joined_times
from lsc_graph.recurrence.unrolled.phase import Choice, OpenChoice
from lsc_graph.recurrence.unrolled.reads import Reads, find_reads, is_reverse, times_per_step
from lsc_graph.recurrence.unrolled.rolled import Rolled, Roller
from lsc_graph.recurrence.unrolled.sequence_chains import find_sequence_chains, is_running_total
from lsc_graph.recurrence.unrolled.shared_starts import write_starts_apart
from lsc_graph.recurrence.unrolled.start_search import ASSUMED, SOLVED, VERIFIED
from lsc_graph.recurrence.unrolled.start_values import compute_start_values_apart
from lsc_graph.recurrence.unrolled.stateless import leave_out
from lsc_graph.recurrence.unrolled.steps import Steps, find_steps, leave_heads_out, leave_last_step_out
from lsc_graph.recurrence.unrolled.strided import find_strided_chains
from lsc_graph.recurrence.unrolled.substeps import Substeps
from lsc_graph.recurrence.unrolled.sums_alike import nest_sums_alike
from lsc_graph.recurrence.writer import GraphWriter, Names
from lsc_graph.recurrence.written.places import is_write
from lsc_graph.results import Refusal

MIN_OPSET = 13
_SCOPES = "pkg.torch.onnx.name_scopes"
MAX_TRIMMED = 4
_FEW_ELEMENTS = 2
_NOTHING = Chosen()


class _WrittenOutError(Exception):
    """A first step that was folded has been written out: the steps are to be found anew."""


@dataclass(frozen=True)
class RolledSteps:
    """An unrolled recurrence and the Scan that took its place.

    `name` is unique in the model; `over_depth` says that the steps read no sequence and leave none:
    they are layers that share their weights. `num_apart` steps before the first are computed in another way,
    and `num_left_out` behind the last lack what nobody reads.
    `times` names a sequence of which each step reads several times, and how many. `start` says how well it
    is known that constants of the first step were computed from its start, see `start_search.Start`.
    """

    name: str
    weight: str
    rolled: Rolled
    num_steps: int
    num_nodes: int
    over_depth: bool
    num_apart: int
    num_left_out: int
    times: tuple[str, int] | None
    made: Chosen
    open: tuple[OpenChoice, ...]
    start: str | None


def has_steps(model: ir.Model) -> bool:
    """Whether anything is used in a chain: only then is there something to roll."""
    order, constants = Order(model.graph), Constants(model.graph)
    found = bool(find_chains(order, constants)[0])
    return found or any(True for _ in find_sequence_chains(order, constants))


def roll_steps(
    model: ir.Model, trial: Trial | None, chosen: Chosen = _NOTHING
) -> tuple[tuple[RolledSteps, ...], tuple[Refusal, ...]]:
    """Replace every unrolled recurrence of a normalised model by a Scan, in place.

    What the file computes twice is computed once from here on, as most exporters have it already.

    Args:
        model: normalised model.
        trial: runs parts of the model; without it, a first step that was simplified away stays outside.
        chosen: where steps are cut apart and what is no state, as far as a person says so.

    Returns:
        What was rolled up, in the order of the dataflow, and why other repeated uses of constants were not,
        those that are left of them.

    Raises:
        UsageError: what was chosen cannot be.
    """
    version = model.opset_imports.get("", 0)
    passes.CommonSubexpressionEliminationPass()(model)
    merge_over_equal_numbers(model.graph)
    write_factors_of_one(model.graph)
    nest_sums_alike(model.graph)
    write_starts_apart(model.graph)
    found: list[RolledSteps] = []
    refused: dict[str, Refusal] = {}
    sliced: set[str] = set()
    tried: set[tuple[str, int, ir.Node, int]] = set()
    while True:
        order, constants = Order(model.graph), Constants(model.graph)
        chains, others = find_chains(order, constants)
        substeps = Substeps(order, constants)
        turns = [(_in_turn(chains, order, constants, substeps), 0)]
        turns += [(_single_numbers(model, order), len(found))] if found else []
        for chain, turn in ((chain, turn) for own, turn in turns for chain in own):
            name = str(chain.constant.name)
            key = (name, len(chain.nodes), chain.nodes[-1], turn)
            is_known = name in refused and not chain.is_sequence and not chain.is_part and not turn
            if is_known or key in tried:
                continue
            tried.add(key)
            try:
                if version < MIN_OPSET:
                    raise StepsDifferError((), f"operator set {version} is too old, {MIN_OPSET} is needed")
                of_steps = substeps.first_uses(chain)
                found.append(_roll(model, of_steps, order, constants, trial, chosen))
                refused.pop(name, None)
                break
            except _WrittenOutError:
                tried.discard(key)
                break
            except StepsDifferError as error:
                what = SLICES_ARE_A_CHAIN if chain.is_sequence else "uses are a chain"
                reason = f"its {len(chain.nodes)} {what}, but {error.reason}"
                refused.setdefault(name, Refusal(name, "unrolled", reason))
                sliced |= {name} if chain.is_sequence else set()
        else:
            for other in others:
                name = str(other.constant.name)
                refused[name] = Refusal(name, "unrolled", other.reason)
            left = {str(constant.name) for constant, _ in repeated_uses(order, constants)}
            return tuple(found), tuple(r for name, r in refused.items() if name in left | sliced)


def _in_turn(
    chains: Sequence[Chain], order: Order, constants: Constants, substeps: Substeps
) -> Iterator[Chain]:
    """Chains in the order in which they are tried: the surest first."""
    long = [chain for chain in chains if len(chain.nodes) >= MIN_STEPS]
    doubtful = [chain for chain in long if _is_doubtful(chain, long, order, constants)]
    yield from (chain for chain in long if not chain.is_part and chain not in doubtful)
    yield from find_strided_chains(order, constants, substeps)
    yield from (chain for chain in long if chain.is_part and chain not in doubtful)
    yield from find_sequence_chains(order, constants)
    yield from doubtful
    yield from (chain for chain in chains if len(chain.nodes) < MIN_STEPS)


def _is_doubtful(chain: Chain, others: Sequence[Chain], order: Order, constants: Constants) -> bool:
    """Whether a matrix is used several times for each use of a vector or number: that may number sequences.

    Where one cell is applied to one sequence after the other, a constant that only its first step reads is
    used once for each of them.
    """
    if constants.is_matrix(chain.constant):
        return False
    first, last = order.index[chain.nodes[0]], order.index[chain.nodes[-1]]
    return any(
        len(other.nodes) >= 2 * len(chain.nodes)
        and constants.is_matrix(other.constant)
        and first <= order.index[other.nodes[-1]]
        and order.index[other.nodes[0]] <= last
        for other in others
    )


def _roll(
    model: ir.Model,
    chain: Chain,
    order: Order,
    constants: Constants,
    trial: Trial | None,
    chosen: Chosen,
) -> RolledSteps:
    steps, reads, num_dropped = _alike_steps(chain, order, constants, chosen.cuts)
    if len(chain.nodes) < MIN_STEPS:
        check_end(steps, order, constants)
    if chain.is_part and (far := [r for r in reads.slices.values() if abs(r.stride or 0) > 1]):
        raise StepsDifferError(
            (), f"they read every {abs(far[0].stride or 0)}. slice of {far[0].source.name}"
        )
    is_read = bool(reads.slices) or any(v not in constants for lane in reads.stacks.values() for v in lane)
    if any(node.op_type in RECURRENT_OPS for node in steps.nodes):
        raise StepsDifferError((), "its steps are recurrences over time themselves, which are layers")
    if chain.is_sequence and not steps.heads and is_running_total(iter(steps.nodes)):
        raise StepsDifferError((), "its steps only add up: a running total, as in pooling")
    if any(_is_only_written(steps, key) for key in steps.states):
        raise StepsDifferError((), "its steps write into a buffer of which no step reads anything")
    is_number = constants.num_elements(chain.constant) < _FEW_ELEMENTS
    if not reads.slices and len(chain.nodes) < MIN_STEPS and not constants.is_matrix(chain.constant):
        raise StepsDifferError((), "it is no matrix, and its steps read no sequence")
    joined = joined_times(reads)
    if joined and len(chain.nodes) < MIN_STEPS and chain.nodes[0].op_type == "Mul":
        raise StepsDifferError(
            (), f"{joined[1]} times of {joined[0]} are joined before each: a level of a parallel scan"
        )
    if not reads.slices and is_number and not _is_read_by_steps(steps):
        raise StepsDifferError((), "it is a single number, and its steps read no sequence")
    nodes = sorted([*steps.nodes, *reads.lifted], key=order.index.__getitem__)
    if trial is not None and write_out_start(model, steps, reads, nodes, order, constants, trial):
        raise _WrittenOutError
    weight = f"{chain.constant.name}.steps" if chain.is_sequence else str(chain.constant.name)
    name = Names(model.graph).unique_prefix(_label(chain.nodes[0], weight), for_node=True)
    writer = GraphWriter(name, chain.constant.dtype)
    left_out: tuple[str, ...] = ()
    count = 0
    if trial is not None:
        left_out = leave_out(model, steps, reads, nodes, writer, trial, chosen.stateless)
        count = put_back_first_steps(model, steps, reads, nodes, constants, writer, trial)
        if not count and num_apart(steps, reads, constants):
            plain, own = (
                _reads(steps, constants, len(chain.nodes), lifts=False),
                [n for n in nodes if n in steps.nodes],
            )
            count = put_back_first_steps(model, steps, plain, own, constants, writer, trial, lifts=False)
            reads, nodes = (plain, own) if count else (reads, nodes)
        if count and num_apart(steps, reads, constants):
            _write_out_zeros(model, chain, order, constants, trial, chosen, writer)
    find_first_heads(steps, reads, order, constants)
    if steps.num_steps < MIN_STEPS:
        raise StepsDifferError((), f"at least {MIN_STEPS} steps are needed to tell")
    if trial is not None:
        merge_derived(model, steps, reads, nodes, constants, writer, trial)
    compute_start_values_apart(steps, order, constants, writer)
    times = times_per_step(reads)
    apart = max(num_apart(steps, reads, constants), num_dropped - count)
    roller = Roller(steps, reads, writer, nodes, is_reverse=is_reverse(reads, constants))
    rolled = roller.write()
    model.graph.extend(writer.nodes)
    passes.TopologicalSortPass()(model)
    remove_unused(model)
    is_left = any(axis is not None for axis in roller.joined_axes)
    return RolledSteps(
        name=name,
        weight=weight,
        rolled=rolled,
        num_steps=steps.num_steps,
        num_nodes=len(nodes),
        over_depth=not is_read and not is_left,
        num_apart=apart,
        num_left_out=steps.num_left_out,
        times=times,
        made=Chosen(steps.made, left_out),
        open=steps.open,
        start=_evidence(reads),
    )


def _write_out_zeros(
    model: ir.Model,
    chain: Chain,
    order: Order,
    constants: Constants,
    trial: Trial,
    chosen: Chosen,
    writer: GraphWriter,
) -> None:
    """Where a step that starts from zeros hides one before it that starts from more, write it out.

    Raises:
        _WrittenOutError: it is written out, and not what the writer has.
    """
    steps, reads, _ = _alike_steps(chain, order, constants, chosen.cuts)
    nodes = sorted([*steps.nodes, *reads.lifted], key=order.index.__getitem__)
    is_hidden = steps.num_lacking > 1
    if is_hidden and write_out_start(model, steps, reads, nodes, order, constants, trial, is_zero=True):
        writer.discard()
        raise _WrittenOutError


def _evidence(reads: Reads) -> str | None:
    """How well it is known what steps start from of which the first was written out; the least of it."""
    found = {evidence_of(value) for values in reads.stacks.values() for value in values}
    return next((own for own in (ASSUMED, SOLVED, VERIFIED) if own in found), None)


def _single_numbers(model: ir.Model, order: Order) -> Iterator[Chain]:
    """Chains that may be told once others are rolled up: by the steps that read what they compute."""
    constants = Constants(model.graph, ties_numbers=True)
    for chain in find_chains(order, constants)[0]:
        if len(chain.nodes) >= MIN_STEPS and constants.num_elements(chain.constant) < _FEW_ELEMENTS:
            yield chain


def _is_read_by_steps(steps: Steps) -> bool:
    """Whether the steps of a loop read what each step computes, as of a state that decays by itself."""
    return any(
        set.intersection(*(_loops_over(value) for value in images if value is not None))
        for images in steps.values.values()
    )


def _loops_over(value: ir.Value) -> set[ir.Node]:
    """The Scans that read a sequence of which a value is a row."""
    rows = [use.node.outputs[0] for use in value.uses() if use.node.op_type == "Unsqueeze"]
    joined = [use.node.outputs[0] for row in rows for use in row.uses() if use.node.op_type == "Concat"]
    return {use.node for whole in joined for use in whole.uses() if _is_sequence_of(use.node, use.idx)}


def _is_sequence_of(node: ir.Node, position: int) -> bool:
    first = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    return node.op_type == "Scan" and position >= first


def _is_only_written(steps: Steps, key: ir.Value) -> bool:
    """Whether a state is a buffer that its steps write results into: no step depends on it."""
    writer = steps.after[key].producer()
    return (
        is_write(writer)
        and writer in steps.nodes
        and {use.node for use in key.uses()} & steps.nodes.keys() == {writer}
        and not any(use.node is writer and use.idx for use in key.uses())
    )


def _alike_steps(
    chain: Chain, order: Order, constants: Constants, choices: Sequence[Choice]
) -> tuple[Steps, Reads, int]:
    """The longest run of steps that are alike, and how many before them are not.

    The first and the last may have been simplified.
    """
    nodes, num_dropped = chain.nodes, 0
    while True:
        try:
            return *_steps_and_reads(nodes, order, constants, choices), num_dropped
        except StepsDifferError as error:
            first, last = 0 in error.steps, len(nodes) - 1 in error.steps
            is_inner = any(0 < step < len(nodes) - 1 for step in error.steps)
            nodes, num_dropped = nodes[first : len(nodes) - last], num_dropped + first
            fewest = max(MIN_STEPS, len(chain.nodes) - MAX_TRIMMED)
            if is_inner or not (first or last) or len(nodes) < fewest:
                raise


def _steps_and_reads(
    anchors: Sequence[ir.Node], order: Order, constants: Constants, choices: Sequence[Choice]
) -> tuple[Steps, Reads]:
    """Steps with the read-outs that read slices; without these, if the sequences do not fit the steps."""
    try:
        steps = find_steps(order, constants, anchors, choices, with_slices=True)
        reads = _reads(steps, constants, len(anchors))
        while others := _read_by_heads_alone(steps, reads):
            leave_heads_out(steps, _depending(others, reads))
            reads = _reads(steps, constants, len(anchors))
        return steps, reads
    except StepsDifferError:
        pass
    steps = find_steps(order, constants, anchors, choices)
    return steps, _reads(steps, constants, len(anchors))


def _read_by_heads_alone(steps: Steps, reads: Reads) -> set[ir.Value]:
    """What is no slice, and no state reads it: it belongs to what comes after the steps, or stands beside."""
    lifted = {value: node for node in reads.lifted for value in node.outputs}
    pending = [value for node in steps.nodes.keys() - steps.heads for value in node.inputs]
    read = set(pending)
    while pending:
        value = pending.pop()
        node = lifted.get(value) if value is not None else None
        fresh = set(node.inputs if node is not None else ()) - read
        read |= fresh
        pending += fresh
    return set(reads.stacks) - read


def _depending(values: set[ir.Value], reads: Reads) -> set[ir.Value]:
    """The values, and what each step computes from them before it uses them."""
    found, is_more = set(values), True
    while is_more:
        fresh = {v for node in reads.lifted if found.intersection(node.inputs) for v in node.outputs} - found
        found, is_more = found | fresh, bool(fresh)
    return found


def _reads(steps: Steps, constants: Constants, num_uses: int, *, lifts: bool = True) -> Reads:
    try:
        return find_reads(steps, constants, lifts=lifts)
    except StepsDifferError as error:
        if error.steps == (steps.num_steps - 1,) and steps.num_steps > MIN_STEPS and not steps.num_left_out:
            leave_last_step_out(steps)
            return _reads(steps, constants, num_uses, lifts=lifts)
        raise error.in_chain(steps.num_steps, num_uses) from error


def _label(anchor: ir.Node, weight: str) -> str:
    """The module that the exporter says the step belongs to, and the weight."""
    text = anchor.metadata_props.get(_SCOPES, "")
    scopes = [part.strip(" '\"") for part in text.strip("[]").split(",")]
    named = [scope for scope in scopes[:-1] if scope]
    return f"{named[-1]}/{weight}" if named else weight
