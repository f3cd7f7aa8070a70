"""Layers whose weights are cut out of one tensor by offsets have weights of their own, in their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from layered_models import (
    H,
    assert_alike,
    cell,
    info,
    loop,
    loop_body,
    model,
    node,
    numbers,
    plain,
    time_scan,
    weights,
)
from onnx import numpy_helper
from unrolled_models import Unroller

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.canonical.origins import indices_of, origin_of, place_of
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.recurrence.layered.layer_weights import split_weights

L = 3


def offsets() -> onnx.ModelProto:
    """A loop over layers inside a loop over time; layer k has rows k H to (k + 1) H of [L H, H]."""
    stacked = weights(L)
    constants = {name: stacked[name].reshape(-1, H) for name in "WU"} | {"b": stacked["b"]} | numbers(L)
    nodes = [
        node("Mul", "k size", "start"),
        node("Add", "start size", "end"),
        node("Unsqueeze", "start first", "starts"),
        node("Unsqueeze", "end first", "ends"),
        node("Slice", "W starts ends first", "w"),
        node("Slice", "U starts ends first", "u"),
        node("Gather", "b k", "c", axis=0),
        node("Gather", "s k", "h", axis=0),
        *cell(),
        node("Unsqueeze", "k both", "place"),
        node("Unsqueeze", "h_new first", "row"),
        node("ScatterND", "s place row", "s_new"),
    ]
    body = loop_body("k", nodes, [info("x", 1, H), info("s", None, 1, H)],
                     [info("h_new", 1, H), info("s_new", None, 1, H)])  # fmt: skip
    layers = loop("layers", "count", "x_t hs", "y hs_new", body)
    return model([time_scan([layers], (L, 1, H))], constants | {"size": np.array(H)})


def test_layers_cut_by_offsets_are_those_of_a_plain_stack_and_train_their_rows() -> None:
    assert_alike(audit(offsets(), num_samples=1), audit(plain(L), num_samples=1))
    named = {name for own in inspect(offsets()).recurrences for name in own.weights}
    assert {f"{name}[{k * H}:{(k + 1) * H}]" for name in "WU" for k in range(L)} <= named


def test_pretraining_moves_the_rows_of_each_layer_on_their_own(tmp_path: Path) -> None:
    before, path = offsets(), tmp_path / "moved.onnx"
    pretrain_file(before, path, max_iterations=2)
    after = onnx.load(path)
    stored = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for proto in (before, after)
    ]
    factors = (stored[1]["U"] / stored[0]["U"]).reshape(L, -1)
    assert np.ptp(np.median(factors, axis=1)) > 0.05


def cut(*bounds: tuple[int, int]) -> ir.Model:
    """Blocks of rows of one weight [6, 3]."""
    net = Unroller()
    net.input("x", 1, 3)
    w = net.weight(6, 3)
    for start, end in bounds:
        block = net.op("Slice", w, *(net.constant([k]) for k in (start, end, 0)))
        net.output(net.op("MatMul", "x", net.op("Transpose", block, perm=[1, 0])))
    return normalize(net.model(), {"x": (1, 3)}, {})


def test_blocks_keep_their_values_and_places() -> None:
    found = cut((0, 2), (2, 6), (0, 2))
    whole = next(v for v in found.graph.initializers.values() if v.shape == (6, 3))
    assert whole.const_value is not None
    array, origin = whole.const_value.numpy(), origin_of(whole)
    split_weights(found)
    blocks = [v for v in found.graph.initializers.values() if origin_of(v) == origin and place_of(v)]
    assert sorted(place_of(block) for block in blocks) == [((0, 2),), ((2, 6),)]
    for block in blocks:
        assert block.const_value is not None
        np.testing.assert_array_equal(block.const_value.numpy(), array[indices_of(place_of(block))])


@pytest.mark.parametrize("bounds", [((0, 3), (2, 6)), ((0, 6), (0, 2))])
def test_blocks_that_overlap_stay_one_weight(bounds: tuple[tuple[int, int], ...]) -> None:
    found = cut(*bounds)
    split_weights(found)
    assert not any(place_of(v) for v in found.graph.initializers.values())


def test_a_row_of_a_block_is_a_row_of_the_tensor() -> None:
    net = Unroller()
    net.input("x", 3)
    block = net.op("Slice", net.weight(6, 3), *(net.constant([k]) for k in (2, 5, 0)))
    for row in range(2):
        net.output(net.op("Mul", "x", net.op("Gather", block, net.constant(row), axis=0)))
    found = normalize(net.model(), {"x": (3,)}, {})
    split_weights(found)
    assert {place_of(v) for v in found.graph.initializers.values()} >= {(2,), (3,)}
