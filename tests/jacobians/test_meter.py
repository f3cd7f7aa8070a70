"""Measured growth of small models is that of the dense product, however their states are ordered."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models import registry
from lsc_graph.models.rnn import rnn
from onnx import numpy_helper
from single_runs import single_run

from lsc_graph.audit_model import audit
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.jacobians.growth import backpropagate, isotropic
from lsc_graph.jacobians.meter import GrowthMeter
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.exposure import exposed_states
from lsc_graph.results import Growth

STEPS = 12


def dense_growth(model: onnx.ModelProto) -> float:
    """log10 of ||d s[T-1,L] / d s[0,1]||_F / sqrt(n) for the single sample of seed 0."""
    prepared, view, sample = single_run(model, STEPS)
    with torch.no_grad():
        summary = Summary(exposed_states(prepared.findings, [own for own in prepared.cells if own]))
        cells, edges = view.edges(sample, view.run(sample), summary)
    meter = GrowthMeter(cells, unroll(cells), torch.Generator())
    first, last = GridNode(cells.layers[0].id, 0), GridNode(cells.layers[-1].id, STEPS - 1)
    size = cells.layers[-1].state_size
    found = backpropagate(edges, meter.order, {last: torch.eye(size, dtype=torch.float64)})[first]
    return math.log10(float(found.vectors().norm()) / math.sqrt(size))


def measured(model: onnx.ModelProto, seed: int = 0) -> Growth:
    return audit(model, num_steps=STEPS, num_samples=1, seed=seed).growth


@pytest.mark.parametrize("name", ["tanh_rnn", "gru", "lstm", "lru"])
def test_growth_of_a_small_model_is_that_of_the_dense_product(name: str) -> None:
    model = registry.build(name, num_layers=2)
    assert measured(model).measured_log10 == pytest.approx(dense_growth(model), abs=1e-10)


def permuted(model: onnx.ModelProto, order: np.ndarray) -> onnx.ModelProto:
    """The same network of one layer, its units in another order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        value = numpy_helper.to_array(tensor)
        for axis, length in enumerate(value.shape):
            if length == len(order):
                value = value.take(order, axis)
            elif length == 2 * len(order):
                value = value.take([*order, *(order + len(order))], axis)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return copy


def test_growth_does_not_depend_on_the_order_of_the_states() -> None:
    model = rnn(num_layers=1, input_size=3, hidden_size=16).model
    order = np.random.default_rng(0).permutation(16)
    assert permuted(model, order).SerializeToString() != model.SerializeToString()
    ours, theirs = measured(model), measured(permuted(model, order))
    assert theirs.measured_log10 == pytest.approx(ours.measured_log10, abs=1e-6)


@pytest.mark.parametrize(("count", "size", "rows"), [(4, 9, 4), (9, 9, 9), (64, 9, 63), (1, 5, 1)])
def test_isotropic_vectors_are_orthogonal_and_as_long_as_normal_ones(
    count: int, size: int, rows: int
) -> None:
    found = isotropic(count, size, torch.Generator().manual_seed(0))
    assert found.shape == (rows, size)
    for block in found.split(size):
        expected = size * torch.eye(len(block), dtype=torch.float64)
        torch.testing.assert_close(block @ block.T, expected, rtol=1e-12, atol=1e-12)


def test_frames_are_unbiased_and_less_noisy_than_independent_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(24, 24, generator=generator, dtype=torch.float64) * torch.linspace(0, 2, 24)[:, None]
    exact = float(matrix.square().sum())

    def estimates(frames: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(frame @ matrix).square().sum(1).mean() for frame in frames]) / exact

    frames = estimates([isotropic(16, 24, generator) for _ in range(2000)])
    normal = estimates([torch.randn(16, 24, generator=generator, dtype=torch.float64) for _ in range(2000)])
    assert float(frames.mean()) == pytest.approx(1, abs=4 * float(frames.std()) / math.sqrt(2000))
    assert float(frames.std()) < 0.6 * float(normal.std())
