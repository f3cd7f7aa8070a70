"""The gain of all edges into a layer, where each of them is looked at at some times of its own."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lsc_graph import audit
from lsc_graph.jacobians import local
from lsc_graph.jacobians.sampled_norms import Joint, SampledNorms, joint_gain, note_joint
from lsc_graph.to_torch import black_box

N, T = 4, 32


def test_what_was_not_looked_at_is_as_large_as_it_usually_is() -> None:
    joint: Joint = defaultdict(list)
    now = SampledNorms("b", [(t, t) for t in range(4)], {0: (3.0,), 2: (4.0,)}, (5, 5))
    past = SampledNorms("b", [(t, t + 1) for t in range(3)], {1: (1.0,)}, (5, 7))
    note_joint(joint, [now, past])
    assert joint == {("b", 0): [((3.0,), 5, 5)], ("b", 2): [((4.0,), 5, 5), ((1.0,), 5, 7)]}
    other: Joint = defaultdict(list)
    note_joint(other, [now, SampledNorms("b", past.pairs, {0: (1.0,), 2: (2.0,)}, (5, 7))])
    usual = math.sqrt(12.5)
    assert other["b", 1] == [((pytest.approx(usual),), 5, 5), ((1.0,), 5, 7)]
    assert joint_gain(other["b", 1]) == pytest.approx(math.sqrt(13.5) / (5 * 12) ** 0.25)


STEP = f"""
    (float[1, {N}] h, float[1, {N}] x_t) => (float[1, {N}] h_new, float[1, {N}] y_t)
    {{ r = MatMul(h, U) h_new = Add(r, x_t) y_t = Identity(h_new) }}"""


def linear_layers(between: str) -> onnx.ModelProto:
    """Recurrent layers `s` and `y`; what is between them makes the sequence `both` from A, B and s."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[{T}, 1, {N}] x) => (float[{T}, 1, {N}] y)
    {{
        low, s = Scan <num_scan_inputs = 1, body = low_step {STEP}> (zero, x)
        {between}
        high, y = Scan <num_scan_inputs = 1, body = high_step {STEP}> (zero, both)
    }}"""
    model = onnx.parser.parse_model(text)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    values = {
        "U": 0.5 * turn,
        "A": 0.4 * turn.T,
        "B": 1.2 * turn,
        "zero": np.zeros((1, N)),
        "none": np.zeros((1, 1, N)),
    }
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for name, number in (("first", 0), ("last", T - 1), ("axis", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    return model


NOW_AND_BEFORE = """
    past = Slice(s, first, last, axis)
    late = Concat <axis = 0> (none, past)
    now = MatMul(s, A)
    before = MatMul(late, B)
    both = Add(now, before)"""
PAST_A_LAYER = f"""
    middle, m = Scan <num_scan_inputs = 1, body = middle_step {STEP}> (zero, s)
    one = MatMul(s, A)
    other = MatMul(m, B)
    both = Add(one, other)"""
BOTH = math.hypot(0.4, 1.2) / 2**0.25


@pytest.mark.parametrize("is_pushed", [False, True])
def test_the_gain_of_edges_over_several_steps_is_that_of_their_blocks_side_by_side(
    monkeypatch: pytest.MonkeyPatch, *, is_pushed: bool
) -> None:
    """However few times are looked at: of the gains of single edges, it would be the mean."""
    if is_pushed:
        monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    use = "always" if is_pushed else "never"
    found = audit(linear_layers(NOW_AND_BEFORE), num_samples=1, black_box=use)
    (edge,) = found.layers[1].depth_edges
    gain = found.layers[1].depth_gain
    assert gain is not None
    assert edge.gain.min == pytest.approx(0.4, rel=1e-4)
    assert edge.gain.max == pytest.approx(1.2, rel=1e-4)
    assert gain.max == pytest.approx(BOTH, rel=1e-4)
    # The first step has none before it.
    assert gain.mean == pytest.approx(BOTH, rel=0.1)


@pytest.mark.parametrize("way", ["blocks", "pulls", "pushes"])
def test_the_gain_of_edges_from_several_layers_is_that_of_their_blocks_side_by_side(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "pulls":
        monkeypatch.setattr(local, "MAPS_FROM", 2)
    if way == "pushes":
        monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    use = "always" if way == "pushes" else "never"
    found = audit(linear_layers(PAST_A_LAYER), num_samples=1, black_box=use)
    last = found.layers[2]
    gains = {edge.source: edge.gain.mean for edge in last.depth_edges}
    assert gains == {"layer_0": pytest.approx(0.4, rel=0.1), "layer_1": pytest.approx(1.2, rel=0.1)}
    assert last.depth_gain is not None
    assert last.depth_gain.mean == pytest.approx(BOTH, rel=0.1)


def test_gains_become_norms() -> None:
    found = SampledNorms.of("b", [(0, 0), (1, 1)], [1], torch.tensor([2.0]), (4, 9))
    assert found.norms == {1: (pytest.approx(2 * 6**0.5),)}
    batch = SampledNorms.of("b", [(0, 0), (1, 1)], [1, 0], torch.tensor([[2.0, 1.0], [3.0, 4.0]]), (1, 1))
    assert batch.norms == {1: (2.0, 3.0), 0: (1.0, 4.0)}
    assert batch.usual == (pytest.approx(math.sqrt(2.5)), pytest.approx(math.sqrt(12.5)))


def test_the_gain_of_batches_is_the_mean_of_that_of_their_entries_unless_these_meet() -> None:
    apart = [((3.0, 6.0), 2, 2), ((4.0, 8.0), 2, 2)]
    assert joint_gain(apart) == pytest.approx((5 + 10) / 2 / (2 * 4) ** 0.25)
    met = [((3.0, 6.0), 2, 2), ((4.0,), 4, 4)]
    assert joint_gain(met) == pytest.approx(math.sqrt(9 + 36 + 16) / (4 * 8) ** 0.25)
    assert joint_gain([((3.0,), 2, 2), ((4.0,), 4, 4)]) is None
