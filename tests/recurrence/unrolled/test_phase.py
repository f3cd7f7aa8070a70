"""Steps are cut apart where their author would, though first steps were folded and last ones trimmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.unrolled.chosen import Chosen
from lsc_graph.recurrence.unrolled.phase import Choice
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.running.reference import Reference

T, D, H = 6, 3, 4
Values = dict[str, str]


def rolled(proto: onnx.ModelProto, choices: Sequence[Choice] = ()) -> RolledSteps:
    """The only recurrence of a model, of which the loop computes the same."""
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    feed = {
        name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    model = normalize(proto, {name: tuple(shape) for name, shape in shapes.items()}, {})
    (steps,), _ = roll_steps(model, lambda part: Reference(part).run(feed), Chosen(tuple(choices)))
    after = Reference(ir.to_proto(model)).run(feed)
    for name, value in Reference(proto).run(feed).items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6)
    return steps


def widths(steps: RolledSteps) -> list[int]:
    body = steps.rolled.scan.attributes["body"].as_graph()
    shapes = [value.shape for value in body.inputs[: len(steps.rolled.state_names)]]
    return sorted(int(shape[-1]) for shape in shapes if shape is not None)


class Folding(Unroller):
    """Leaves out what a step would compute from zeros, which are empty names, as exporters do."""

    def product(self, value: str, weight: str) -> str:
        return value and self.op("MatMul", value, weight)

    def scaled(self, value: str, factor: str) -> str:
        return value and self.op("Mul", value, factor)


def network(step: Callable[[Folding, str, Values], str], states: Sequence[str]) -> onnx.ModelProto:
    """Steps from zeros; `step` returns what is read of a step and updates the states."""
    net = Folding()
    x, w = net.input("x", T, 1, D), net.weight(D, H)
    known: Values = dict.fromkeys(states, "")
    rows = [step(net, net.op("MatMul", at(net, x, time), w), known) for time in range(T)]
    net.output(stacked(net, rows))
    return net.model()


def with_weights(
    step: Callable[[Folding, str, Values, list[str]], str], *shapes: tuple[int, ...]
) -> Callable[[Folding, str, Values], str]:
    """A step with weights that are made once."""
    weights: list[str] = []

    def wrapped(net: Folding, drive: str, known: Values) -> str:
        if not known.get("made"):
            weights[:] = [net.weight(*shape) for shape in shapes]
            known["made"] = "yes"
        return step(net, drive, known, weights)

    return wrapped


def low_rank(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    s["h"] = net.op("Tanh", net.sum(drive, net.product(net.product(s["h"], w[0]), w[1])))
    return s["h"]


def widened(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    """Both signs of what is summed are handed on: the state is twice as wide as the sum."""
    total = net.sum(drive, net.product(s["h"], w[0]))
    both = net.op("Concat", total, net.op("Neg", total), axis=-1)
    s["h"] = net.op("Relu", both)
    return s["h"]


def normed(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    """A norm stands between the state and the recurrent weight."""
    squares = s["h"] and net.op("ReduceSum", net.op("Mul", s["h"], s["h"]), keepdims=1)
    back = s["h"] and net.product(net.op("Div", s["h"], net.op("Sqrt", net.op("Exp", squares))), w[0])
    s["h"] = net.op("Tanh", net.sum(drive, back))
    return s["h"]


def fed_back(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    """What is read of a step comes back through a narrow layer."""
    narrow = s["y"] and net.op("Tanh", net.product(s["y"], w[1]))
    s["h"] = net.op("Tanh", net.sum(drive, net.product(s["h"], w[0]), net.product(narrow, w[2])))
    s["y"] = net.op("Sin", net.product(s["h"], w[3]))
    return s["y"]


def gated(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    gate = net.op("Sigmoid", net.sum(drive, net.product(s["h"], w[0])))
    new = net.op("Tanh", net.sum(drive, net.product(s["h"] and net.op("Mul", gate, s["h"]), w[1])))
    s["h"] = net.sum(net.op("Mul", net.op("Neg", gate), new), s["h"] and net.op("Mul", gate, s["h"]))
    return s["h"]


def long_and_short(net: Folding, drive: str, s: Values, w: list[str]) -> str:
    i, f, o, g = (
        net.op(kind, net.sum(drive, net.product(s["h"], own)))
        for kind, own in zip(("Sigmoid", "Sigmoid", "Sigmoid", "Tanh"), w, strict=True)
    )
    s["c"] = net.sum(s["c"] and net.op("Mul", f, s["c"]), net.op("Mul", i, g))
    s["h"] = net.op("Mul", o, net.op("Tanh", s["c"]))
    return s["h"]


SQUARE = (H, H)
CASES = {
    "a recurrent weight of low rank": (with_weights(low_rank, (H, 2), (2, H)), ["h"], [H]),
    "a state wider than what it is made of": (with_weights(widened, (2 * H, H)), ["h"], [2 * H]),
    "a norm before the recurrent weight": (with_weights(normed, SQUARE), ["h"], [H]),
    "an output that is fed back through less": (
        with_weights(fed_back, SQUARE, (5, 2), (2, H), (H, 5)),
        ["h", "y"],
        [H, 5],
    ),
    "one gate": (with_weights(gated, SQUARE, SQUARE), ["h"], [H]),
    "long and short memory": (with_weights(long_and_short, *[SQUARE] * 4), ["h", "c"], [H, H]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_states_are_those_that_the_steps_were_written_with(name: str) -> None:
    step, states, expected = CASES[name]
    steps = rolled(network(step, states))
    assert (steps.num_steps, widths(steps), steps.open) == (T, expected, ())


def adapting(net: Folding, drive: str, s: Values, w: list[str], *, is_early: bool) -> str:
    """A memory of spikes that is brought up to date at the end of a step, or at the start of the next one."""
    if not is_early:
        s["c"] = net.sum(net.scaled(s["c"], w[1]), s["h"])
    total = net.sum(drive, net.product(s["h"], w[0]))
    s["h"] = net.op("Tanh", net.op("Sub", total, s["c"]) if s["c"] else total)
    if is_early:
        s["c"] = net.sum(net.scaled(s["c"], w[1]), s["h"])
    return s["h"]


def adapting_network(*, is_early: bool) -> onnx.ModelProto:
    def step(net: Folding, drive: str, s: Values, w: list[str]) -> str:
        return adapting(net, drive, s, w, is_early=is_early)

    return network(with_weights(step, SQUARE, (H,)), ["h", "c"])


def handed_on_together(steps: RolledSteps) -> list[tuple[str | None, ...]]:
    """The names of the states, step by step."""
    return list(zip(*steps.rolled.watched, strict=True))


def test_where_nothing_tells_when_a_state_is_computed_the_other_reading_is_named() -> None:
    proto = adapting_network(is_early=True)
    steps = rolled(proto)
    (left_open,) = steps.open
    other = rolled(proto, [left_open.other])
    assert (steps.num_steps, other.num_steps) == (T, T)
    assert (steps.made.cuts, other.made.cuts, other.open) == ((), (left_open.other,), ())
    assert widths(steps) == widths(other) == [H, H]
    assert handed_on_together(steps)[3] != handed_on_together(other)[3]
    assert set(handed_on_together(steps)[3]) & set(handed_on_together(other)[3])


def test_both_ways_to_write_it_leave_the_same_and_are_told_apart_by_choice() -> None:
    first, second = (rolled(adapting_network(is_early=is_early)) for is_early in (True, False))
    assert len(first.open) == len(second.open) == 1
    assert widths(first) == widths(second)


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("is_packed", [True, False])
def test_first_states_that_are_inputs_tell_when_a_state_is_computed(
    *, is_early: bool, is_packed: bool
) -> None:
    net = Folding()
    x, w, weights = net.input("x", T, 1, D), net.weight(D, H), [net.weight(*SQUARE), net.weight(H)]
    packed = net.input("states", 2, 1, H) if is_packed else ""
    known = {n: at(net, packed, k) if packed else net.input(n, 1, H) for k, n in enumerate("hc")}
    rows, expected = [], []
    for time in range(T):
        drive = net.op("MatMul", at(net, x, time), w)
        rows.append(adapting(net, drive, known, weights, is_early=is_early))
        expected.append({known["h"], known["c"]})
    net.output(stacked(net, rows))
    steps = rolled(net.model())
    assert (steps.num_steps, steps.open) == (T, ())
    names = [{name for name in own if name} for own in handed_on_together(steps)]
    assert [own <= wanted for own, wanted in zip(names, expected, strict=True)] == [True] * T
    assert names[:-1] == expected[:-1]


def test_steps_that_cannot_be_cut_as_a_person_says_are_refused() -> None:
    proto = network(with_weights(low_rank, (H, 2), (2, H)), ["h"])
    names = [node.output[0] for node in proto.graph.node if node.op_type == "Tanh"]
    assert rolled(proto, [Choice(names[2], names[3])]).num_steps == T
    with pytest.raises(UsageError, match="cannot be cut apart"):
        rolled(proto, [Choice(names[1], names[4])])


def test_what_comes_before_the_first_step_is_no_step_though_it_looks_like_one() -> None:
    """Two gates see the memory, one before and one after its update, by a product that was merged."""
    net = Unroller()
    x, w, u, peep = net.input("x", T, 1, D), net.weight(D, H), net.weight(H, H), net.weight(H)
    h, c = net.input("h", 1, H), net.input("c", 1, H)
    seen, rows = net.op("Mul", c, peep), []
    for time in range(T):
        drive = net.op("Add", net.op("MatMul", at(net, x, time), w), net.op("MatMul", h, u))
        c = net.op("Add", net.op("Mul", net.op("Sigmoid", net.op("Add", drive, seen)), c), drive)
        seen = net.op("Mul", c, peep)
        h = net.op("Mul", net.op("Sigmoid", net.op("Add", drive, seen)), net.op("Tanh", c))
        rows.append(h)
    net.output(stacked(net, rows))
    steps = rolled(net.model())
    assert (steps.num_steps, widths(steps), steps.open) == (T, [H, H], ())


@pytest.mark.parametrize("is_given", [True, False])
def test_what_else_is_done_to_the_last_state_is_no_part_of_a_step_to_come(*, is_given: bool) -> None:
    """The last observation, carried on where there is none, and how it decays: both are products."""
    net = Folding()
    x, mask, decay = (net.input(name, T, 1, D) for name in ("x", "mask", "decay"))
    last, known, outside = net.input("last", 1, D) if is_given else "", [], []
    missing = net.op("Sub", net.constant([1.0]), mask)
    for time in range(T):
        seen = net.op("Mul", at(net, mask, time), at(net, x, time))
        last = net.sum(seen, net.scaled(last, at(net, missing, time)))
        known.append(last)
        outside.append(net.op("Mul", last, net.op("Exp", at(net, decay, time))))
    net.output(stacked(net, outside))
    steps = rolled(net.model())
    assert (steps.num_steps, widths(steps), steps.open) == (T, [D], ())
    names = {name for own in handed_on_together(steps) for name in own if name}
    assert names <= {"last", *known}
