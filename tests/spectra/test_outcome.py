"""What did not converge is counted, left out of means, and said in words."""

from __future__ import annotations

import pytest
import torch
from lsc_graph.models import registry
from spectra_cases import batch

from lsc_graph.audit_model import audit
from lsc_graph.errors import UsageError
from lsc_graph.jacobians.points import Points
from lsc_graph.jacobians.readings import read
from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.estimate import Estimate, Method
from lsc_graph.spectra.outcome import outcome_of, outcome_warnings


def test_points_that_did_not_converge_are_counted_and_left_out_of_the_mean() -> None:
    matrices = batch("outlier", 10)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    matrices[1] = torch.nan
    points = Points()
    points.add(read(matrices, Method.AUTO))
    mean = points.statistics("radius")
    assert mean is not None
    assert mean.num_points == 2
    assert mean.mean == pytest.approx(float(exact[[0, 2]].mean()))
    outcome = outcome_of("a", "b", Estimate.joined(points.estimates))
    assert (outcome.num_points, outcome.num_converged, outcome.methods) == (3, 2, {"dense": 3})
    assert "a -> b did not converge at 1 of 3 points" in outcome_warnings((outcome,))[0]


def test_a_badly_conditioned_eigenvalue_is_a_warning() -> None:
    jordan = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]], dtype=torch.float64)
    found = radius_estimate(jordan)
    (words,) = outcome_warnings((outcome_of("a", "a", found),))
    assert "badly conditioned" in words or "did not converge" in words


@pytest.mark.parametrize("method", ["auto", "dense", "squaring", "arnoldi"])
def test_the_audit_uses_the_estimator_that_is_named(method: str) -> None:
    model = registry.build("gru", hidden_size=24)
    analysis = audit(model, num_steps=4, num_samples=1, radius_method=method)
    reference = audit(model, num_steps=4, num_samples=1, radius_method="dense")
    expected = {"dense" if method == "auto" else method}
    for own, layer, of_reference in zip(
        [own for own in analysis.radii if own.source == own.target],
        analysis.layers,
        reference.layers,
        strict=True,
    ):
        assert set(own.methods) == expected
        assert layer.time_radius is not None
        assert of_reference.time_radius is not None
        if own.num_converged == own.num_points:
            assert layer.time_radius.mean == pytest.approx(of_reference.time_radius.mean, rel=5e-3)


def test_an_unknown_estimator_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match="guess"):
        audit("does_not_exist.onnx", radius_method="guess")
