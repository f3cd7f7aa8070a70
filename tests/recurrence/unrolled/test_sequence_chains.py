"""Steps without weights are found by the sequence whose slices they join; what only looks so is refused."""

from __future__ import annotations

import itertools
import time as clock

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.results import Refusal
from lsc_graph.running.reference import Reference

T, B, D, H = 6, 2, 3, 4


def rolled(proto: onnx.ModelProto) -> tuple[tuple[RolledSteps, ...], tuple[Refusal, ...]]:
    """Roll a model up, and check that nothing it computes has changed."""
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    generator = np.random.default_rng(1)
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    steps, refusals = roll_steps(model, lambda part: Reference(part).run(feed))
    expected, actual = Reference(proto).run(feed), Reference(ir.to_proto(model)).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return steps, refusals


def gated(net: Unroller, num_steps: int, *, is_reverse: bool = False) -> list[str]:
    """h' = (1 - z) h + z c from zeros, with z and c computed before the loop: a minimal GRU."""
    x = net.input("x", num_steps, B, D)
    z = net.op("Sigmoid", net.op("MatMul", x, net.weight(D, H)))
    c = net.op("MatMul", x, net.weight(D, H))
    rest = net.op("Sub", net.constant(1.0), z)
    states: list[str] = []
    for time in range(num_steps)[:: -1 if is_reverse else 1]:
        new = net.op("Mul", at(net, z, time), at(net, c, time))
        states.append(net.op("Add", net.op("Mul", at(net, rest, time), states[-1]), new) if states else new)
    return states


@pytest.mark.parametrize("is_reverse", [False, True])
def test_a_cell_whose_projections_were_hoisted_is_found_with_its_folded_first_step(is_reverse: bool) -> None:
    net = Unroller()
    states = gated(net, T, is_reverse=is_reverse)
    net.output(stacked(net, states[:: -1 if is_reverse else 1]))
    (own,), refusals = rolled(net.model())
    assert (own.num_steps, own.over_depth, own.rolled.is_reverse) == (T, False, is_reverse)
    assert len(own.rolled.state_names) == 1
    assert not refusals


def test_a_selective_state_space_with_a_read_out_in_every_step_is_found() -> None:
    net = Unroller()
    x, h = net.input("x", T, B, D), net.input("h", B, H)
    decay = net.op("Exp", net.op("MatMul", x, net.weight(D, H)))
    drive, out = (net.op("MatMul", x, net.weight(D, H)) for _ in range(2))
    rows = []
    for time in range(T):
        h = net.op("Add", net.op("Mul", at(net, decay, time, "Slice"), h), at(net, drive, time, "Slice"))
        rows.append(net.op("Mul", h, at(net, out, time, "Slice")))
    net.output(stacked(net, rows))
    (own,), _ = rolled(net.model())
    assert (own.num_steps, own.over_depth) == (T, False)


def test_a_running_total_is_no_recurrence() -> None:
    net = Unroller()
    x = net.op("MatMul", net.input("x", T, B, D), net.weight(D, H))
    total = at(net, x, 0)
    for time in range(1, T):
        total = net.op("Add", total, at(net, x, time))
    net.output(total)
    steps, refusals = rolled(net.model())
    assert steps == ()
    assert "running total" in refusals[0].reason


def test_a_total_that_every_step_reads_is_a_state() -> None:
    net = Unroller()
    x = net.input("x", T, B, D)
    values, gates = (net.op("MatMul", x, net.weight(D, H)) for _ in range(2))
    total, rows = net.constant(np.zeros((B, H))), list[str]()
    for time in range(T):
        total = net.op("Add", total, at(net, values, time))
        rows.append(net.op("Mul", at(net, gates, time), total))
    net.output(stacked(net, rows))
    (own,), _ = rolled(net.model())
    assert (own.num_steps, own.over_depth) == (T, False)


def test_attention_over_slices_is_no_recurrence() -> None:
    """q, k, v and a gate as four slices of one projection."""
    net = Unroller()
    x = net.op("MatMul", net.input("x", 4, B, D), net.weight(D, D))
    q, k, v, gate = (at(net, x, index) for index in range(4))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[1, 0])))
    net.output(net.op("Mul", net.op("Sigmoid", gate), net.op("MatMul", weights, v)))
    assert rolled(net.model()) == ((), ())


def test_a_cascade_of_splits_with_weights_of_their_own_is_no_recurrence() -> None:
    """As in Res2Net: each split is added to what the one before gave, and gets its own matrix."""
    net = Unroller()
    x = net.input("x", T, B, D)
    h = net.op("Relu", net.op("MatMul", at(net, x, 0), net.weight(D, D)))
    for index in range(1, T):
        h = net.op("Relu", net.op("MatMul", net.op("Add", at(net, x, index), h), net.weight(D, D)))
    net.output(h)
    steps, refusals = rolled(net.model())
    assert steps == ()
    assert "different weights" in refusals[0].reason


