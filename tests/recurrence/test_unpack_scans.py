"""States that are carried in one tensor are the states that they are made of, in every form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lsc_graph.models.forms import STEP_FORMS, State, Step, in_form
from lsc_graph.models.graph import GraphBuilder

from lsc_graph.audit_model import audit
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unpack_scans import unpack_scans
from lsc_graph.results import Form
from lsc_graph.running.reference import Reference

T, H = 6, 5


def step(*, is_packed: bool, reads_whole: bool = False) -> Step:
    """Two tanh layers; the upper one reads what the lower one has just computed."""
    generator = np.random.default_rng(0)
    builder = GraphBuilder()
    weights = [
        builder.weight(f"w{i}", (0.4 * generator.standard_normal((H, H))).astype(np.float32))
        for i in range(4)
    ]
    if is_packed:
        bounds = [builder.integers([k * H]) for k in range(3)]
        axis = builder.integers([1])
        before = [builder.op("Slice", ["h", bounds[i], bounds[i + 1], axis], f"h{i}") for i in range(2)]
    else:
        before = ["h0", "h1"]
    below, after = "x", []
    for index in range(2):
        products = [
            builder.op("MatMul", [value, weights[2 * index + i]], f"product{index}{i}")
            for i, value in enumerate((below, before[index]))
        ]
        below = builder.op("Tanh", [builder.op("Add", products, f"sum{index}")], f"h{index}n")
        after.append(below)
    builder.op("Identity", [below], "y")
    if not is_packed:
        return Step(builder, tuple(State(f"h{i}", f"h{i}n", H) for i in range(2)), H, H)
    packed = builder.op("Concat", after, "hn" if not reads_whole else "joined", axis=1)
    if reads_whole:
        builder.op("Add", [packed, builder.op("Mul", ["h", "h"], "squares")], "hn")
    return Step(builder, (State("h", "hn", 2 * H),), H, H)


@pytest.mark.parametrize("form", STEP_FORMS)
def test_layers_counts_and_radii_are_those_of_separate_states(form: Form) -> None:
    x = np.random.default_rng(1).standard_normal((T, 1, H)).astype(np.float32)
    packed, separate = (
        audit(in_form(step(is_packed=is_packed), form, T), data={"x": x}, num_steps=T, num_samples=1)
        for is_packed in (True, False)
    )
    assert [layer.state_size for layer in packed.layers] == [H, H]
    assert packed.grid == separate.grid
    for one, two in zip(packed.layers, separate.layers, strict=True):
        for own, other in ((one.time_radius, two.time_radius), (one.depth_radius, two.depth_radius)):
            assert (own is None) == (other is None)
            if own is not None and other is not None:
                assert own.mean == pytest.approx(other.mean, abs=1e-6)


def normalized(proto: onnx.ModelProto) -> ir.Model:
    return normalize(proto, {"x": (T, 1, H)}, {})


def test_the_rewritten_scan_computes_the_same() -> None:
    model = normalized(in_form(step(is_packed=True), Form.SCAN, T))
    x = {"x": np.random.default_rng(1).standard_normal((T, 1, H)).astype(np.float32)}
    before = Reference(ir.to_proto(model)).run(x)
    (unpacked,) = unpack_scans(model).values()
    assert unpacked.counts == (2,)
    assert unpacked.names(["h"]) == ("h.0", "h.1")
    after = Reference(ir.to_proto(model)).run(x)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6)


@pytest.mark.parametrize(
    "packing",
    [{"is_packed": False}, {"is_packed": True, "reads_whole": True}],
    ids=["separate", "read whole"],
)
def test_other_scans_stay_as_they_are(packing: dict[str, bool]) -> None:
    model = normalized(in_form(step(**packing), Form.SCAN, T))
    before = ir.to_proto(model).SerializeToString()
    assert unpack_scans(model) == {}
    assert ir.to_proto(model).SerializeToString() == before
