"""Rows of Jacobians between layers, where the glue between them connects several times in any way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pretraining_problems import prepared_model, reader_of

from lsc_graph.audit_model import audit
from lsc_graph.pretraining.points import Points
from lsc_graph.pretraining.reading import Edge
from lsc_graph.running.sampling import Sample

T, H = 8, 4
Nodes = list[onnx.NodeProto]


def window() -> Nodes:
    """A causal convolution: every step sees its own and the two before."""
    return [
        helper.make_node("Squeeze", ["h", "second"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["rows", "K"], ["seen"], pads=[2, 0]),
        helper.make_node("Tanh", ["seen"], ["bent"]),
        helper.make_node("Transpose", ["bent"], ["mixed"], perm=[2, 0, 1]),
    ]


def mean() -> Nodes:
    """Every step sees all steps."""
    return [
        helper.make_node("ReduceMean", ["h"], ["mean"], axes=[0, 1], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["mixed"]),
    ]


def shift() -> Nodes:
    """Every step sees the one before."""
    return [
        helper.make_node("Squeeze", ["h", "second"], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "last", "zero"], ["early"]),
        helper.make_node("Pad", ["early", "pads"], ["mixed"]),
    ]


GLUE: dict[str, tuple[Callable[[], Nodes], str]] = {
    "window": (window, "forward"),
    "window, read in reverse": (window, "reverse"),
    "mean": (mean, "forward"),
    "shift": (shift, "forward"),
}


def stacked(name: str) -> onnx.ModelProto:
    """Two RNNs with glue between them."""
    between, direction = GLUE[name]
    generator = np.random.default_rng(0)
    shapes = {"W0": (1, H, H), "R0": (1, H, H), "W1": (1, H, H), "R1": (1, H, H), "K": (H, H, 3)}
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 2, own)
        for own, shape in shapes.items()
    ]
    integers = {"second": [1], "zero": [0], "last": [-1], "pads": [1, 0, 0, 0, 0, 0]}
    weights += [numpy_helper.from_array(np.array(value), own) for own, value in integers.items()]
    nodes = [
        helper.make_node("RNN", ["x", "W0", "R0"], ["h"], "lower", hidden_size=H),
        *between(),
        helper.make_node("RNN", ["mixed", "W1", "R1"], ["y"], "upper", hidden_size=H, direction=direction),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "stacked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, 1, H])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [T, 1, 1, H])],
        [weight for weight in weights if weight.name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", GLUE)
def test_readings_at_all_steps_are_the_radii_that_an_audit_finds(name: str) -> None:
    prepared = prepared_model(stacked(name), None)
    readings = reader_of(prepared).read(
        {}, list(enumerate(Points(prepared, {}).draw(5, 3))), T, 0, with_derivative=False
    )
    (edge,) = audit(stacked(name), num_samples=3, seed=5).layers[1].depth_edges
    (found,) = [reading for reading in readings if reading.edge == ("layer_0", "layer_1")]
    assert edge.radius is not None
    assert found.values.numel() == edge.radius.num_points
    assert found.mean == pytest.approx(edge.radius.mean, rel=1e-4)


@pytest.mark.parametrize("name", GLUE)
def test_samples_are_read_together_as_alone(name: str) -> None:
    prepared = prepared_model(stacked(name), None)
    samples = list(enumerate(Points(prepared, {}).draw(4, 6)))
    parts = [reader_of(prepared).read({}, [own], 3, 9, with_derivative=False) for own in samples]
    reader = reader_of(prepared)
    whole = reader.read({}, samples, 3, 9, with_derivative=False)
    assert reader.reads_together
    for number, reading in enumerate(whole):
        for mine, alone in zip(reading.by_sample(), parts, strict=True):
            torch.testing.assert_close(mine, alone[number].values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", GLUE)
def test_derivatives_of_samples_that_are_read_together_are_the_mean_of_theirs_alone(name: str) -> None:
    prepared = prepared_model(stacked(name), None)
    samples = list(enumerate(Points(prepared, {}).draw(4, 3)))

    def slopes(chosen: list[tuple[int, Sample]]) -> tuple[dict[Edge, torch.Tensor], dict[Edge, int]]:
        reader = reader_of(prepared)
        along = torch.zeros((), requires_grad=True)
        moved = {own: reader.model.parameters[own].detach() * (1 + along) for own in ("R0", "R1")}
        found = reader.read(moved, chosen, 3, 9, with_derivative=True)
        assert reader.reads_together
        parts = {r.edge: torch.autograd.grad(r.derivative, along, retain_graph=True)[0] for r in found}
        return parts, {r.edge: r.values.numel() for r in found}

    alone = [slopes([own]) for own in samples]
    together, counts = slopes(samples)
    for edge, slope in together.items():
        own = [(float(parts[edge]), sizes[edge]) for parts, sizes in alone if edge in parts]
        assert sum(size for _, size in own) == counts[edge]
        expected = sum(part * size for part, size in own) / counts[edge]
        assert float(slope) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", GLUE)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    prepared = prepared_model(stacked(name), None)
    reader = reader_of(prepared)
    sample = list(enumerate(Points(prepared, {}).draw(3, 1)))
    start = {own: reader.model.parameters[own].detach() for own in ("R0", "R1")}

    def moved(along: torch.Tensor | float) -> dict[str, torch.Tensor]:
        return {own: value * (1 + along) for own, value in start.items()}

    along = torch.zeros((), requires_grad=True)
    readings = reader.read(moved(along), sample, 5, 3, with_derivative=True)
    above, below = (reader.read(moved(step), sample, 5, 3, with_derivative=False) for step in (1e-3, -1e-3))
    for reading, one, other in zip(readings, above, below, strict=True):
        assert reading.derivative is not None
        (slope,) = torch.autograd.grad(reading.derivative, along, retain_graph=True)
        assert float(slope) == pytest.approx((one.mean - other.mean) / 2e-3, rel=0.05, abs=2e-3)
