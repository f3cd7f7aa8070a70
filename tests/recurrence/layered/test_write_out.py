"""A loop over layers is the same network as its layers one by one: the same grid, radii and gains."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from layered_models import WAYS, T, around_operators, plain, tied_inside

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis

DATA = {"xs": np.random.default_rng(0).standard_normal((1, T, 1, 6)).astype(np.float32)}


def audited(model: onnx.ModelProto) -> Analysis:
    data = dict(DATA)
    for value in model.graph.input[1:]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        data[value.name] = np.zeros((1, *shape), np.float32)
    return audit(model, data=data, num_samples=1, black_box="never")


def assert_alike(one: Analysis, two: Analysis) -> None:
    assert one.grid == two.grid
    assert [layer.state_size for layer in one.layers] == [layer.state_size for layer in two.layers]
    for a, b in zip(one.layers, two.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, abs=1e-5), quantity


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_loop_over_layers_is_its_layers(way: str, num_layers: int) -> None:
    assert_alike(audited(WAYS[way](num_layers)), audited(plain(num_layers)))


def test_recurrent_operators_in_a_loop_over_layers() -> None:
    assert_alike(audited(around_operators(3)), audited(around_operators(3, is_plain=True)))


def test_layers_with_states_of_their_own_and_the_same_weights() -> None:
    assert_alike(audited(tied_inside(3)), audited(plain(3, is_tied=True)))
