"""The order of times is followed from the inputs through all that keeps it or turns it around."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from unrolled_models import Unroller

from lsc_graph.recurrence.backwards import runs_backwards

T = 6


def flip(net: Unroller, value: str) -> str:
    bounds = [net.constant([number]) for number in (-1, -(2**40), 0, -1)]
    return net.op("Slice", value, *bounds)


def found(net: Unroller, value: str, axis: int = 0) -> bool | None:
    net.output(value)
    (output,) = ir.from_proto(net.model()).graph.outputs
    return runs_backwards(output, axis)


@pytest.mark.parametrize("num_flips", range(4))
def test_an_odd_number_of_flips_turns_a_sequence_around(num_flips: int) -> None:
    net = Unroller()
    value = net.op("Neg", net.input("x", T, 2))
    for _ in range(num_flips):
        value = flip(net, net.op("CumSum", value, net.constant(0)))
    assert found(net, value) == (num_flips % 2 == 1)


def test_a_part_of_a_sequence_from_its_end_runs_backwards() -> None:
    net = Unroller()
    bounds = [net.constant([number]) for number in (-2, 0, 0, -1)]
    assert found(net, net.op("Slice", net.input("x", T, 2), *bounds)) is True


@pytest.mark.parametrize(("indices", "expected"), [([1, 3, 4], False), ([4, 3, 0], True), ([2, 4, 1], None)])
def test_chosen_times_are_in_order_or_in_reverse_or_in_none(
    indices: list[int], expected: bool | None
) -> None:
    net = Unroller()
    assert found(net, net.op("Gather", net.input("x", T, 2), net.constant(indices), axis=0)) is expected


def test_both_ways_are_no_way() -> None:
    net = Unroller()
    x = net.input("x", T, 2)
    assert found(net, net.op("Add", x, flip(net, x))) is None


def test_constants_have_no_order() -> None:
    net = Unroller()
    x = net.input("x", T, 2)
    assert found(net, net.op("Add", flip(net, x), net.weight(T, 2))) is True


def test_what_is_computed_from_constants_has_no_order_whatever_computes_it() -> None:
    net = Unroller()
    x, rows = net.input("x", T, 2), [net.op("Unsqueeze", net.weight(2), net.constant([0])) for _ in range(T)]
    assert found(net, net.op("Add", flip(net, x), net.op("Concat", *rows, axis=0))) is True


def test_a_sequence_that_may_run_in_any_order_is_no_constant() -> None:
    net = Unroller()
    x = net.input("x", T, 2)
    rows = [net.op("Unsqueeze", net.op("ReduceSum", x, net.constant([0]), keepdims=0), net.constant([0]))] * T
    assert found(net, net.op("Add", flip(net, x), net.op("Concat", *rows, axis=0))) is None


def test_channels_of_a_convolution_are_in_no_order() -> None:
    net = Unroller()
    value = net.op("Conv", flip(net, net.input("x", 1, T, 5)), net.weight(T, T, 1))
    assert found(net, value, 1) is None


@pytest.mark.parametrize(("indices", "expected"), [([1, 2], False), ([-1, -2], True), ([1, -1], None)])
@pytest.mark.parametrize("shape", [(None, None), None])
def test_open_sizes_leave_the_order_of_a_gather_known(
    indices: list[int], expected: bool | None, shape: tuple[None, None] | None
) -> None:
    x = ir.Value(
        name="x", shape=None if shape is None else ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    chosen = ir.Value(name="i", const_value=ir.tensor(indices, dtype=ir.DataType.INT64, name="i"))
    node = ir.node("Gather", [x, chosen], attributes={"axis": 1})
    ir.Graph([x], node.outputs, nodes=[node], initializers=[chosen], opset_imports={"": 18})
    assert runs_backwards(node.outputs[0], 1) is expected
