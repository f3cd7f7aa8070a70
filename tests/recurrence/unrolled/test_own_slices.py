"""Read-outs may read the step's own slices: then they are part of the step, and number it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Network, Unroller, at, layer, rolled, stacked, tanh_cell

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.own_slices import breaks_off
from lsc_graph.recurrence.unrolled.roll import roll_steps

T, D, H = 6, 3, 4


def reading_the_state_before(*, is_given: bool) -> onnx.ModelProto:
    """h[t] = tanh(x[t] W + h[t-1] U), of which the last is left out; y[t] = relu(x[t] X + h[t-1] Y)."""
    net = Network(is_given=is_given, num_steps=T, num_units=H)
    x, u, y = net.weight(D, H), net.weight(H, H), net.weight(H, H)
    h, rows = net.start("h", H), list[str]()
    for time in range(T):
        own = net.op("MatMul", at(net, "x", time), x)
        rows.append(net.op("Relu", net.sum(own, h and net.op("MatMul", h, y))))
        if time < T - 1:
            h = net.op("Tanh", net.sum(at(net, net.drives, time), h and net.op("MatMul", h, u)))
    return net.done(rows, rows)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_last_step_of_which_only_the_read_out_is_left_is_a_step(*, is_given: bool) -> None:
    steps = rolled(reading_the_state_before(is_given=is_given))
    assert (steps.num_steps, steps.num_apart, len(steps.rolled.state_names)) == (T, 0, 1)


def delta_rule(num_layers: int) -> onnx.ModelProto:
    """m[t] = m[t-1] + (v[t] - k[t] m[t-1]) outer k[t], read out as q[t] m[t]: the next layer's input."""
    net = Unroller()
    weights = [[net.weight(H, H) for _ in range(3)] for _ in range(num_layers)]
    states = [net.input(f"m{number}", H, H) for number in range(num_layers)]
    x, rows = net.input("x", T, 1, H), list[str]()
    for time in range(T):
        row = at(net, x, time)
        for number, own in enumerate(weights):
            k, v, q = (net.op("MatMul", row, weight) for weight in own)
            error = net.op("Sub", v, net.op("MatMul", k, states[number]))
            written = net.op("MatMul", net.op("Transpose", k, perm=[1, 0]), error)
            states[number] = net.op("Add", states[number], written)
            row = net.op("MatMul", q, states[number])
        rows.append(row)
    net.output(stacked(net, rows))
    return net.model()


def test_a_memory_that_is_read_and_queried_has_one_state_in_every_layer() -> None:
    found = audit(delta_rule(2), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H * H] * 2
    assert found.grid is not None
    assert found.grid.num_gradient_paths == str(T)
    assert all(own.num_steps == T for own in found.recurrences)


def intersecting(*, is_given: bool, num_layers: int = 2) -> onnx.ModelProto:
    """h' = g h + (1 - g) tanh(x Z + h Y), y = f relu(x X + h Y) + (1 - f) x W; gates g and f of x and h."""
    net = Unroller()
    one, x = net.constant([1.0]), net.input("x", T, 1, H)
    weights = [[net.weight(H, H) for _ in range(6)] for _ in range(num_layers)]
    states = [net.input(f"h{number}", 1, H) if is_given else "" for number in range(num_layers)]
    rows = list[str]()

    def mixed(gate: str, chosen: str, other: str) -> str:
        return net.sum(chosen and net.op("Mul", gate, chosen), net.op("Mul", net.op("Sub", one, gate), other))

    for time in range(T):
        row = at(net, x, time)
        for number, (w, u, into_y, y, z, v) in enumerate(weights):
            h = states[number]
            drive = [net.op("MatMul", row, weight) for weight in (into_y, w, z)]
            own = [h and net.op("MatMul", h, weight) for weight in (y, u, v)]
            out = net.op("Relu", net.sum(drive[0], own[0]))
            keep, show = (net.op("Sigmoid", net.sum(drive[k], own[k])) for k in (1, 2))
            states[number] = mixed(keep, h, net.op("Tanh", net.sum(drive[2], own[0])))
            row = mixed(show, out, drive[1])
        rows.append(row)
    net.output(stacked(net, rows))
    return net.model()


@pytest.mark.parametrize("is_given", [False, True])
def test_read_outs_by_weights_of_their_own_are_no_step_to_come(*, is_given: bool) -> None:
    found = audit(intersecting(is_given=is_given), num_samples=1)
    assert [(own.num_steps, len(own.states)) for own in found.recurrences] == [(T, 1)] * 2
    assert [layer.state_size for layer in found.layers] == [H] * 2
    assert found.grid is not None
    assert found.grid.num_gradient_paths == str(T - 1)


def test_a_join_of_both_directions_is_part_of_neither() -> None:
    net = Unroller()
    x = net.input("x", T, 1, D)
    starts = [net.input(f"h{k}", 1, H) for k in range(2)]
    forward = layer(net, tanh_cell(net, D, H), x, starts[0], range(T))
    reverse = layer(net, tanh_cell(net, D, H), x, starts[1], range(T)[::-1])[::-1]
    rows = [net.op("Concat", *pair, axis=1) for pair in zip(forward, reverse, strict=True)]
    net.output(stacked(net, [net.op("Relu", row) for row in rows]))
    proto = net.model()
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    model = normalize(proto, shapes, {})
    steps, _ = roll_steps(model, None)
    scans = [own.rolled.scan for own in steps]
    read = {value.producer() for scan in scans for value in scan.inputs if value is not None}
    assert len(scans) == 2
    assert not read.intersection(scans)
    assert {own.num_steps for own in inspect(proto).recurrences} == {T}


@pytest.mark.parametrize(
    ("indices", "is_other", "expected"),
    [
        ((1, 2, 3), False, False),
        ((3, 2, 1), False, False),
        ((1, 2, 2), False, True),
        ((1, 2, 3), True, True),
        ((1, 1, 2), False, False),
    ],
)
def test_the_next_slice_goes_on(indices: tuple[int, ...], *, is_other: bool, expected: bool) -> None:
    sequences = [ir.val(name, ir.DataType.FLOAT, [8, 2]) for name in "xz"]
    initializers = [ir.tensor(np.int64(k), name=f"i{k}") for k in range(8)]
    places = [ir.Value(name=own.name, const_value=own) for own in initializers]
    sources = [sequences[0], sequences[0], sequences[is_other]]
    nodes = [
        ir.node("Gather", [source, places[k]], attributes={"axis": 0})
        for source, k in zip(sources, indices, strict=True)
    ]
    graph = ir.Graph(sequences, [], nodes=nodes, initializers=places, opset_imports={"": 18})
    column = {k: node.outputs[0] for k, node in enumerate(nodes)}
    assert breaks_off(column, 2, Constants(graph)) is expected
