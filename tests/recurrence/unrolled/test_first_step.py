"""First steps that were simplified away are put back; where that cannot be, the report says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Network, Unroller, at, rolled, stacked

from lsc_graph.audit_model import audit, inspect

T, H = 6, 4


def with_folded_bias(error: float, *, reads_from_end: bool = False) -> onnx.ModelProto:
    """h' = tanh(x W + (h U + b)), of which the first bracket is a constant that may be rounded."""
    net = Network(is_given=False, num_steps=T)
    u, b = net.weight(H, H), net.weight(H)
    folded = net.constant(net.initializers[b][None] + error)
    h, rows = "", list[str]()
    for time in range(T):
        back = net.op("Add", net.op("MatMul", h, u), b) if h else folded
        drive = at(net, net.drives, T - 1 - time if reads_from_end else time)
        h = net.op("Tanh", net.op("Add", drive, back))
        rows.append(h)
    return net.done(rows, rows)


@pytest.mark.parametrize("reads_from_end", [False, True])
@pytest.mark.parametrize(("error", "is_told"), [(0.0, False), (0.01, True)])
def test_a_first_step_with_another_constant_than_zeros_give_has_another_start(
    error: float, *, is_told: bool, reads_from_end: bool
) -> None:
    proto = with_folded_bias(error, reads_from_end=reads_from_end)
    steps = rolled(proto)
    assert (steps.num_steps, steps.num_apart) == (T, 0)
    told = [text for text in inspect(proto).warnings if "taken for a start" in text]
    assert len(told) == is_told


def test_a_first_step_with_a_constant_that_no_start_is_known_to_give_stays_apart_and_is_named() -> None:
    """h' = tanh(x W + log|h| U)."""
    net = Network(is_given=False, num_steps=T)
    u, h, rows = net.weight(H, H), "", list[str]()
    for time in range(T):
        back = net.op("MatMul", net.op("Log", net.op("Abs", h)), u) if h else net.weight(1, H)
        h = net.op("Tanh", net.op("Add", at(net, net.drives, time), back))
        rows.append(h)
    proto = net.done(rows, rows)
    steps = rolled(proto)
    assert (steps.num_steps, steps.num_apart) == (T - 1, 1)
    (told,) = [text for text in inspect(proto).warnings if "computed in another way" in text]
    assert f"of {T} steps the first 1" in told


@pytest.mark.parametrize("start", ["given", "zeros"])
def test_slices_that_no_first_state_is_computed_from_are_no_steps(start: str) -> None:
    net = Network(is_given=True, num_steps=T)
    u, rows = net.weight(H, H), list[str]()
    h = net.start("h", H) if start == "given" else net.constant(np.zeros((1, H)))
    for time in range(2, T):
        h = net.op("Tanh", net.op("Add", at(net, net.drives, time), net.op("MatMul", h, u)))
        rows.append(h)
    steps = rolled(net.done(rows, rows))
    assert (steps.num_steps, steps.num_apart) == (T - 2, 0)


def decaying_windows(*, starts_alike: bool) -> onnx.ModelProto:
    """h' = d h + tanh((n m + n' l) K), n = tanh(x) and n' that of the step before: no x stands for none."""
    net = Network(is_given=False, num_steps=T)
    key, decay, now, then = net.weight(H, H), net.weight(H), net.weight(H), net.weight(H)
    first_key = key if starts_alike else net.weight(H, H)
    h, before, rows = "", "", list[str]()
    for time in range(T):
        normed = net.op("Tanh", at(net, net.drives, time))
        mixed = net.sum(net.op("Mul", normed, now), net.op("Mul", before, then) if before else "")
        read = net.op("Tanh", net.op("MatMul", mixed, key if time else first_key))
        h = net.op("Add", net.op("Mul", h, decay), read) if h else read
        rows.append(net.op("Sigmoid", h))
        before = normed
    return net.done(rows, rows)


@pytest.mark.parametrize(("starts_alike", "num_apart"), [(True, 0), (False, 1)])
def test_a_first_state_that_is_what_its_step_adds_is_that_of_a_step_from_zeros(
    num_apart: int, *, starts_alike: bool
) -> None:
    steps = rolled(decaying_windows(starts_alike=starts_alike))
    assert (steps.num_steps, steps.num_apart) == (T - num_apart, num_apart)


def reading_what_was(*, first: float, reads_from_end: bool) -> onnx.ModelProto:
    """a' = tanh(x + a U); b' = d b + tanh(a + z), where d times zero was left out."""
    net = Network(is_given=False, num_steps=T)
    u, decay, other = net.weight(H, H), net.weight(H), net.input("z", T, 1, H)
    lower, upper, rows = net.constant(np.zeros((1, H))), "", list[str]()
    for time in range(T):
        index = T - 1 - time if reads_from_end else time
        was = lower if time else net.constant(np.full((1, H), first))
        added = net.op("Tanh", net.op("Add", was, at(net, other, index)))
        upper = net.op("Add", net.op("Mul", upper, decay), added) if upper else added
        lower = net.op("Tanh", net.op("Add", at(net, net.drives, index), net.op("MatMul", lower, u)))
        rows.append(upper)
    return net.done(rows, rows)


