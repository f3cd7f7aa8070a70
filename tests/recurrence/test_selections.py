"""A masked layer is the layer that it is without its mask, however that is written."""

from __future__ import annotations

import pytest
from masked_models import KEPT, PUT_OUT, H, T, masked

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis


def figures(found: Analysis) -> list[tuple[float, ...]]:
    """Sizes, radii and gains of all layers."""
    values = []
    for layer in found.layers:
        assert layer.time_radius
        edges = [(e.gain.mean, e.radius.mean) for e in layer.depth_edges if e.radius]
        values.append((layer.state_size, layer.time_radius.mean, *(v for edge in edges for v in edge)))
    return values


@pytest.mark.parametrize("put_out", PUT_OUT)
@pytest.mark.parametrize("kept", KEPT)
def test_how_a_mask_is_written_makes_no_difference(kept: str, put_out: str) -> None:
    expected, found = audit(masked(), num_samples=1), audit(masked(kept, put_out), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H, H]
    assert found.grid.num_gradient_paths == expected.grid.num_gradient_paths == str(T)
    for ours, theirs in zip(figures(found), figures(expected), strict=True):
        assert len(ours) == len(theirs)
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("put_out", PUT_OUT)
def test_steps_that_are_masked_keep_their_state(put_out: str) -> None:
    """Parity with ONNX Runtime is part of every audit; masked steps have a radius of one."""
    found = audit(masked("arithmetic", put_out, level=-0.8), num_samples=2)
    assert found.layers[0].time_radius
    assert found.layers[0].time_radius.max == pytest.approx(1.0)
    assert found.layers[0].time_radius.min < 0.99
