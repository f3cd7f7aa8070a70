"""Unrolled steps are found, and the Scan in their place computes the same in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Unroller, at, layer, stacked, tanh_cell

from lsc_graph.audit_model import inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.results import Axis, Refusal
from lsc_graph.running.reference import Reference

T, B, D, H = 6, 2, 3, 4


def shapes_of(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}


def feed_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes_of(proto).items()}


def rolled(
    proto: onnx.ModelProto, *, with_trial: bool = True
) -> tuple[ir.Model, tuple[RolledSteps, ...], tuple[Refusal, ...]]:
    """Roll a model up, and check that nothing it computes has changed."""
    model = normalize(proto, shapes_of(proto), {})
    feed = feed_of(proto)
    trial = (lambda part: Reference(part).run(feed)) if with_trial else None
    steps, refusals = roll_steps(model, trial)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    expected, actual = Reference(proto).run(feed), Reference(after).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return model, steps, refusals


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.mark.parametrize("how", ["Gather", "Slice"])
def test_a_loop_of_cells_becomes_one_scan(how: str) -> None:
    net = Unroller()
    x, h = net.input("x", T, B, D), net.input("h", B, H)
    net.output(stacked(net, layer(net, tanh_cell(net, D, H), x, h, range(T), how)))
    model, steps, _ = rolled(net.model())
    assert op_types(model) == ["Scan"]
    assert [(own.num_steps, own.over_depth, len(own.rolled.state_names)) for own in steps] == [(T, False, 1)]


def test_steps_that_run_backwards_become_a_reverse_scan() -> None:
    net = Unroller()
    x, h = net.input("x", T, B, D), net.input("h", B, H)
    states = layer(net, tanh_cell(net, D, H), x, h, range(T)[::-1])
    net.output(stacked(net, states[::-1]))
    model, steps, _ = rolled(net.model())
    assert op_types(model) == ["Scan"]
    assert steps[0].rolled.is_reverse


def test_steps_over_a_reversed_sequence_are_steps_backwards() -> None:
    net = Unroller()
    x, h = net.input("x", T, B, D), net.input("h", B, H)
    flipped = net.op("Slice", x, *(net.constant([k]) for k in (-1, -(2**62), 0, -1)))
    states = layer(net, tanh_cell(net, D, H), flipped, h, range(T))
    net.output(stacked(net, states[::-1]))
    model, steps, _ = rolled(net.model())
    assert op_types(model) == ["Scan"]
    assert steps[0].rolled.is_reverse


def test_a_first_step_that_was_simplified_away_is_put_back() -> None:
    net = Unroller()
    x = net.input("x", T, B, D)
    w, u, b = net.weight(D, H), net.weight(H, H), net.weight(H)
    states = [net.op("Tanh", net.op("Add", net.op("MatMul", at(net, x, 0), w), b))]
    for time in range(1, T):
        summed = net.op("Add", net.op("MatMul", at(net, x, time), w), net.op("MatMul", states[-1], u))
        states.append(net.op("Tanh", net.op("Add", summed, b)))
    net.output(stacked(net, states))
    model, steps, _ = rolled(net.model())
    assert op_types(model) == ["Scan"]
    assert steps[0].num_steps == T
    _, steps, _ = rolled(net.model(), with_trial=False)
    assert steps[0].num_steps == T - 1


@pytest.mark.parametrize("stride", [2, -2])
def test_a_first_step_of_a_layer_that_reads_every_second_slice_is_put_back(stride: int) -> None:
    net = Unroller()
    x, w, u = net.input("x", 2 * T, B, D), net.weight(D, H), net.weight(H, H)
    first, *others = list(range(2 * T))[::stride]
    states = [net.op("Tanh", net.op("MatMul", at(net, x, first), w))]
    for time in others:
        summed = net.op("Add", net.op("MatMul", at(net, x, time), w), net.op("MatMul", states[-1], u))
        states.append(net.op("Tanh", summed))
    net.output(stacked(net, states))
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, own.num_apart) for own in steps] == [(T, 0)]


def test_a_first_step_that_does_something_else_stays_outside() -> None:
    net = Unroller()
    x = net.input("x", T, B, D)
    cell = tanh_cell(net, D, H)
    start = net.op("Sin", net.op("MatMul", at(net, x, 0), net.weight(D, H)))
    net.output(stacked(net, [start, *layer(net, cell, x, start, range(1, T))]))
    model, steps, _ = rolled(net.model())
    assert steps[0].num_steps == T - 1
    assert "Sin" in op_types(model)


def test_layers_that_step_together_become_one_scan_each() -> None:
    net = Unroller()
    x, h1, h2 = net.input("x", T, B, D), net.input("h1", B, H), net.input("h2", B, H)
    lower, upper = tanh_cell(net, D, H), tanh_cell(net, H, H)
    states = []
    for time in range(T):
        h1 = lower(at(net, x, time), h1)
        h2 = upper(h1, h2)
        states.append(h2)
    net.output(stacked(net, states))
    net.output(h1)
    model, steps, _ = rolled(net.model())
    assert op_types(model).count("Scan") == 2
    assert [own.num_steps for own in steps] == [T, T]


def test_layers_that_feed_back_into_each_other_become_one_scan() -> None:
    net = Unroller()
    x, h1, h2 = net.input("x", T, B, D), net.input("h1", B, H), net.input("h2", B, H)
    lower, upper = tanh_cell(net, D, H), tanh_cell(net, H, H)
    for time in range(T):
        h1 = net.op("Add", lower(at(net, x, time), h1), h2)
        h2 = upper(h1, h2)
    net.output(h2)
    _, steps, _ = rolled(net.model())
    assert [len(own.rolled.state_names) for own in steps] == [2]


def test_elementwise_recurrences_are_found_by_their_decay() -> None:
    """A complex diagonal recurrence in real arithmetic: each weight is used twice in every step."""
    net = Unroller()
    x, real, imag = net.input("x", T, B, 2 * H), net.input("a", B, H), net.input("b", B, H)
    re, im = net.weight(H), net.weight(H)
    rows = []
    for time in range(T):
        u = at(net, x, time)
        u_re = net.op("Slice", u, *(net.constant([k]) for k in (0, H, 1)))
        u_im = net.op("Slice", u, *(net.constant([k]) for k in (H, 2 * H, 1)))
        turned = net.op("Sub", net.op("Mul", re, real), net.op("Mul", im, imag))
        crossed = net.op("Add", net.op("Mul", im, real), net.op("Mul", re, imag))
        real, imag = net.op("Add", turned, u_re), net.op("Add", crossed, u_im)
        rows.append(net.op("Concat", real, imag, axis=1))
    net.output(stacked(net, rows))
    model, steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 2)]
    assert op_types(model) == ["Scan"]


def test_every_step_may_have_its_own_small_constant_and_its_own_input() -> None:
    net = Unroller()
    frames = [net.input(f"x{time}", B, D) for time in range(T)]
    h, cell = net.input("h", B, H), tanh_cell(net, D, H)
    for time, frame in enumerate(frames):
        h = cell(net.op("Add", frame, net.constant(0.1 * (time + 1.0))), h)
    net.output(h)
    model, steps, _ = rolled(net.model())
    assert steps[0].num_steps == T
    assert "MatMul" not in op_types(model)


def test_equal_copies_of_a_weight_are_one_weight() -> None:
    net = Unroller()
    x, h = net.input("x", T, B, D), net.input("h", B, H)
    w, u = net.weight(D, H), net.weight(H, H)
    for time in range(T):
        copy = net.constant(net.initializers[u], f"copy_{time}")
        h = net.op("Tanh", net.op("Add", net.op("MatMul", at(net, x, time), w), net.op("MatMul", h, copy)))
    net.output(h)
    model, steps, _ = rolled(net.model())
    assert [own.num_steps for own in steps] == [T]
    assert len([name for name in model.graph.initializers if name.startswith("copy")]) == 1


def test_spikes_from_zeros_whose_first_step_was_folded_have_their_three_states() -> None:
    """The last step needs the adaptation for its threshold, but not what it decays to."""
    net = Unroller()
    below = net.input("x", T, B, D)
    leak, decay, rise, one = (net.constant(value) for value in (0.9, 0.95, 0.2, 1.0))
    w, u = net.weight(D, H), net.weight(H, H)
    z = a = v = ""
    rows = []
    for time in range(T):
        drive = net.op("MatMul", at(net, below, time), w)
        kept = net.op("Mul", net.op("Mul", v, leak), net.op("Sub", one, z)) if time else drive
        v = net.op("Add", net.op("Add", kept, drive), net.op("MatMul", z, u)) if time else drive
        a = net.op("Add", net.op("Mul", a, decay), z) if time > 1 else z
        threshold = net.op("Add", one, net.op("Mul", a, rise)) if time else one
        z = net.op("Cast", net.op("Greater", v, threshold), to=1)
        rows.append(z)
    net.output(stacked(net, rows))
    _, (own,), _ = rolled(net.model())
    assert (own.num_steps, len(own.rolled.state_names)) == (T, 3)


def test_tied_layers_are_a_recurrence_over_depth() -> None:
    net = Unroller()
    h, w, b = net.input("x", B, H), net.weight(H, H), net.weight(H)
    for _ in range(T):
        h = net.op("Add", h, net.op("Relu", net.op("Add", net.op("MatMul", h, w), b)))
    net.output(h)
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, own.over_depth) for own in steps] == [(T, True)]


def test_the_report_says_that_equal_values_make_layers_a_recurrence_over_depth() -> None:
    """Copies of one layer that are to be trained apart look no other."""
    net = Unroller()
    h, weight = net.input("x", B, H), net.generator.standard_normal((H, H))
    for layer_number in range(T):
        h = net.op("Tanh", net.op("MatMul", h, net.constant(weight, f"layers.{layer_number}")))
    net.output(h)
    found = inspect(net.model())
    assert [own.over for own in found.recurrences] == [Axis.DEPTH]
    assert [text for text in found.warnings if f"{T} layers use tensors of equal values" in text]


def test_only_the_values_that_are_needed_are_handed_on() -> None:
    """LSTM: h and c, not the gates."""
    net = Unroller()
    x, h, c = net.input("x", T, B, D), net.input("h", B, H), net.input("c", B, H)
    w, u = net.weight(D, 4 * H), net.weight(H, 4 * H)
    for time in range(T):
        gates = net.op("Add", net.op("MatMul", at(net, x, time), w), net.op("MatMul", h, u))
        first = net.op("Split", gates, net.constant([H] * 4), num_outputs=4, axis=1)
        i, f, g, o = (first[:-1] + str(k) for k in range(4))
        i, f, o = (net.op("Sigmoid", gate) for gate in (i, f, o))
        c = net.op("Add", net.op("Mul", f, c), net.op("Mul", i, net.op("Tanh", g)))
        h = net.op("Mul", o, net.op("Tanh", c))
    net.output(h)
    _, steps, _ = rolled(net.model())
    (own,) = steps
    shapes = [tuple(value.shape or ()) for value in own.rolled.scan.inputs[:2]]
    assert (len(own.rolled.state_names), shapes) == (2, [(B, H), (B, H)])


class TestNearMisses:
    def test_siamese_branches_share_weights_and_are_no_recurrence(self) -> None:
        net = Unroller()
        w = net.weight(D, H)
        for k in range(4):
            net.output(net.op("Tanh", net.op("MatMul", net.input(f"x{k}", B, D), w)))
        _, steps, refusals = rolled(net.model())
        assert steps == ()
        assert "do not depend on each other" in refusals[0].reason

    def test_a_deep_network_with_one_tied_matrix_is_no_recurrence(self) -> None:
        net = Unroller()
        h, tied = net.input("x", B, H), net.weight(H, H)
        for _ in range(T):
            h = net.op("Tanh", net.op("MatMul", net.op("Relu", net.op("MatMul", h, tied)), net.weight(H, H)))
        net.output(h)
        _, steps, refusals = rolled(net.model())
        assert steps == ()
        assert "different weights" in refusals[0].reason

    def test_layers_that_merely_start_alike_are_not_tied(self) -> None:
        """Zero biases and unit scales of different layers hold the same numbers."""
        net = Unroller()
        h = net.input("x", B, H)
        for _ in range(T):
            h = net.op(
                "Relu", net.op("Add", net.op("MatMul", h, net.weight(H, H)), net.constant(np.zeros(H)))
            )
        net.output(h)
        _, steps, _ = rolled(net.model())
        assert steps == ()

    def test_a_scalar_in_every_layer_is_no_recurrence(self) -> None:
        net = Unroller()
        h, half = net.input("x", B, H), net.constant(0.5)
        for _ in range(T):
            h = net.op("Sin", net.op("Mul", h, half))
        net.output(h)
        _, steps, refusals = rolled(net.model())
        assert steps == ()
        assert "single number" in refusals[0].reason

    def test_steps_whose_state_changes_its_size_are_refused(self) -> None:
        net = Unroller()
        h, scale = net.input("x", 1, 1, 4, 4), net.constant([1.0, 1.0, 2.0, 2.0])
        for _ in range(3):
            h = net.op("Tanh", net.op("Resize", h, "", scale, mode="nearest"))
        net.output(h)
        _, steps, refusals = rolled(net.model())
        assert steps == ()
        assert "changes its shape" in refusals[0].reason

    def test_a_grid_of_tied_cells_has_no_single_order(self) -> None:
        """Nothing tells time from depth where no sequence does."""
        net, kept = Unroller(), []
        cell = tanh_cell(net, H, H)
        row = [net.input(f"x{time}", B, H) for time in range(4)]
        for _ in range(3):
            h = net.constant(np.zeros((B, H)))
            row = [h := cell(below, h) for below in row]
            kept += row
        net.output(net.op("Sum", *kept))
        _, _, refusals = rolled(net.model())
        assert any("not in one chain" in refusal.reason for refusal in refusals)


def test_layers_that_share_their_weights_are_one_recurrence_each() -> None:
    """The weights form no chain; the slices of the sequence, layer by layer, do."""
    net = Unroller()
    x, cell = net.input("x", 4, B, H), tanh_cell(net, H, H)
    row = [at(net, x, time) for time in range(4)]
    for _ in range(3):
        h = net.constant(np.zeros((B, H)))
        row = [h := cell(below, h) for below in row]
    net.output(row[-1])
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names), own.over_depth) for own in steps] == [
        (4, 1, False)
    ] * 3


def test_finding_takes_time_in_proportion_to_the_size() -> None:
    """The number of looks at a node is bounded: counted, not timed."""
    from lsc_graph.recurrence.unrolled import chains

    counts = []
    for length in (20, 80):
        net = Unroller()
        x, h = net.input("x", length, 1, D), net.input("h", 1, H)
        net.output(stacked(net, layer(net, tanh_cell(net, D, H), x, h, range(length))))
        model = normalize(net.model(), shapes_of(net.model()), {})
        calls = 0
        original = chains.inputs_of

        def counting(node: ir.Node, original=original):
            nonlocal calls
            calls += 1
            return original(node)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "inputs_of", counting)
            roll_steps(model, None)
        counts.append(calls)
    assert counts[1] < 5 * counts[0]


def test_three_steps_of_which_the_first_was_simplified_away_are_enough() -> None:
    """Two uses of the recurrent weight; that a third step comes before them is seen from what it computes."""
    net = Unroller()
    x, w, u, h = net.input("x", 3, B, D), net.weight(D, H), net.weight(H, H), ""
    rows = []
    for time in range(3):
        drive = net.op("MatMul", at(net, x, time), w)
        h = net.op("Tanh", net.op("Add", drive, net.op("MatMul", h, u)) if h else drive)
        rows.append(h)
    net.output(stacked(net, rows))
    _, (own,), _ = rolled(net.model())
    assert own.num_steps == 3
    _, steps, (refusal, *_) = rolled(net.model(), with_trial=False)
    assert steps == ()
    assert "2 uses follow each other" in refusal.reason


def test_two_steps_are_too_few_and_said_to_be() -> None:
    net = Unroller()
    weight, value = net.weight(4, 4), net.input("x", 1, 4)
    for _ in range(2):
        value = net.op("Tanh", net.op("MatMul", value, weight))
    net.output(value)
    rolled, (refusal,) = roll_steps(normalize(net.model(), {"x": (1, 4)}, {}), None)
    assert rolled == ()
    assert refusal.candidate == weight
    assert "2 uses follow each other" in refusal.reason


def test_gates_that_differ_in_what_they_read_alone_are_told_apart_in_the_last_step() -> None:
    """Two gates of a peephole cell add one product to slices of two projections."""
    net = Unroller()
    x, h, c = net.input("x", T, B, D), net.input("h", B, H), net.input("c", B, H)
    of_in, of_out, new = (net.op("MatMul", x, net.weight(D, H)) for _ in range(3))
    u, v = net.weight(H, H), net.weight(H, H)
    peep_in, peep_out = net.weight(H), net.weight(H)
    rows = []
    for time in range(T):
        hu = net.op("MatMul", h, u)
        i = net.op("Add", net.op("Add", at(net, of_in, time), hu), net.op("Mul", peep_in, c))
        n = net.op("Tanh", net.op("Add", at(net, new, time), net.op("MatMul", h, v)))
        c = net.op("Add", c, net.op("Mul", net.op("Sigmoid", i), n))
        o = net.op("Add", net.op("Add", at(net, of_out, time), hu), net.op("Mul", peep_out, c))
        h = net.op("Mul", net.op("Sigmoid", o), net.op("Tanh", c))
        rows.append(h)
    net.output(stacked(net, rows))
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 2)]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_delay_line_from_zeros_keeps_its_steps(is_shared: bool) -> None:
    """h[t] is computed from h[t-1] and h[t-2]; the first two steps read one product with zeros."""
    net = Unroller()
    x, zeros = net.input("x", T, B, D), net.constant(np.zeros((B, H)))
    w, u, v = net.weight(D, H), net.weight(H, H), net.weight(H, H)
    folded = net.op("MatMul", zeros, v)
    states = [zeros, zeros]
    for time in range(T):
        of_input = net.op("MatMul", at(net, x, time), w)
        late = folded if is_shared and time < 2 else net.op("MatMul", states[-2], v)
        drive = net.op("Add", of_input, net.op("MatMul", states[-1], u))
        states.append(net.op("Tanh", net.op("Add", drive, late)))
    net.output(stacked(net, states[2:]))
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 2)]


def test_one_network_applied_to_two_sequences_is_two_recurrences() -> None:
    """As in siamese encoders; what compares them comes last."""
    net = Unroller()
    cell, ends = tanh_cell(net, D, H), []
    for name in ("a", "b"):
        x, h = net.input(name, T, B, D), net.input(f"h_{name}", B, H)
        ends.append(layer(net, cell, x, h, range(T))[-1])
    net.output(net.op("Mul", *ends))
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, own.over_depth) for own in steps] == [(T, False)] * 2
    assert len({own.name for own in steps}) == 2


@pytest.mark.parametrize("is_hoisted", [False, True])
def test_a_last_step_that_reads_before_it_writes_is_a_step_though_its_write_was_trimmed(
    is_hoisted: bool,
) -> None:
    net = Unroller()
    x, m = net.input("x", T, B, D), net.input("m", B, H)
    query, written, u = net.weight(D, H), net.weight(D, H), net.weight(H, H)
    drives = net.op("MatMul", x, written) if is_hoisted else ""
    rows = []
    for time in range(T):
        row = at(net, x, time)
        read = net.op("Mul", net.op("Sigmoid", net.op("MatMul", row, query)), m)
        rows.append(read)
        if time < T - 1:
            drive = at(net, drives, time) if is_hoisted else net.op("MatMul", row, written)
            m = net.op("Tanh", net.op("Add", net.op("MatMul", read, u), drive))
    net.output(stacked(net, rows))
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, len(own.rolled.state_names)) for own in steps] == [(T, 1)]


def test_one_cell_for_all_layers_is_a_recurrence_each_though_first_steps_were_folded() -> None:
    """What a gate lets through is a bias at first, which each layer reads so once: a chain of three."""
    net = Unroller()
    x, w, u, b = net.input("x", T, B, H), net.weight(H, H), net.weight(H, H), net.weight(H)
    for _ in range(3):
        states: list[str] = []
        for time in range(T):
            drive = net.op("MatMul", at(net, x, time), w)
            seen = net.op("Add", net.op("MatMul", states[-1], u), b) if states else b
            gated = net.op("Mul", net.op("Sigmoid", drive), seen)
            states.append(net.op("Tanh", net.op("Add", drive, gated)))
        x = stacked(net, states)
    net.output(x)
    _, steps, _ = rolled(net.model())
    assert [(own.num_steps, own.over_depth) for own in steps] == [(T, False)] * 3


def test_steps_that_cut_their_weights_out_of_one_matrix_again_and_again_read_the_same_weights() -> None:
    """Each step has its own nodes, and its own bounds that hold the same numbers."""
    net, num_steps = Unroller(), 6
    matrix, x, h = net.weight(4, 8), net.input("x", num_steps, 1, 4), net.input("h", 1, 4)
    rows = []
    for time in range(num_steps):
        cut = [
            net.op("Transpose", net.op("Slice", matrix, *(net.constant([k]) for k in (first, first + 4, 1))))
            for first in (0, 4)
        ]
        drive = net.op("MatMul", at(net, x, time), cut[0])
        h = net.op("Tanh", net.op("Add", drive, net.op("MatMul", h, cut[1])))
        rows.append(h)
    net.output(stacked(net, rows))
    _, (steps,), _ = rolled(net.model())
    assert steps.num_steps == num_steps


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_state_that_decays_by_a_number_is_one_if_steps_read_it(is_shared: bool) -> None:
    net, num_steps = Unroller(), 6
    u, decay = net.weight(H, H), net.constant(0.9)
    h, k, rows = net.input("h", 1, H), net.input("k", 1, H), []
    x = net.input("x", num_steps, 1, H)
    for time in range(num_steps):
        k = net.op("Mul", k, decay if is_shared else net.constant(0.9))
        h = net.op("Tanh", net.sum(at(net, x, time), net.op("MatMul", h, u), k))
        rows.append(h)
    net.output(stacked(net, rows))
    _, steps, _ = rolled(net.model())
    assert [own.num_steps for own in steps] == [num_steps] * 2


def test_a_value_that_is_scaled_again_and_again_is_no_state_where_no_step_reads_it() -> None:
    net = Unroller()
    k, decay, rows = net.input("k", 1, H), net.constant(0.9), []
    for _ in range(6):
        k = net.op("Mul", k, decay)
        rows.append(k)
    net.output(net.op("MatMul", stacked(net, rows), net.weight(H, H)))
    assert rolled(net.model())[1] == ()


@pytest.mark.parametrize("is_mean", [True, False])
def test_what_reads_all_states_so_far_of_the_layer_below_has_all_steps_or_is_refused(is_mean: bool) -> None:
    """The mean is one vector at each step, though the last join is the sequence itself; rows get more."""
    net = Unroller()
    x, w, u, y, z = net.input("x", T, B, D), net.weight(D, H), *(net.weight(H, H) for _ in range(3))
    below, above, rows = net.input("h", B, H), net.input("k", B, H), []
    states: list[str] = []
    for time in range(T):
        drive = net.op("MatMul", at(net, x, time), w)
        below = net.op("Tanh", net.op("Add", drive, net.op("MatMul", below, u)))
        states.append(net.op("Unsqueeze", below, net.constant([0])))
        joined = net.op("Concat", *states, axis=0)
        if is_mean:
            seen = net.op("ReduceMean", joined, net.constant([0]), keepdims=0)
        else:
            weighed = net.op("Mul", net.op("Softmax", net.op("Mul", joined, above), axis=0), joined)
            seen = net.op("ReduceSum", weighed, net.constant([0]), keepdims=0)
        above = net.op("Tanh", net.op("Add", net.op("MatMul", seen, y), net.op("MatMul", above, z)))
        rows.append(above)
    net.output(stacked(net, rows))
    _, steps, refusals = rolled(net.model())
    assert [own.num_steps for own in steps] == [T, T][: 1 + is_mean]
    assert is_mean or any("differs in size" in own.reason for own in refusals)
