"""What exporters have made by themselves is told from parameters where files tell, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import inspect
from lsc_graph.canonical.made import is_made
from lsc_graph.canonical.normalize import normalize
from lsc_graph.rerolling import reroll

KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
STEPS, SIZE = 6, 3


def network(*, has_constants: bool = False, has_kinds: bool = False) -> onnx.ModelProto:
    """h' = tanh(norm(x) + g h) written out, from zeros, with a scale of ones in the norm."""
    given = {
        "g": np.array([0.5, -0.4, 0.3]),
        "start": np.zeros((1, SIZE)),
        "scale": np.ones(SIZE),
        "when": np.array(0),
    }
    tensors = {name: _tensor(name, array) for name, array in given.items()}
    constants = ("start", "scale") if has_constants else ()
    nodes = [helper.make_node("Constant", [], [name], value=tensors.pop(name)) for name in constants]
    h, rows = "start", []
    for time in range(STEPS):
        tensors[f"t{time}"] = _tensor(f"t{time}", np.array(time))
        nodes += [
            helper.make_node("Gather", ["x", f"t{time}"], [f"x{time}"], axis=0),
            helper.make_node("LayerNormalization", [f"x{time}", "scale"], [f"n{time}"]),
            helper.make_node("Mul", [h, "g"], [f"d{time}"]),
            helper.make_node("Add", [f"n{time}", f"d{time}"], [f"s{time}"]),
            helper.make_node("Tanh", [f"s{time}"], [f"h{time}"]),
        ]
        h = f"h{time}"
        rows.append(h)
    nodes.append(helper.make_node("Concat", rows, ["y"], axis=0))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, 1, SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [STEPS, SIZE])
    graph = helper.make_graph(nodes, "g", [x], [y], list(tensors.values()))
    if has_kinds:
        info = helper.make_tensor_value_info("g", TensorProto.FLOAT, [SIZE])
        info.metadata_props.add(key=KIND, value="PARAMETER")
        graph.value_info.append(info)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)


TOLD = [{"has_constants": True}, {"has_kinds": True}]


@pytest.mark.parametrize("told", TOLD)
def test_what_is_no_parameter_is_known_to_be_made(told: dict[str, bool]) -> None:
    found = normalize(network(**told), {"x": (STEPS, 1, SIZE)}, {}).graph.initializers
    assert {str(name) for name in ("g", "start", "scale") if is_made(found[name])} == {"start", "scale"}


def test_a_file_that_does_not_tell_has_parameters_alone() -> None:
    found = normalize(network(), {"x": (STEPS, 1, SIZE)}, {}).graph.initializers
    assert not any(is_made(value) for value in found.values())
    (recurrence,) = inspect(network()).recurrences
    assert set(recurrence.weights) == {"g", "scale"}


@pytest.mark.parametrize("told", TOLD)
def test_equal_elements_that_an_exporter_has_made_are_not_trained(told: dict[str, bool]) -> None:
    proto = network(**told)
    (recurrence,) = inspect(proto).recurrences
    assert recurrence.weights == ("g",)
    (again,) = inspect(reroll(_saved(proto)).model).recurrences
    assert again.weights == ("g",)


def gated(*, has_kinds: bool) -> onnx.ModelProto:
    """The same with a gate for each step, which an exporter has computed from the number of the step."""
    proto = network(has_kinds=has_kinds)
    for node in proto.graph.node:
        if node.op_type == "Mul":
            node.input[1] = f"g{node.output[0]}"
            gate = np.random.default_rng(len(proto.graph.initializer)).uniform(size=SIZE)
            proto.graph.initializer.append(_tensor(node.input[1], gate))
    rows = [node for node in proto.graph.node if node.op_type == "Add"]
    for time, node in enumerate(rows):
        scaled = helper.make_node("Mul", [node.output[0], "g"], [f"z{time}"])
        next(own for own in proto.graph.node if own.input[0] == node.output[0]).input[0] = f"z{time}"
        proto.graph.node.insert(list(proto.graph.node).index(node) + 1, scaled)
    return proto


@pytest.mark.parametrize("has_kinds", [False, True])
def test_what_the_number_of_a_step_decides_is_trained_by_nothing(*, has_kinds: bool) -> None:
    (recurrence,) = inspect(gated(has_kinds=has_kinds)).recurrences
    assert recurrence.num_steps == STEPS
    gates = {f"gd{time}" for time in range(STEPS)} & set(recurrence.weights)
    assert bool(gates) is not has_kinds
    assert "g" in recurrence.weights


def _saved(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load_model_from_string(proto.SerializeToString())
