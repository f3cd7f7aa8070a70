"""What is carried twice is one state; what only starts alike stays two."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from masked_models import T, masked

from lsc_graph.audit_model import inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.equal_states import merge_equal_states
from lsc_graph.running.reference import Reference

D = 3


def merged(model: ir.Model) -> list[tuple[int, ...]]:
    return [own.kept for own in merge_equal_states(model).values()]


@pytest.mark.parametrize("kept", ["where", "arithmetic"])
def test_the_last_output_of_a_masked_layer_is_its_state(kept: str) -> None:
    proto = masked("where", "last", level=-0.8)
    model = normalize(proto, {"x": (T, 1, D)}, {})
    assert merged(model) == [(0,)]
    feed = {"x": np.random.default_rng(0).standard_normal((T, 1, D)).astype(np.float32)}
    expected, actual = Reference(proto).run(feed), Reference(ir.to_proto(model)).run(feed)
    np.testing.assert_allclose(actual["out"], expected["out"], rtol=1e-6)


def test_states_with_other_starts_or_other_steps_stay_apart() -> None:
    other_start = masked("where", "last")
    scan = next(node for node in other_start.graph.node if node.op_type == "Scan")
    other_start.graph.initializer.add().CopyFrom(
        next(t for t in other_start.graph.initializer if t.name == "zeros")
    )
    other_start.graph.initializer[-1].name = "ones"
    other_start.graph.initializer[-1].raw_data = np.ones((1, 4), np.float32).tobytes()
    scan.input[1] = "ones"
    assert merged(normalize(other_start, {"x": (T, 1, D)}, {})) == []
    other_step = masked("where", "last")
    body = next(n for n in other_step.graph.node if n.op_type == "Scan").attribute[0].g
    last = next(n for n in body.node if n.output[0] == "y_new")
    last.input[1] = "s"
    assert merged(normalize(other_step, {"x": (T, 1, D)}, {})) == []
    assert len(inspect(other_step).recurrences[0].states) == 2


def test_models_without_such_states_are_left_as_they_are() -> None:
    model = normalize(masked(), {"x": (T, 1, D)}, {})
    before = ir.to_proto(model).SerializeToString()
    assert merged(model) == []
    assert ir.to_proto(model).SerializeToString() == before


def test_a_state_that_nothing_is_computed_from_is_left_out() -> None:
    """An average of h that is carried along, and whose last value is dropped."""
    proto = masked("where", "last")
    scan = next(node for node in proto.graph.node if node.op_type == "Scan")
    body = scan.attribute[0].g
    for node in body.node:
        if node.output[0] == "y_new":
            node.CopyFrom(onnx.helper.make_node("Add", ["y_old", "h_new"], ["y_new"]))
        if node.output[0] == "y":
            node.input[0] = "h_new"
    assert merged(normalize(proto, {"x": (T, 1, D)}, {})) == [(0,)]
    assert [state.shape for state in inspect(proto).recurrences[0].states] == [(1, 4)]
    next(node for node in body.node if node.output[0] == "y").input[0] = "y_new"
    assert merged(normalize(proto, {"x": (T, 1, D)}, {})) == []