@pytest.mark.slow
def test_finding_grows_about_linearly_with_the_number_of_steps() -> None:
    seconds = []
    for num_steps in (250, 1000):
        net = Unroller()
        net.output(stacked(net, gated(net, num_steps)))
        model = normalize(net.model(), {"x": (num_steps, B, D)}, {})
        start = clock.perf_counter()
        steps, _ = roll_steps(model, None)
        seconds.append(clock.perf_counter() - start)
        assert len(steps) == 1
    assert seconds[1] < 12 * seconds[0]


def test_layers_without_weights_that_step_together_are_one_recurrence_each() -> None:
    """What depends on all slices by way of the layer below is no slice of the layer above."""
    net = Unroller()
    x, states = net.input("x", T, B, D), [net.input(f"h{layer}", B, H) for layer in range(2)]
    weights = [[net.weight(size, H) for _ in range(2)] for size in (D, H)]
    one, rows = net.constant(1.0), []
    for time in range(T):
        below = at(net, x, time)
        for layer, (gate, content) in enumerate(weights):
            z = net.op("Sigmoid", net.op("MatMul", below, gate))
            kept = net.op("Mul", net.op("Sub", one, z), states[layer])
            below = net.op("Add", kept, net.op("Mul", z, net.op("MatMul", below, content)))
            states[layer] = below
        rows.append(below)
    net.output(stacked(net, rows))
    steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 1), (T, 1)]


def windowed(net: Unroller, sequence: list[str], *, is_reverse: bool, is_given: bool) -> list[str]:
    """c' = f c + (1 - f) z, with z and f of x[t] and the x before it, as in a quasi-recurrent network."""
    width = D if sequence[0].startswith("gather") else H
    weights = [net.weight(width, H) for _ in range(4)]
    one = net.constant(1.0)
    c, before = (net.input(f"start{len(net.inputs)}", B, H), "") if is_given else ("", "")
    rows = []
    for x in sequence[:: -1 if is_reverse else 1]:
        now = [net.op("MatMul", x, weight) for weight in weights[:2]]
        if before:
            past = [net.op("MatMul", before, weight) for weight in weights[2:]]
            now = [net.op("Add", *pair) for pair in zip(now, past, strict=True)]
        f, z = net.op("Sigmoid", now[0]), net.op("Tanh", now[1])
        new = net.op("Mul", net.op("Sub", one, f), z)
        c = net.op("Add", net.op("Mul", f, c), new) if c else new
        before = x
        rows.append(c)
    return rows[:: -1 if is_reverse else 1]


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_windows_that_move_into_each_other_number_the_steps(
    *, is_reverse: bool, is_given: bool, num_layers: int
) -> None:
    net = Unroller()
    x = net.input("x", T, B, D)
    rows = [at(net, x, time) for time in range(T)]
    for _ in range(num_layers):
        rows = windowed(net, rows, is_reverse=is_reverse, is_given=is_given)
    net.output(stacked(net, rows))
    steps, refusals = rolled(net.model())
    assert [(own.num_steps, own.num_apart) for own in steps] == [(T, 0)] * num_layers
    assert [own.rolled.is_reverse for own in steps] == [is_reverse] * num_layers
    assert [len(own.rolled.state_names) for own in steps] == [1] * num_layers
    assert not [refusal for refusal in refusals if "chain, but" in refusal.reason]


def test_windows_that_are_only_summed_or_joined_are_no_recurrence() -> None:
    net = Unroller()
    x = net.op("MatMul", net.input("x", T, B, D), net.weight(D, H))
    rows = [at(net, x, time) for time in range(T)]
    pairs = [net.op("Mul", one, two) for one, two in itertools.pairwise(rows)]
    total = pairs[0]
    for pair in pairs[1:]:
        total = net.op("Add", total, pair)
    net.output(total)
    net.output(
        stacked(net, [net.op("Tanh", net.op("Add", *pair)) for pair in zip(pairs, rows, strict=False)])
    )
    steps, _ = rolled(net.model())
    assert steps == ()


def test_states_that_reset_each_other_without_weights_are_found_in_every_layer() -> None:
    """Izhikevich's: v' = v + (v^2 - u + x) / 10, u' = u + (v - u) / 5, both reset where v' is high."""
    net = Unroller()
    x, weights = net.input("x", T, B, D), [net.weight(size, H) for size in (D, H)]
    starts = [[net.input(f"{name}{layer}", B, H) for name in "vu"] for layer in range(2)]
    small, slow, high, low, more, rows = *(net.constant(c) for c in (0.1, 0.2, 0.5, -0.3, 0.25)), []
    for time in range(T):
        below = at(net, x, time)
        for layer, weight in enumerate(weights):
            v, u = starts[layer]
            drive = net.op("Add", net.op("Sub", net.op("Mul", v, v), u), net.op("MatMul", below, weight))
            new = net.op("Add", v, net.op("Mul", drive, small))
            u = net.op("Add", u, net.op("Mul", net.op("Sub", v, u), slow))
            is_high = net.op("Greater", new, high)
            v, u = net.op("Where", is_high, low, new), net.op("Where", is_high, net.op("Add", u, more), u)
            starts[layer], below = [v, u], v
        rows.append(below)
    net.output(stacked(net, rows))
    steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 2), (T, 2)]
