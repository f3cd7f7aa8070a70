"""Causal layers without a cell are told from others, and the pieces of their Jacobian are exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.jacobians.causal import (
    MAX_STEP_SIZE,
    CausalSummary,
    TimeAxes,
    _floors,
    causal_axes,
    causal_block,
)
from lsc_graph.jacobians.chain import ChainBlock
from lsc_graph.jacobians.grid import dense
from lsc_graph.to_torch import black_box

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
    assert axes_of(lower.T) == [TimeAxes(0, 0, T, flips_in=True, flips_out=True)]
    assert axes_of(lower[:, ::-1].copy()) == [TimeAxes(0, 0, T, flips_in=True)]
    assert axes_of(np.tril(np.ones((T, T)), -1)) == []


def test_the_pieces_are_those_of_the_matrix() -> None:
    matrix = random_matrix(np.tril(np.ones((T, T))) * np.triu(np.ones((T, T)), -3))
    generator = torch.Generator().manual_seed(1)
    found = causal_block(block_of(matrix), TimeAxes(0, 0, T), (T, C), (T, C), generator)
    for time in range(T):
        torch.testing.assert_close(found.equal[time], matrix[time, :, time].double())
    for time in range(1, T):
        torch.testing.assert_close(found.neighbour[time - 1], matrix[time, :, time - 1].double())
    assert found.reach == 3


@pytest.mark.parametrize(("flips_in", "flips_out"), [(True, True), (True, False), (False, True)])
def test_pieces_of_a_block_that_runs_backwards_are_those_of_the_flipped_matrix(
    *, flips_in: bool, flips_out: bool
) -> None:
    forward = random_matrix(np.tril(np.ones((T, T))))
    turned = [axis for axis, flips in ((0, flips_out), (2, flips_in)) if flips]
    generator = torch.Generator().manual_seed(1)
    axes = TimeAxes(0, 0, T, flips_in=flips_in, flips_out=flips_out)
    found = causal_block(block_of(forward.flip(turned)), axes, (T, C), (T, C), generator)
    for time in range(T):
        torch.testing.assert_close(found.equal[time], forward[time, :, time].double())
    for time in range(1, T):
        torch.testing.assert_close(found.neighbour[time - 1], forward[time, :, time - 1].double())


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
    ends = [(own.source, own.layer_id) for own in analysis.time_parallel]
    assert ends == [("input x", "layer_0"), ("layer_0", "layer_1"), ("layer_1", "layer_2")]
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
    found = audit(net.model(), num_samples=1, time_axis=0).time_parallel
    assert [(own.source, own.time_axis) for own in found] == [("input x", 0), ("layer_0", 0)]
    other = audit(net.model(), num_samples=1, time_axis=-1).time_parallel
    assert [own.time_axis for own in other] == [1, 1]


def test_a_time_axis_that_no_layer_has_is_not_taken_for_another() -> None:
    analysis = audit(convolutions(causal=True), num_samples=1, time_axis=5)
    assert analysis.time_parallel == ()
    assert any("--time-axis 5" in warning for warning in analysis.warnings)


def test_padding_of_its_own_belongs_to_the_layer_that_it_prepares() -> None:
    net = Unroller()
    value = net.input("x", 1, C, 8)
    for _ in range(2):
        padded = net.op("Pad", value, net.constant([0, 0, 2, 0, 0, 0]))
        value = net.op("Tanh", net.op("Conv", padded, net.weight(C, C, 3), kernel_shape=[3]))
    net.output(value)
    found = audit(net.model(), num_samples=1).time_parallel
    assert [(own.layer_id, own.num_steps, own.reach) for own in found] == [
        ("layer_0", 8, 2),
        ("layer_1", 8, 2),
    ]


def test_the_gains_of_large_steps_come_from_random_products() -> None:
    """The piece at equal times is the identity, that at neighbouring times half of it."""
    size, steps = MAX_STEP_SIZE + 1, 4
    matrix = torch.eye(steps) + 0.5 * torch.diag(torch.ones(steps - 1), -1)

    def pull(cotangents: torch.Tensor) -> torch.Tensor:
        rows = cotangents.reshape(-1, steps, size)
        return torch.einsum("ts,kth->ksh", matrix.double(), rows).flatten(1)

    block = ChainBlock("a", "b", (steps * size, steps * size), None, pull)
    summary = CausalSummary()
    summary.add([block], [(steps, size), (steps, size)], torch.Generator().manual_seed(0))
    (found,) = summary.facts()
    assert found.equal_radius is None
    assert found.equal_gain.mean == pytest.approx(1, rel=0.05)
    assert found.neighbour_gain.mean == pytest.approx(0.5, rel=0.05)
    assert any("no radii" in warning for warning in summary.warnings)


def convolution_between_recurrences() -> onnx.ModelProto:
    net = Unroller()
    steps, size = 7, 3
    x = net.input("x", steps, 1, size)
    sequences = []
    for _ in range(2):
        weights = [net.weight(1, size, size), net.weight(1, size, size)]
        y = net.op("Squeeze", net.op("RNN", x, *weights, hidden_size=size), net.constant([1]))
        sequences.append(y)
        kernel = net.weight(size, size, 3)
        turned = net.op("Transpose", y, perm=[1, 2, 0])
        x = net.op("Transpose", net.op("Conv", turned, kernel, pads=[2, 0]), perm=[2, 0, 1])
    net.output(sequences[-1])
    return net.model()


def test_a_convolution_between_two_recurrences_is_shown_as_the_glue_that_mixes_times() -> None:
    (own,) = audit(convolution_between_recurrences(), num_samples=1).time_parallel
    assert (own.source, own.layer_id, own.reach) == ("layer_0", "layer_1", 2)
    assert own.neighbour_gain.mean > 0


@pytest.mark.parametrize("time_axis", [None, 2])
def test_what_products_leave_out_is_named(time_axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not said that no layer is causal along an axis."""
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    found = audit(convolutions(causal=True), num_samples=1, black_box="always", time_axis=time_axis)
    assert found.time_parallel == ()
    (words,) = [own for own in found.warnings if "causal" in own]
    assert "Left out of 3 layer(s) that may be causal over time (layer_0, layer_1, layer_2)" in words


def test_glue_that_products_leave_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    found = audit(convolution_between_recurrences(), num_samples=1, black_box="always")
    assert found.time_parallel == ()
    assert any("that may be causal over time (layer_1)" in own for own in found.warnings)


def test_what_lies_ahead_counts_as_rounding_only_where_all_of_it_is_tiny() -> None:
    sizes = torch.ones(3, 3).tril()
    assert _floors(sizes, [0, 1, 2]) == [1e-12] * 3
    sizes[0, 2] = 1e-7
    assert _floors(sizes, [0, 1, 2]) == pytest.approx([1e-6] * 3)
    sizes[0, 2] = 1e-4
    assert _floors(sizes, [0, 1, 2]) == [1e-12] * 3
