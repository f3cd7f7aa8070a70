"""Causal layers without a cell are told from others, and the pieces of their Jacobian are exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.jacobians.causal import TimeAxes, causal_axes, causal_block
from lsc_graph.jacobians.chain import ChainBlock
from lsc_graph.jacobians.grid import dense

T, C = 6, 3


def block_of(matrix: torch.Tensor) -> ChainBlock:
    """A linear block from [T,C] to [T,C]; `matrix` is [T,C,T,C]."""
    flat = matrix.reshape(T * C, T * C).double()
    return ChainBlock("a", "b", (T * C, T * C), flat, dense(flat))


def random_matrix(keep: np.ndarray) -> torch.Tensor:
    """Random pieces d y[t] / d x[t'] where `keep` [T,T] says so."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, C, T, C, generator=generator) * torch.from_numpy(keep)[:, None, :, None]


def axes_of(keep: np.ndarray) -> list[TimeAxes]:
    generator = torch.Generator().manual_seed(1)
    return causal_axes(block_of(random_matrix(keep)), (T, C), (T, C), generator)


def test_only_blocks_that_look_back_and_never_ahead_are_causal() -> None:
    lower = np.tril(np.ones((T, T)))
    assert axes_of(lower) == [TimeAxes(0, 0, T)]
    assert axes_of(lower * np.triu(np.ones((T, T)), -2)) == [TimeAxes(0, 0, T)]
    assert axes_of(np.eye(T)) == []
    assert axes_of(np.ones((T, T))) == []
    assert axes_of(lower.T) == []
    assert axes_of(np.tril(np.ones((T, T)), -1)) == []


def test_the_pieces_are_those_of_the_matrix() -> None:
    matrix = random_matrix(np.tril(np.ones((T, T))) * np.triu(np.ones((T, T)), -3))
    generator = torch.Generator().manual_seed(1)
    found = causal_block(block_of(matrix), TimeAxes(0, 0, T), (T, C), (T, C), generator)
    assert found is not None
    for time in range(T):
        torch.testing.assert_close(found.equal[time], matrix[time, :, time].double())
    for time in range(1, T):
        torch.testing.assert_close(found.neighbour[time - 1], matrix[time, :, time - 1].double())
    assert found.reach == 3


def convolutions(*, causal: bool) -> onnx.ModelProto:
    """Three convolutions over time [1,C,T] with tanh between them; padded in front, or on both sides."""
    net = Unroller()
    value = net.input("x", 1, C, 8)
    for _ in range(3):
        pads = [2, 0] if causal else [1, 1]
        value = net.op("Tanh", net.op("Conv", value, net.weight(C, C, 3), kernel_shape=[3], pads=pads))
    net.output(value)
    return net.model()


def test_causal_convolutions_are_shown_with_their_pieces() -> None:
    analysis = audit(convolutions(causal=True), num_samples=2)
    assert [own.layer_id for own in analysis.time_parallel] == ["layer_1", "layer_2"]
    for own in analysis.time_parallel:
        assert (own.time_axis, own.num_steps, own.reach) == (2, 8, 2)
        assert own.equal_radius is not None
        assert own.neighbour_gain.mean > 0


def test_convolutions_that_look_ahead_are_not() -> None:
    assert audit(convolutions(causal=False), num_samples=1).time_parallel == ()


def parallel_scan(decay: np.ndarray) -> onnx.ModelProto:
    """h[t] = a h[t-1] + (W x)[t] by log2(T) rounds of Slice, Mul, Add and Concat (Hillis and Steele)."""
    net = Unroller()
    size = len(decay)
    eye = np.eye(size)
    value = net.op("MatMul", net.input("x", 8, size), net.constant(eye, "first"))
    value = net.op("MatMul", value, net.constant(eye, "second"))
    for shift in (1, 2, 4):
        factor = net.constant(decay**shift)
        early = net.op("Slice", value, *(net.constant([k]) for k in (0, 8 - shift, 0)))
        late = net.op("Slice", value, *(net.constant([k]) for k in (shift, 8, 0)))
        start = net.op("Slice", value, *(net.constant([k]) for k in (0, shift, 0)))
        value = net.op("Concat", start, net.op("Add", late, net.op("Mul", early, factor)), axis=0)
    net.output(value)
    return net.model()


def test_a_parallel_scan_has_the_radii_of_its_recurrence() -> None:
    """Equal times: the identity; neighbouring times: the decays; it reaches over the whole past."""
    decay = np.array([0.9, 0.5, -0.7])
    (own,) = audit(parallel_scan(decay), num_samples=1).time_parallel
    assert own.equal_radius is not None
    assert own.neighbour_radius is not None
    assert own.equal_radius.mean == pytest.approx(1, abs=1e-6)
    assert own.neighbour_radius.mean == pytest.approx(0.9, abs=1e-6)
    assert (own.reach, own.num_steps) == (7, 8)


def test_where_two_axes_could_be_time_the_user_is_asked() -> None:
    net = Unroller()
    value = net.input("x", 4, 4)
    lower = np.tril(np.ones((4, 4)))
    for _ in range(2):
        rows = net.op("MatMul", net.constant(lower, f"l{len(net.nodes)}"), value)
        columns = net.op("MatMul", value, net.constant(lower.T.copy(), f"r{len(net.nodes)}"))
        value = net.op("Tanh", net.op("Add", rows, columns))
    net.output(value)
    analysis = audit(net.model(), num_samples=1)
    assert analysis.time_parallel == ()
    assert any("--time-axis" in warning for warning in analysis.warnings)
    (own,) = audit(net.model(), num_samples=1, time_axis=0).time_parallel
    assert own.time_axis == 0