@pytest.mark.parametrize("reads_from_end", [False, True])
@pytest.mark.parametrize(("first", "num_apart"), [(0.0, 0), (1.0, 1)])
def test_a_first_step_reads_what_the_recurrence_below_starts_from(
    first: float, num_apart: int, *, reads_from_end: bool
) -> None:
    report = inspect(reading_what_was(first=first, reads_from_end=reads_from_end))
    upper = report.recurrences[-1]
    assert upper.num_steps == T - num_apart
    assert sum("computed in another way" in text for text in report.warnings) == num_apart


def decayed_alike(first_of_second: int) -> onnx.ModelProto:
    """a' = d a + x and b' = d b + x^2 of one vector d, of which the second starts at some step, given."""
    net = Network(is_given=True, num_steps=T)
    d, a, b, rows = net.weight(H), net.start("a", H), net.start("b", H), list[str]()
    for time in range(T):
        x = at(net, net.drives, time)
        a = net.op("Add", net.op("Mul", a, d), x)
        if time >= first_of_second:
            b = net.op("Add", net.op("Mul", b, d), net.op("Mul", x, x))
        rows.append(net.op("Tanh", net.op("Add", a, b)))
    return net.done(rows, rows)


@pytest.mark.parametrize(("first_of_second", "is_told"), [(0, False), (1, True)])
def test_layers_of_one_weight_with_nearly_as_many_steps_are_named(
    first_of_second: int, *, is_told: bool
) -> None:
    told = [text for text in inspect(decayed_alike(first_of_second)).warnings if "of the same weight" in text]
    assert len(told) == is_told
    assert all(f"has {T - 1} steps" in text and f"same weight {T}:" in text for text in told)


def stabilised(*, is_given: bool, num_layers: int, shifts: bool = False) -> onnx.ModelProto:
    """RWKV-4's time mix: a' = e^(p - q) a + e^(k - q) v, b' likewise, q = max(p, k), read out before that.

    From zeros with p = -1e30, of which the decay takes nothing away: it is found unchanged. Where
    it `shifts`, keys and values are made from the step before, too: from zeros, nothing is left of that.
    """
    net = Unroller()
    x, rows = net.input("x", T, 1, H), list[str]()
    layers = [[net.weight(H, H), net.weight(H, H), net.weight(H), net.weight(H)] for _ in range(num_layers)]
    zeros, lowest = net.constant(np.zeros((1, H))), net.constant(np.full((1, H), -1e30))
    states = [(zeros, zeros, lowest)] * num_layers
    if is_given:
        states = [tuple(net.input(f"{n}{own}", 1, H) for n in "abp") for own in range(num_layers)]

    def weighed(a: str, b: str, old: str, new: str, v: str) -> tuple[str, str, str]:
        top = net.op("Max", old, new)
        kept, added = (net.op("Exp", net.op("Sub", own, top)) for own in (old, new))
        of_a = net.op("Mul", kept, a)
        of_b = of_a if a == b else net.op("Mul", kept, b)
        return net.op("Add", of_a, net.op("Mul", added, v)), net.op("Add", of_b, added), top

    is_shifted = shifts and is_given
    before = [net.input(f"x{own}", 1, H) if is_shifted else "" for own in range(num_layers)]

    for time in range(T):
        row = at(net, x, time)
        for number, (into_k, into_v, decay, bonus) in enumerate(layers):
            mixed = net.op("Add", row, before[number]) if before[number] else row
            k, v = net.op("MatMul", mixed, into_k), net.op("MatMul", mixed, into_v)
            before[number] = row if shifts else ""
            a, b, p = states[number]
            above, below, _ = weighed(a, b, p, net.op("Add", bonus, k), v)
            states[number] = weighed(a, b, p if p == lowest else net.op("Sub", p, decay), k, v)
            row = net.op("Div", above, below)
        rows.append(row)
    net.output(stacked(net, rows))
    return net.model()


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_stabiliser_starts_from_the_constant_that_its_decay_left_unchanged(
    num_layers: int, *, shifts: bool
) -> None:
    given, folded = (
        audit(stabilised(is_given=own, num_layers=num_layers, shifts=shifts), num_samples=1)
        for own in (True, False)
    )
    for found in (given, folded):
        expected = [(T, 1)] * 3 * num_layers
        assert [(own.num_steps, len(own.states)) for own in found.recurrences] == expected
    assert given.grid is not None
    assert folded.grid is not None
    assert given.grid.num_gradient_paths == folded.grid.num_gradient_paths


