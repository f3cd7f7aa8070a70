"""First steps that an exporter has simplified away because they start from constants, put back."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.before_loops import entry_of, value_before, with_start
from lsc_graph.recurrence.unrolled.constants import Constants, is_offset
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads, Slices, find_earlier_reads, nodes_before
from lsc_graph.recurrence.unrolled.slices import leading_slices, size_along, slices_behind, time_slice
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter

_TOLERANCE = 1e-5
_MOST_BEGINNINGS = 8


def put_back_first_steps(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    constants: Constants,
    writer: GraphWriter,
    trial: Trial,
    *,
    lifts: bool = True,
) -> int:
    """Let the recurrence start earlier, if that gives the states that it starts with; returns by how much.

    It starts from what is known to stand there, and from zeros where nothing is.
    Whether it may is settled by running both in ONNX Runtime. `lifts` says how `reads` were found.
    """
    for count in range(max(1, steps.num_lacking)):
        earlier = earlier_reads(steps, reads, constants, writer, lifts=lifts)
        if earlier is None or not _put_back(model, steps, reads, earlier, nodes, constants, writer, trial):
            return count
    return max(1, steps.num_lacking)


def num_apart(steps: Steps, reads: Reads, constants: Constants) -> int:
    """How many steps before the first are computed in another way: their slices enter the first states."""
    ranges = sorted(reads.slices.values(), key=lambda own: len(_before(own)))
    earlier = _before_own(reads, constants)
    for own in ranges:
        earlier |= dict.fromkeys(_read_along(own.source, own.axis), _before(own))
        for place, left_out in _left_out_before(own.source, own.axis, constants).items():
            earlier[place] = max(earlier.get(place, range(0)), left_out, key=len)
    for place, before in _before_read(reads, constants).items():
        earlier[place] = max(earlier.get(place, range(0)), before, key=len)
    taken = _all_slices((lane[0] for lane in steps.states.values()), constants)
    return max((len(indices & {*earlier.get(place, ())}) for place, indices in taken.items()), default=0)


def _before_own(reads: Reads, constants: Constants) -> dict[tuple[ir.Value, int], range]:
    """What comes before the slices that each step computes something of its own from, as by own weights."""
    found = dict[tuple[ir.Value, int], range]()
    for values in reads.stacks.values():
        behind = {step: slices_behind(value, constants) for step, value in enumerate(values)}
        for (source, axis), sign, difference in leading_slices(behind):
            size, first = size_along(source, axis), sign * difference
            if size is not None:
                found[source, axis] = range(first) if sign == 1 else range(first + 1, size)
    return found


def _before_read(reads: Reads, constants: Constants) -> dict[tuple[ir.Value, int], range]:
    """What comes before the newest slices that steps compute something from, as layers below do."""
    found = dict[tuple[ir.Value, int], range]()
    for values in reads.stacks.values():
        first, second = (_all_slices([value], constants) for value in values[:2])
        for source, axis in first.keys() & second.keys():
            old, new, size = first[source, axis], second[source, axis], size_along(source, axis)
            if max(new) == max(old) + 1:
                found[source, axis] = range(max(old))
            elif size is not None and min(new) == min(old) - 1:
                found[source, axis] = range(min(old) + 1, size)
    return found


def _all_slices(
    values: Iterable[ir.Value | None], constants: Constants
) -> dict[tuple[ir.Value, int], set[int]]:
    """Which slices of which sequences values are computed from, on whatever way."""
    found: defaultdict[tuple[ir.Value, int], set[int]] = defaultdict(set)
    seen = {value for value in values if value is not None}
    pending = list(seen)
    while pending:
        value = pending.pop()
        taken = time_slice(value, constants)
        if taken is not None:
            found[taken.source, taken.axis].add(taken.index)
        node = value.producer()
        fresh = set(inputs_of(node) if node is not None else ()) - seen
        seen |= fresh
        pending += fresh
    return found


def _read_along(source: ir.Value, axis: int) -> dict[tuple[ir.Value, int], None]:
    """A sequence and its axis, and those that the loops which write it read at the same times."""
    found, pending = {(source, axis): None}, [source]
    while pending:
        node = pending.pop().producer()
        if node is None or node.op_type != "Scan":
            continue
        read = node.inputs[len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0) :]
        places = [
            (value, entry_of(node, "scan_input_axes", i)) for i, value in enumerate(read) if value is not None
        ]
        pending += [place[0] for place in places if place not in found]
        found |= dict.fromkeys(places)
    return found


def _left_out_before(source: ir.Value, axis: int, constants: Constants) -> dict[tuple[ir.Value, int], range]:
    """What comes before the parts of sequences that the loops read which write a sequence."""
    found = {}
    for value, place in _read_along(source, axis):
        node = value.producer()
        if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != place:
            continue
        whole, where = node.inputs
        indices = constants.array(where) if where is not None else None
        if whole is not None and indices is not None and indices.ndim == 1 and indices.size > 1:
            found[whole, place] = _before(Slices(whole, place, False, tuple(indices.tolist())))
    return found


def _before(slices: Slices) -> range:
    """The indices that come before those that the steps read, if they read one after the other."""
    size, first = (slices.source.shape or ())[slices.axis], slices.indices[0]
    if slices.stride not in (1, -1) or not isinstance(size, int):
        return range(0)
    return range(first) if slices.stride == 1 else range(first + 1, size)


def _put_back(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    earlier: Reads,
    nodes: Sequence[ir.Node],
    constants: Constants,
    writer: GraphWriter,
    trial: Trial,
) -> bool:
    if not _is_computed(steps, constants) or any(static_shape(key) is None for key in steps.states):
        return False
    starts = [steps.states[key][0] for key in steps.states]
    possible = itertools.islice(_beginnings(steps, writer), _MOST_BEGINNINGS)
    initial = next((own for own in possible if agree(model, steps, nodes, earlier, own, trial)), None)
    if initial is None:
        return False
    _compute_again(steps, earlier, writer)
    _join_states(reads, earlier, writer)
    steps.num_steps += 1
    steps.position += 1
    steps.num_put_back += 1
    for lane in steps.nodes.values():
        lane.insert(0, None)
    for images in steps.values.values():
        images.insert(0, None)
    for key, images in steps.outside.items():
        images.insert(0, next(iter(steps.outside_earlier.get(key, [])), None))
    firsts = {steps.after[key]: start for key, start in zip(steps.states, starts, strict=True)}
    for key in steps.states:
        steps.states[key].insert(0, initial[key])
    for key, own in steps.derived.items():
        firsts[own.result] = own.images[0]
        own.images.insert(0, next(iter(steps.earlier.get(key, [])), None))
    steps.earlier = {key: images[1:] for key, images in steps.earlier.items()}
    steps.outside_earlier = {key: images[1:] for key, images in steps.outside_earlier.items()}
    reads.update(earlier)
    _compute_in_step(firsts, steps, nodes_before(steps, reads))
    return True


def _compute_in_step(
    firsts: Mapping[ir.Value, ir.Value | None], steps: Steps, before: Collection[ir.Node]
) -> None:
    """Let values that the states began with be those of the first step, unless other recurrences read them,
    which the steps read in turn.
    """
    for result, first in firsts.items():
        node = first.producer() if first is not None else None
        if result in steps.values and node is not None and node not in before:
            steps.values[result][0] = first


def earlier_reads(
    steps: Steps, reads: Reads, constants: Constants, writer: GraphWriter, *, lifts: bool
) -> Reads | None:
    """What is sliced and stacked, with one more in front; if that cannot be seen, as it goes on."""
    known, found = find_earlier_reads(steps, constants, lifts=lifts), Reads(reads.captures)
    for key, slices in reads.slices.items():
        one = known.slices.get(key) or slices.longer(1, 0)
        state = value_before(slices, writer) if one is None else None
        if one is not None:
            found.slices[key] = one
        elif state is not None:
            found.stacks[key] = (state,)
        elif _lags(slices, reads):
            found.stacks[key] = (_zeros(key, writer),)
        else:
            return None
    for key, values in reads.stacks.items():
        before = next(iter(steps.outside_earlier.get(key, ())), None)
        stack = (
            known.stacks.get(key)
            or ((key, *values) if is_offset(key) else None)
            or (_one_more_constant(values, constants) if before is None else (before, *values))
            or _read_as_start(steps, values, constants)
        )
        if stack is None:
            return None
        found.stacks[key] = stack
    return found


def _lags(slices: Slices, reads: Reads) -> bool:
    """Whether steps read the slices of steps before theirs, as of token shift: before the first one there is
    none, and what is computed from zeros in its place was folded.
    """
    size, stride = size_along(slices.source, slices.axis), slices.stride
    ahead = [own for own in reads.slices.values() if (own.source, own.axis) == (slices.source, slices.axis)]
    is_at_edge = size is not None and slices.indices[0] == (0 if stride == 1 else size - 1)
    return is_at_edge and any(own.stride == stride and own.longer(1, 0) is not None for own in ahead)


def _read_as_start(
    steps: Steps, values: tuple[ir.Value, ...], constants: Constants
) -> tuple[ir.Value, ...] | None:
    """What is left of a step from zeros that adds what it reads: that, which is its new state, too."""
    starts = {lane[0] for lane in steps.states.values()}
    found = [v for v in starts if v is not None and _is_made_alike(v, values[0], constants)]
    return (found[0], *values) if len(found) == 1 else None


def _is_made_alike(first: ir.Value, second: ir.Value, constants: Constants) -> bool:
    """Whether two values are computed by the same operators with some weight, each from its own slices."""
    pending, seen = [(first, second)], {(first, second)}
    while pending:
        pair = pending.pop()
        one, two = (value.producer() for value in pair)
        if one is None or two is None or one is two or not is_alike(one, two):
            continue
        inputs = [
            (a, b) for a, b in zip(one.inputs, two.inputs, strict=True) if a is not None and b is not None
        ]
        if any(constants.is_weight(a) and constants.same(a, b) for a, b in inputs):
            return True
        fresh = [own for own in inputs if own not in seen]
        seen.update(fresh)
        pending += fresh
    return False


def _compute_again(steps: Steps, reads: Reads, writer: GraphWriter) -> None:
    """Values that are both read by a step and its new state are computed once more, to be read."""
    starts = {lane[0] for lane in steps.states.values()}
    for key, values in reads.stacks.items():
        node = values[0].producer()
        if values[0] in starts and node is not None:
            again: dict[ir.Value, ir.Value] = {}
            writer.repeat([node], again)
            reads.stacks[key] = (again[values[0]], *values[1:])


def _join_states(reads: Reads, earlier: Reads, writer: GraphWriter) -> None:
    """Sequences with the one in front that a loop starts from, or zeros, where steps read it."""
    for key in earlier.stacks.keys() & reads.slices.keys():
        (start,) = earlier.stacks.pop(key)
        earlier.slices[key] = with_start(reads.slices[key], start, writer)


def _one_more_constant(values: tuple[ir.Value, ...], constants: Constants) -> tuple[ir.Value, ...] | None:
    """A constant of an operation that was simplified away: as in the next step, unless they count."""
    if any(constants.array(value) is None for value in values):
        return None
    return constants.going_on(values, 1, 0) or (values[0], *values)


def _is_computed(steps: Steps, constants: Constants) -> bool:
    """Whether first states are results of nodes, constants aside; given ones are real starts."""
    starts = [lane[0] for lane in steps.states.values()]
    is_given = any(start is None or start.is_graph_input() for start in starts)
    return not is_given and any(start is not None and start not in constants for start in starts)


def _beginnings(steps: Steps, writer: GraphWriter) -> Iterator[dict[ir.Value, ir.Value]]:
    """What each state may be before the earlier step: what is known, zeros, or else a constant.

    An exporter that computed with the constant may have found it unchanged: -1e30 - 1 is -1e30. States of
    several steps before may all start from the same.
    """
    known = {key: images[0] for key, images in steps.earlier.items() if images}
    possible = []
    for key in steps.states:
        if (own := known.get(key)) is not None:
            possible.append([own])
        else:
            others = [value for value in known.values() if value is not None and _is_like(value, key)]
            possible.append([*dict.fromkeys((_zeros(key, writer), *_constants_for(key, steps), *others))])
    for values in itertools.product(*possible):
        yield dict(zip(steps.states, values, strict=True))


def _constants_for(key: ir.Value, steps: Steps) -> list[ir.Value]:
    """Constants that stand in the earlier step for what is computed from a state."""
    found = {
        value: None
        for result, value in _known_earlier(steps).items()
        if _reads(result, key) and value.is_initializer() and _is_like(value, key)
    }
    return list(found)


def _known_earlier(steps: Steps) -> dict[ir.Value, ir.Value]:
    """What is known of the values that the earlier step computes."""
    lanes = {key: images[steps.num_put_back :] for key, images in steps.begun.items() if key in steps.values}
    return {key: own for key, images in lanes.items() if images and (own := images[0]) is not None}


def _reads(result: ir.Value, key: ir.Value) -> bool:
    node = result.producer()
    return node is not None and key in node.inputs


def _is_like(value: ir.Value, key: ir.Value) -> bool:
    shape = static_shape(value)
    return shape is not None and shape == static_shape(key) and value.dtype == key.dtype


def _zeros(key: ir.Value, writer: GraphWriter) -> ir.Value:
    dtype = key.dtype or ir.DataType.FLOAT
    return writer.constant(np.zeros(static_shape(key) or (), dtype=dtype.numpy()), f"{key.name}.zeros")


def agree(
    model: ir.Model,
    steps: Steps,
    nodes: Sequence[ir.Node],
    earlier: Reads,
    initial: Mapping[ir.Value, ir.Value],
    trial: Trial,
    standing: Mapping[ir.Value, ir.Value] | None = None,
) -> bool:
    """Whether the step, applied one step earlier, gives the states that the recurrence starts with.

    So it has to give whatever else is known of that step; what is `standing` there is not computed.
    """
    writer = GraphWriter("lsc_graph.first_step", None)
    computed = stepped(steps, earlier, nodes, initial, writer, standing)
    starts = [lane[0] for lane in steps.states.values()]
    first = [computed[steps.after[key]] for key in steps.states]
    for key, value in _known_earlier(steps).items():
        if key in computed and _is_like(value, key):
            starts.append(value)
            first.append(computed[key])
    is_equal = are_equal(model, starts, first, trial)
    writer.discard()
    return is_equal


def stepped(
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    initial: Mapping[ir.Value, ir.Value],
    writer: GraphWriter,
    standing: Mapping[ir.Value, ir.Value] | None = None,
) -> dict[ir.Value, ir.Value]:
    """The pattern step's values, computed from initial states and what the first step reads by new nodes.

    Values that are `standing` there are not computed.
    """
    known = dict(reads.captures) | dict(initial)
    known |= {key: values[0] for key, values in reads.stacks.items()}
    for key, read in reads.slices.items():
        index = [read.indices[0]] if read.keeps_axis else read.indices[0]
        where = writer.constant(np.array(index, dtype=np.int64), "index")
        known[key] = writer.op("Gather", [read.source, where], "x", key.shape, key.dtype, axis=read.axis)
    steps.derive(known, writer)
    for node in nodes:
        writer.repeat([node], known)
        known |= {value: own for value, own in (standing or {}).items() if value in node.outputs}
    return known


def are_equal(
    model: ir.Model,
    first: Sequence[ir.Value | None],
    second: Sequence[ir.Value | None],
    trial: Trial,
) -> bool:
    """Whether values hold the same on a sample; they may be computed by nodes that no graph has yet.

    What cannot be computed, as for sizes that do not fit each other, is nothing.
    """
    try:
        results = values_on_sample(model, [value for value in (*first, *second) if value is not None], trial)
    except AnalysisError:
        return False
    return all(is_close(*pair) for pair in zip(results[: len(first)], results[len(first) :], strict=True))


def values_on_sample(model: ir.Model, wanted: Sequence[ir.Value], trial: Trial) -> list[np.ndarray]:
    """Values of the graph, with copies of the nodes that it lacks added for the time being.

    Raises:
        AnalysisError: they cannot be computed.
    """
    graph, writer, known = model.graph, GraphWriter("lsc_graph.trial", None), dict[ir.Value, ir.Value]()
    writer.repeat(_loose(wanted), known)
    graph.extend(writer.nodes)
    names = [str(known.get(value, value).name) for value in wanted]
    try:
        piece = ir.convenience.extract(graph, [str(value.name) for value in graph.inputs], names)
    finally:
        graph.remove(writer.nodes, safe=False)
        writer.discard()
    piece.opset_imports.update(model.opset_imports)
    results = trial(ir.to_proto(ir.Model(piece, ir_version=model.ir_version)))
    return [results[name] for name in names]


def _loose(values: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that values are computed by and that are not part of a graph, each after its sources."""
    found: dict[ir.Node, None] = {}
    pending = [(value, False) for value in values]
    while pending:
        value, is_ready = pending.pop()
        node = value.producer()
        if node is None or node.graph is not None or node in found:
            continue
        if is_ready:
            found[node] = None
        else:
            pending += [(value, True), *((source, False) for source in inputs_of(node))]
    return list(found)


def is_close(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are equal, rounding aside."""
    return first.shape == second.shape and np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE)
