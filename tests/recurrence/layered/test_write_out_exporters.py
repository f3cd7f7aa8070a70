"""Loops over layers as real exporters write them are the same network as the layers one by one."""

from __future__ import annotations

import pytest
from exported_models import exported_model
from layered_models import assert_alike

from lsc_graph.audit_model import audit
from lsc_graph.results import Axis

PLAIN = {
    ("layered_torch", "inside"): "plain",
    ("layered_torch", "around"): "plain",
    ("layered_jax", "inside"): "plain",
    ("layered_jax", "inside_another_axis"): "plain",
    ("layered_jax", "inside_fori"): "plain",
    ("layered_jax", "around"): "plain",
    ("layered_jax", "around_fori"): "plain",
    ("layered_jax", "around_with_states"): "plain",
    ("layered_jax", "inside_and_one_more"): "plain_and_one_more",
    ("layered_jax", "tied_inside"): "tied_plain",
    ("layered_jax", "feed_forward"): "feed_forward_plain",
    ("layered_jax", "flax_around_0"): "flax_around_0_plain",
    ("layered_jax", "flax_around_1"): "flax_around_1_plain",
    ("layered_jax", "flax_inside"): "flax_inside_plain",
}


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "name"), PLAIN)
def test_a_loop_over_layers_is_its_layers(framework: str, name: str) -> None:
    looped, plain = (
        audit(exported_model(framework, each), num_samples=1) for each in (name, PLAIN[framework, name])
    )
    assert looped.grid.num_layers >= 3
    assert_alike(looped, plain)
    assert looped.black_box is None
    assert all(own.over is Axis.TIME for own in looped.recurrences)
