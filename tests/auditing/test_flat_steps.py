"""Thresholds that no single operator shows are seen where values move and derivatives do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lsc_graph.models import registry
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import audit
from lsc_graph.auditing import confirmed_meter
from lsc_graph.errors import AnalysisError, ParityError

SIZE, STEPS = 6, 8
node = helper.make_node

STEPWISE = {
    "Sub": [node("Mod", ["u", "one"], ["r"], fmod=1), node("Sub", ["u", "r"], ["s"], name="last")],
    "Relu": [
        node("Mul", ["u", "huge"], ["v"]),
        node("Relu", ["v"], ["a"]),
        node("Sub", ["v", "one"], ["w"]),
        node("Relu", ["w"], ["b"]),
        node("Sub", ["a", "b"], ["s"], name="last"),
    ],
}
UNSTABLE = {
    "Abs": [node("Abs", ["u"], ["a"]), node("Div", ["a", "u"], ["s"], name="last")],
    "Sqrt": [
        node("Mul", ["u", "u"], ["q"]),
        node("Sqrt", ["q"], ["a"]),
        node("Div", ["a", "u"], ["s"], name="last"),
    ],
}
SMOOTH = {
    "relu": [node("Relu", ["u"], ["s"])],
    "hard": [node("HardSigmoid", ["u"], ["s"])],
    "steep": [node("Mul", ["u", "ten"], ["s"])],
    "of a small slope": [node("Mul", ["u", "small"], ["v"]), node("Add", ["v", "one"], ["s"])],
    "constant": [
        node("Relu", ["u"], ["a"]),
        node("Pow", ["a", "zero"], ["c"]),
        node("Add", ["c", "u"], ["s"]),
    ],
}
CONSTANTS = {"one": 1.0, "ten": 10.0, "huge": 1e9, "small": 1e-6, "zero": 0.0, "factor": 0.3}


def value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def scan(own: str, steps: list[onnx.NodeProto], read: str = "u") -> list[onnx.NodeProto]:
    """A recurrence h' = 0.3 s(u), u = W h + x, or of what it reads alone."""
    nodes = [node("MatMul", ["h", "W"], ["wh"]), node("Add", ["wh", "x"], ["sum"])]
    nodes.append(node("Identity", ["sum" if read == "u" else "x"], ["u"]))
    nodes += [*steps, node("Mul", ["s", "factor"], ["p"])]
    nodes.append(node("Identity", ["p"], ["n"]) if read == "u" else node("Add", ["p", "sum"], ["n"]))
    nodes.append(node("Identity", ["n"], ["y"]))
    inside = [value("h", 1, SIZE), value("x", 1, SIZE)], [value("n", 1, SIZE), value("y", 1, SIZE)]
    body = helper.make_graph(nodes, "body", *inside)
    below = "X" if own == "Y" else "Y"
    return [node("Scan", ["h0", below], [f"last_{own}", own], body=body, num_scan_inputs=1)]


def model(*layers: list[onnx.NodeProto], output: str = "Y") -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    tensors = [numpy_helper.from_array(weight, "W")]
    tensors += [numpy_helper.from_array(np.float32(own), name) for name, own in CONSTANTS.items()]
    given = [value("h0", 1, SIZE), value("X", STEPS, 1, SIZE)]
    nodes = [own for layer in layers for own in layer]
    graph = helper.make_graph(nodes, "graph", given, [value(output, STEPS, 1, SIZE)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cuts(proto: onnx.ModelProto) -> list[str]:
    return [own for own in audit(proto).warnings if "gradient is cut there" in own]


@pytest.mark.parametrize("name", STEPWISE)
def test_a_threshold_made_of_operators_that_have_derivatives_is_named(name: str) -> None:
    (words,) = cuts(model(scan("Y", STEPWISE[name])))
    assert words.startswith("last (Sub) changes with the states")


def test_one_on_the_way_from_layer_to_layer_is_named() -> None:
    (words,) = cuts(model(scan("Y", SMOOTH["steep"]), scan("Z", STEPWISE["Sub"], read="x"), output="Z"))
    assert "last (Sub)" in words


@pytest.mark.parametrize("name", UNSTABLE)
def test_gradients_that_differ_are_refused_with_their_numbers_and_what_cuts_them(name: str) -> None:
    with pytest.raises(AnalysisError, match=r"(?s)gradient of norm .*gradient is cut at last \(Div\)"):
        audit(model(scan("Y", UNSTABLE[name])))


def test_an_error_of_another_kind_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ParityError("differs")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(confirmed_meter, "check_against_autograd", fail)
    with pytest.raises(ParityError) as caught:
        audit(model(scan("Y", STEPWISE["Sub"])), black_box="never")
    assert caught.value is error


@pytest.mark.parametrize("name", SMOOTH)
def test_what_has_a_derivative_somewhere_or_does_not_move_is_not(name: str) -> None:
    assert cuts(model(scan("Y", SMOOTH[name]))) == []


@pytest.mark.parametrize("is_below", [False, True])
def test_a_threshold_that_an_operator_shows_is_named_once(is_below: bool) -> None:
    floor = [node("Floor", ["u"], ["s"], name="last")]
    both = model(scan("Y", SMOOTH["steep"]), scan("Z", floor, read="x"), output="Z")
    (words,) = cuts(both if is_below else model(scan("Y", floor)))
    assert words == "last (Floor) has zero derivative: the gradient is cut there"


def test_a_threshold_on_what_a_layer_below_wrote_is_given_a_surrogate() -> None:
    spike = [node("Sign", ["u"], ["s"], name="last")]
    both = model(scan("Y", SMOOTH["steep"]), scan("Z", spike, read="x"), output="Z")
    found = audit(both, surrogate="triangle")
    assert found.surrogate is not None
    assert found.surrogate.nodes == ("last (Sign)",)
    assert found.layers[1].depth_edges[0].gain.mean > 0


def test_surrogates_are_derivatives() -> None:
    found = audit(registry.build("alif"), num_steps=STEPS, surrogate="triangle")
    assert not any("gradient is cut there" in own for own in found.warnings)
