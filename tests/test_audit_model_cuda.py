"""Audits on CUDA: the numbers of the CPU, for every reference model and written in any form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from cuda_only import needs_cuda
from lsc_graph.models import registry
from lsc_graph.models.forms import Step
from lsc_graph.models.gru import gru
from written_as import as_dynamo_writes, as_jax_writes, as_keras_writes, step_of

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis, Form, Statistics

pytestmark = needs_cuda


def audited(model: onnx.ModelProto, device: str, **options: Any) -> Analysis:
    return audit(model, num_samples=2, device=device, **options)


def assert_same(one: Statistics | None, other: Statistics | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.mean == pytest.approx(other.mean, rel=5e-3, abs=1e-5)


def assert_equal_audits(model: onnx.ModelProto, **options: Any) -> Analysis:
    """The layers, paths, radii and growth of an audit on CUDA are those of one on the CPU."""
    cpu, cuda = (audited(model, device, **options) for device in ("cpu", "cuda"))
    assert [layer.name for layer in cuda.layers] == [layer.name for layer in cpu.layers]
    assert cuda.grid == cpu.grid
    assert (cuda.black_box is None) == (cpu.black_box is None)
    for here, there in zip(cuda.layers, cpu.layers, strict=True):
        assert_same(here.time_radius, there.time_radius)
        assert_same(here.time_gain, there.time_gain)
        for edge, other in zip(here.depth_edges, there.depth_edges, strict=True):
            assert_same(edge.radius, other.radius)
            assert_same(edge.gain, other.gain)
    for point, known in zip(cuda.growth.table, cpu.growth.table, strict=True):
        assert (point.measured_log10 is None) == (known.measured_log10 is None)
        if point.measured_log10 is not None:
            assert point.measured_log10 == pytest.approx(known.measured_log10, abs=0.02)
    assert cuda.verdict.label == cpu.verdict.label
    return cuda


@pytest.mark.parametrize("name", registry.names())
def test_reference_models(name: str) -> None:
    card = registry.card(name)
    assert_equal_audits(registry.build(name), num_steps=(card.num_steps or 9) if card.forms else None)


@pytest.mark.parametrize("write", [as_dynamo_writes, as_jax_writes, as_keras_writes])
def test_written_as_exporters_do(write: Callable[[Step, int], onnx.ModelProto]) -> None:
    assert_equal_audits(write(step_of(gru(form=Form.STREAMING).model), 9))


def test_wide_layers_take_the_estimators_of_cuda() -> None:
    assert_equal_audits(registry.build("lstm", hidden_size=256), num_steps=6)


def test_a_black_box_is_differenced_in_onnx_runtime_and_continued_on_cuda() -> None:
    found = assert_equal_audits(registry.build("gru"), num_steps=5, black_box="always")
    assert found.black_box is not None


def test_thresholds_with_a_surrogate() -> None:
    assert_equal_audits(registry.build("alif"), num_steps=8, surrogate="triangle")
