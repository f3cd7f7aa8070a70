"""A loop over layers is the same network as its layers one by one: the same grid, radii and gains."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from layered_models import WAYS, T, around_operators, assert_alike, groups, masked, plain, tied_inside

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis

DATA = {"xs": np.random.default_rng(0).standard_normal((1, T, 1, 6)).astype(np.float32)}


def audited(model: onnx.ModelProto) -> Analysis:
    data = dict(DATA)
    for value in model.graph.input[1:]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        data[value.name] = np.zeros((1, *shape), np.float32)
    return audit(model, data=data, num_samples=1, black_box="never")


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_loop_over_layers_is_its_layers(way: str, num_layers: int) -> None:
    assert_alike(audited(WAYS[way](num_layers)), audited(plain(num_layers)))


def test_recurrent_operators_in_a_loop_over_layers() -> None:
    assert_alike(audited(around_operators(3)), audited(around_operators(3, is_plain=True)))


def test_layers_with_states_of_their_own_and_the_same_weights() -> None:
    assert_alike(audited(tied_inside(3)), audited(plain(3, is_tied=True)))


def test_groups_of_layers() -> None:
    assert_alike(audited(groups(4)), audited(plain(4)))


def test_a_stack_of_states_that_is_also_read_as_a_whole() -> None:
    assert_alike(audited(masked(3)), audited(masked(3, is_plain=True)))


def test_a_loop_over_a_single_layer() -> None:
    for way in ("scans", "loop that scatters in a loop", "scan around scan", "loop around scan"):
        assert_alike(audited(WAYS[way](1)), audited(plain(1)))
