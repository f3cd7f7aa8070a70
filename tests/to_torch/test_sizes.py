"""Sizes and axes are read where they are: a step on a device waits for none of them."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from fake_device import NAME, FakeDevice, Held

from lsc_graph.to_torch.segment import Parameters, Segment
from lsc_graph.to_torch.sizes import sizes_in

STEP = """
<ir_version: 10, opset_import: ["" : 18]>
step (float[1, 6] x) => (float[3] y, int64[1] z)
<int64[2] parts = {2, 4}, int64[1] axis = {0}, int64[1] begin = {1}, int64[1] end = {4}, int64[1] one = {1}>
{
    a, b = Split<axis = 1>(x, parts)
    c = Squeeze(b, axis)
    y = Slice(c, begin, end)
    z = Add(one, one)
}
"""


@pytest.fixture
def graph() -> ir.Graph:
    return ir.from_proto(onnx.parser.parse_model(STEP)).graph


def test_what_is_computed_with_is_no_size(graph: ir.Graph) -> None:
    assert sizes_in(graph) == ["parts", "axis", "begin", "end"]
    graph.outputs.append(graph.initializers["axis"])
    assert sizes_in(graph) == ["parts", "begin", "end"]


def test_a_step_on_a_device_waits_for_no_size(graph: ir.Graph) -> None:
    segment = Segment(graph, ["x"], ["y"], opsets={"": 18}, parameters=Parameters())
    x = torch.arange(6.0)[None]
    with FakeDevice() as device:
        moved = segment.to(NAME)
        device.waits.clear()
        (found,) = moved(Held(x))
        assert device.waits.total() == 0, device.waits
        assert found.cpu().tolist() == [3.0, 4.0, 5.0]


def test_nor_for_one_that_a_node_holds() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    step (float[1, 6] x) => (float[1, 4] y)
    {
        parts = Constant<value = int64[2] {2, 4}>()
        two = Constant<value_float = 2.0>()
        a, b = Split<axis = 1>(x, parts)
        y = Mul(b, two)
    }
    """
    graph = ir.from_proto(onnx.parser.parse_model(text)).graph
    parameters = Parameters()
    segment = Segment(graph, ["x"], ["y"], opsets={"": 18}, parameters=parameters)
    assert not list(parameters.parameters())
    with FakeDevice() as device:
        moved = segment.to(NAME)
        device.waits.clear()
        (found,) = moved(Held(torch.arange(6.0)[None]))
        assert device.waits.total() == 0, device.waits
        assert found.cpu().tolist() == [[4.0, 6.0, 8.0, 10.0]]


def test_what_is_padded_with_is_a_number_of_the_host_and_no_parameter() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    step (float[1, 2] x) => (float[1, 4] y)
    <int64[4] pads = {0, 1, 0, 1}, float filling = {3.0}>
    {
        y = Pad(x, pads, filling)
    }
    """
    graph, parameters = ir.from_proto(onnx.parser.parse_model(text)).graph, Parameters()
    segment = Segment(graph, ["x"], ["y"], opsets={"": 18}, parameters=parameters)
    assert parameters.names() == ()
    with FakeDevice() as device:
        moved = segment.to(NAME)
        device.waits.clear()
        (found,) = moved(Held(torch.tensor([[1.0, 2.0]])))
        assert device.waits.total() == 0, device.waits
        assert found.cpu().tolist() == [[3.0, 1.0, 2.0, 3.0]]