def test_values_of_the_step_before_are_read_at_every_step() -> None:
    found = audit(stabilised(is_given=True, num_layers=2, shifts=True), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T] * 6


def test_a_first_input_of_another_size_than_what_steps_feed_back_stays_outside() -> None:
    """A decoder that reads its own soft output, and an input at the first step alone."""
    net = Network(is_given=False, num_inputs=3)
    u, reads, writes, bias = net.weight(4, 4), net.weight(5, 4), net.weight(4, 5), net.weight(4)
    drive, fed, rows = net.op("MatMul", at(net, "x", 0), net.weight(3, 4)), net.constant(np.zeros((1, 4))), []
    for _ in range(8):
        h = net.op("Tanh", net.sum(drive, fed, bias))
        fed = net.op("MatMul", h, u)
        rows.append(net.op("Softmax", net.op("MatMul", h, writes)))
        drive = net.op("MatMul", rows[-1], reads)
    steps = rolled(net.done(rows, []))
    assert steps.num_steps == 7


def test_a_first_step_that_reads_its_input_by_a_weight_of_its_own_is_named_where_it_stays_apart() -> None:
    """h' = tanh(x[t] W[t] + a h) from zeros: what stands for the weight before the others is not known."""
    net = Network(is_given=False, num_steps=T)
    a, h, rows = net.weight(4), "", list[str]()
    for time in range(T):
        drive = net.op("MatMul", at(net, net.drives, time), net.weight(4, 4))
        h = net.op("Tanh", net.sum(drive, h and net.op("Mul", h, a)))
        rows.append(h)
    steps = rolled(net.done(rows, rows))
    assert (steps.num_steps, steps.num_apart) == (T - 1, 1)


def test_each_of_two_layers_that_lose_their_first_step_is_named() -> None:
    """h' = tanh(x + (sigmoid(x) h) U), and the same above it, each with some constant in the first step."""
    net = Network(is_given=False, num_steps=T)
    weights, states, rows = [net.weight(H, H), net.weight(H, H)], ["", ""], list[str]()
    for time in range(T):
        x = at(net, net.drives, time)
        for layer, (weight, h) in enumerate(zip(weights, states, strict=True)):
            gated = net.op("Mul", net.op("Sigmoid", x), h) if h else ""
            back = net.op("MatMul", gated, weight) if h else net.weight(1, H)
            x = states[layer] = net.op("Tanh", net.op("Add", x, back))
        rows.append(x)
    found = inspect(net.done(rows, rows))
    assert [own.num_steps for own in found.recurrences] == [T - 1, T - 1]
    told = [text for text in found.warnings if "computed in another way" in text]
    assert [text.split(":")[0] for text in told] == weights


def test_a_layer_that_is_found_before_the_one_below_it_and_loses_its_first_step_is_named() -> None:
    """h' = tanh(x + h U), g' = tanh(h' + sigmoid(h') (g V)), written with the product of g first."""
    net = Network(is_given=False, num_steps=T)
    u, v, h, g, rows = net.weight(H, H), net.weight(H, H), "", "", list[str]()
    for time in range(T):
        back = net.op("MatMul", g, v) if g else net.weight(1, H)
        h = net.op("Tanh", net.sum(at(net, net.drives, time), net.op("MatMul", h, u) if h else ""))
        gated = net.op("Mul", net.op("Sigmoid", h), back) if time else back
        g = net.op("Tanh", net.op("Add", h, gated))
        rows.append(g)
    found = inspect(net.done(rows, rows))
    assert [own.num_steps for own in found.recurrences] == [T, T - 1]
    (told,) = [text for text in found.warnings if "computed in another way" in text]
    assert told.startswith(v)


def test_states_of_two_steps_start_from_one_constant_where_its_product_stands_in_both_first_steps() -> None:
    """h' = tanh(x + h U + sigmoid(g) V), g' = h, of which both start from ones."""
    net = Network(is_given=False, num_steps=T)
    u, v, start, rows = net.weight(H, H), net.weight(H, H), net.constant(np.ones((1, H))), list[str]()
    h = g = start
    first = net.op("MatMul", net.op("Sigmoid", start), v)
    for time in range(T):
        older = first if time < 2 else net.op("MatMul", net.op("Sigmoid", g), v)
        drive = net.op("Add", at(net, net.drives, time), net.op("MatMul", h, u))
        h, g = net.op("Tanh", net.op("Add", drive, older)), h
        rows.append(h)
    found = inspect(net.done(rows, rows))
    assert [own.num_steps for own in found.recurrences] == [T]
    assert not [text for text in found.warnings if "computed in another way" in text]
