"""Radii of a batch are those of its entries, whatever form the recurrence has; other axes are no batch."""

from __future__ import annotations

from statistics import mean

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models.gru import gru
from lsc_graph.models.lru import lru
from onnx import helper

from lsc_graph.audit_model import audit
from lsc_graph.jacobians import local
from lsc_graph.results import Analysis, Form

FORMS = (Form.FUSED_OP, Form.SCAN, Form.LOOP, Form.UNROLLED, Form.STREAMING)
T, B, D = 5, 3, 8


def together_and_apart(model: onnx.ModelProto) -> tuple[Analysis, list[Analysis]]:
    """The audit of a batch, and those of its entries."""
    x = np.random.default_rng(0).standard_normal((T, B, D)).astype(np.float32)
    together = audit(model, num_samples=1, data={"x": x}, num_steps=T)
    apart = [audit(model, num_samples=1, data={"x": x[:, b : b + 1]}, num_steps=T) for b in range(B)]
    return together, apart


def assert_are_means(together: Analysis, apart: list[Analysis], *quantities: str) -> None:
    for index, layer in enumerate(together.layers):
        for quantity in quantities:
            found = getattr(layer, quantity)
            singles = [getattr(one.layers[index], quantity) for one in apart]
            assert (found is None) == (singles[0] is None)
            assert found is None or found.mean == pytest.approx(mean(one.mean for one in singles), abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_radii_and_gains_are_those_of_the_entries_in_every_form(form: Form) -> None:
    together, apart = together_and_apart(gru(form=form, num_steps=T).model)
    assert_are_means(together, apart, "time_radius", "time_gain", "depth_radius", "depth_gain")
    assert any("a batch of 3 independent entries" in warning for warning in together.warnings)
    assert not any("batch" in warning for one in apart for warning in one.warnings)


def test_units_and_maps_are_taken_entry_by_entry_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_MIN_UNITWISE", 0)
    assert_are_means(*together_and_apart(lru(form=Form.SCAN).model), "time_radius")
    monkeypatch.undo()
    monkeypatch.setattr(local, "MAX_TIME_BYTES", 0)
    together, apart = together_and_apart(gru().model)
    assert_are_means(together, apart, "time_radius", "time_gain", "depth_radius", "depth_gain")
    assert any(warning.endswith("are those of single entries") for warning in together.warnings)


class Written(torch.nn.Module):
    """A cell over a sequence [B, T, D] in a Python loop; `mixes` lets the entries of the batch meet."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.cell, self.mixes = torch.nn.RNNCell(D, D), mixes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(B, D)
        steps = []
        for time in range(T):
            h = self.cell(x[:, time], h - h.mean(0) if self.mixes else h)
            steps.append(h)
        return torch.stack(steps, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mixes", [False, True])
def test_a_batch_whose_entries_meet_is_looked_at_as_a_whole(mixes: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(B, T, D)
    program = torch.onnx.export(Written(mixes), (x,), dynamo=True, verbose=False, input_names=["x"])
    assert program is not None
    analysis = audit(program.model_proto, data={"x": x.numpy()}, num_samples=1)
    (layer,) = analysis.layers
    (warning,) = [warning for warning in analysis.warnings if "batch" in warning]
    assert ("independent entries" in warning) != mixes
    assert ("not within or between layer_0: there entries are computed from each other" in warning) == mixes
    assert ("audit one alone (--input-shape or --data with a batch of one)" in warning) == mixes
    assert layer.time_radius is not None
    assert layer.time_radius.num_points == (T - 1) * (1 if mixes else B)


@pytest.mark.parametrize("share", [0.3, 3e-3, 3e-4])
def test_places_of_a_sequence_that_hardly_look_at_one_another_are_no_batch(share: float) -> None:
    """Two layers over places: the first one also reads the place before, a little."""
    rng = np.random.default_rng(0)
    weights = {name: (rng.standard_normal((D, D)) / D**0.5).astype(np.float32) for name in "UVW"}
    weights["V"] *= share
    constants = {"starts": [0, 0, 0], "ends": [1, T - 1, D], "pads": [0, 1, 0, 0, 0, 0]}
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "starts", "ends"], ["cut"]),
            helper.make_node("Pad", ["cut", "pads"], ["earlier"]),
            helper.make_node("MatMul", ["x", "U"], ["own"]),
            helper.make_node("MatMul", ["earlier", "V"], ["other"]),
            helper.make_node("Add", ["own", "other"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["first"]),
            helper.make_node("MatMul", ["first", "W"], ["product"]),
            helper.make_node("Tanh", ["product"], ["y"]),
        ],
        "places",
        [value("x", 1, T, D)],
        [value("y", 1, T, D)],
        [onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()]
        + [onnx.numpy_helper.from_array(np.array(own), name) for name, own in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    analysis = audit(model, num_samples=2)
    assert not any("batch" in warning for warning in analysis.warnings)
    radius = analysis.layers[1].depth_radius
    assert radius is not None
    assert radius.num_points == 2


def test_heads_with_weights_of_their_own_are_no_batch() -> None:
    heads, width = 3, 4
    rng = np.random.default_rng(0)
    weight = (0.3 * rng.standard_normal((heads, width, width))).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["h", "W"], ["wh"]),
        helper.make_node("Add", ["wh", "x_t"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_next"]),
    ]
    analysis = audit(scanned(nodes, ["h"], (heads, 1, width), W=weight), num_samples=1)
    assert not any("batch" in warning for warning in analysis.warnings)
    assert analysis.layers[0].time_radius is not None
    assert analysis.layers[0].time_radius.num_points == T - 1


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
def test_units_whose_own_weights_hardly_show_beside_their_inputs_are_no_batch(share: float) -> None:
    """States follow when inputs change place, as they are next to nothing but these; derivatives do not."""
    nodes = [helper.make_node("Mul", ["h", "w"], ["wh"]), helper.make_node("Add", ["wh", "x_t"], ["h_next"])]
    analysis = audit(scanned(nodes, ["h"], (4,), w=share * np.linspace(-0.9, 0.5, 4)), num_samples=1)
    assert not any("batch" in warning for warning in analysis.warnings)
    radius = analysis.layers[0].time_radius
    assert radius is not None
    assert radius.mean == pytest.approx(0.9 * share, rel=1e-3)


@pytest.mark.parametrize("share", [1e-3, 1e-4, 1e-6])
def test_nor_are_those_that_hardly_read_the_layer_below_each_in_its_own_way(share: float) -> None:
    nodes = [
        helper.make_node("Mul", ["a", "half"], ["ha"]),
        helper.make_node("Add", ["ha", "x_t"], ["a_next"]),
        helper.make_node("Mul", ["b", "half"], ["hb"]),
        helper.make_node("Mul", ["a_next", "w"], ["wa"]),
        helper.make_node("Sum", ["hb", "wa", "x_t"], ["b_next"]),
    ]
    model = scanned(nodes, ["a", "b"], (4,), half=np.array(0.5), w=share * np.linspace(-0.9, 0.5, 4))
    analysis = audit(model, num_samples=1)
    assert not any("batch" in warning for warning in analysis.warnings)
    radius = analysis.layers[1].depth_radius
    assert radius is not None
    assert radius.mean == pytest.approx(0.9 * share, rel=1e-3)


def scanned(
    nodes: list[onnx.NodeProto], states: list[str], shape: tuple[int, ...], **weights: np.ndarray
) -> onnx.ModelProto:
    """A Scan over x [T, *shape] of a step that takes states to `*_next`, from zeros; y is the last one."""
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", [f"{states[-1]}_next"], ["y_t"])],
        "step",
        [value(name, *shape) for name in (*states, "x_t")],
        [value(name, *shape) for name in (*(f"{state}_next" for state in states), "y_t")],
    )
    ends = [f"last_{state}" for state in states]
    given = weights | {"start": np.zeros(shape)}
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scan", ["start"] * len(states) + ["x"], [*ends, "y"], body=body, num_scan_inputs=1
            )
        ],
        "scanned",
        [value("x", T, *shape)],
        [value("y", T, *shape)],
        [onnx.numpy_helper.from_array(own.astype(np.float32), name) for name, own in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
