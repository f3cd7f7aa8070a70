"""Pieces of a graph in torch: shared parameters, distinct names, clear refusals."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from lsc_graph.errors import ConversionError
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.segment import Parameters, Segment


def loaded(first: str = "w.a", second: str = "w_a") -> tuple[onnx.ModelProto, ir.Model]:
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("MatMul", ["x", first], ["m"]),
                onnx.helper.make_node("Tanh", ["m"], ["n"]),
                onnx.helper.make_node("MatMul", ["n", second], ["k"]),
                onnx.helper.make_node("MatMul", ["k", first], ["y"]),
            ],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])],
            [
                onnx.numpy_helper.from_array(np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3), first),
                onnx.numpy_helper.from_array(np.linspace(1, -1, 9, dtype=np.float32).reshape(3, 3), second),
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return proto, ir.from_proto(proto)


def segment(model: ir.Model, inputs: list[str], outputs: list[str], parameters: Parameters) -> Segment:
    return Segment(model.graph, inputs, outputs, opsets={"": 17}, parameters=parameters)


@pytest.mark.parametrize("names", [("w.a", "w_a"), ("p1", "p0"), ("x0", "p_0")])
def test_names_that_look_alike_as_identifiers_stay_apart(names: tuple[str, str]) -> None:
    proto, model = loaded(*names)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    (y,) = segment(model, ["x"], ["y"], Parameters())(torch.from_numpy(x))
    np.testing.assert_allclose(y.detach().numpy(), Reference(proto).run({"x": x})["y"], rtol=1e-5)


def test_segments_of_one_model_share_their_parameters() -> None:
    _, model = loaded()
    parameters = Parameters()
    lower, upper = (segment(model, [a], [b], parameters) for a, b in (("x", "n"), ("k", "y")))
    assert parameters.names() == ("w.a",)
    x = torch.ones(2, 3)
    before = lower(x)[0], upper(x)[0]
    with torch.no_grad():
        parameters["w.a"].mul_(2)
    assert not torch.equal(lower(x)[0], before[0])
    torch.testing.assert_close(upper(x)[0], 2 * before[1])


def test_cutting_at_values_and_asking_for_inputs_and_initializers_works() -> None:
    _, model = loaded()
    piece = segment(model, ["n", "x"], ["k", "x", "w_a"], Parameters())
    n, x = torch.randn(2, 3), torch.randn(2, 3)
    k, same, weight = piece(n, x)
    assert torch.equal(same, x)
    torch.testing.assert_close(k, n @ weight)


def test_no_outputs_is_a_segment_too() -> None:
    _, model = loaded()
    assert segment(model, ["x"], [], Parameters())(torch.zeros(2, 3)) == ()


def test_running_statistics_are_shared_but_not_trained() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4] x, float[2] s, float[2] b, float[2] mean, float[2] var) => (float[1, 2, 4] y)
    { y = BatchNormalization(x, s, b, mean, var) }
    """
    proto = onnx.parser.parse_model(text)
    for name in ("s", "b", "mean", "var"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), name))
    while len(proto.graph.input) > 1:
        proto.graph.input.pop()
    parameters = Parameters()
    segment(ir.from_proto(proto), ["x"], ["y"], parameters)
    assert {name for name in parameters.names() if parameters[name].requires_grad} == {"s", "b"}


def test_an_operator_without_a_counterpart_is_refused_with_its_name() -> None:
    proto, _ = loaded()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Mystery", "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(ConversionError, match="Mystery"):
        Segment(
            ir.from_proto(proto).graph,
            ["x"],
            ["y"],
            opsets={"": 17, "com.example": 1},
            parameters=Parameters(),
        )


def test_running_statistics_from_outside_of_the_piece_are_read_by_plain_operators() -> None:
    """As in a step whose statistics are captured: torch's operator cannot take them batched."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4] x, float[2] s, float[2] b, float[2] mean, float[2] var) => (float[1, 2, 4] y)
    { y = BatchNormalization <epsilon = 0.5> (x, s, b, mean, var) }
    """
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    shapes = {"x": (1, 2, 4), "s": 2, "b": 2, "mean": 2, "var": 2}
    feed = {name: generator.random(shape).astype(np.float32) for name, shape in shapes.items()}
    piece = segment(ir.from_proto(proto), list(feed), ["y"], Parameters())
    points = [torch.from_numpy(value).expand(3, *value.shape) for value in feed.values()]
    (y,) = torch.func.vmap(piece)(*points)
    np.testing.assert_allclose(y[1].numpy(), Reference(proto).run(feed)["y"], rtol=1e-5, atol=1e-6)


def test_initializers_that_are_fixed_are_not_trained() -> None:
    _, model = loaded()
    names = list(model.graph.initializers)
    parameters = Parameters(fixed=names[:1])
    segment(model, ["x"], ["y"], parameters)
    assert {name for name in parameters.names() if not parameters[name].requires_grad} == {names[0]}
