"""Settings, statistics, tables and first states are told from weights by their use."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lsc_graph.recurrence.not_weights import are_frequencies, running_statistics, why_not_a_weight

ARRAYS = {
    "w": np.random.default_rng(0).normal(size=(8, 8)),
    "positions": np.random.default_rng(1).normal(size=(4, 8)),
    "rates": np.array([0.3, 0.1, 0.03, 0.01]),
    "scale": np.array([1.0, 2.0, 3.0, 4.0]),
    "mean": np.array([0.1, 0.2, 0.3, 0.4]),
    "epsilon": np.array([1e-5]),
}
TEXT = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[4, 8] x) => (float[1, 4, 8] y, float[N, 4] turned) {
    a = MatMul(x, w)
    b = Add(a, positions)
    c = Add(b, epsilon)
    axes = Constant <value_ints = [0]> ()
    d = Unsqueeze(c, axes)
    y = BatchNormalization(d, scale, scale, mean, scale)
    sizes = Shape(x)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    length = Gather <axis = 0> (sizes, zero)
    numbers = Range(zero, length, one)
    floats = Cast <to = 1> (numbers)
    column = Unsqueeze(floats, lastly)
    angles = Mul(column, rates)
    turned = Cos(angles)
}
"""


def graph(text: str = TEXT) -> ir.Graph:
    proto = onnx.parser.parse_model(text)
    tensors = [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in ARRAYS.items()]
    proto.graph.initializer.extend([*tensors, onnx.numpy_helper.from_array(np.array([1]), "lastly")])
    return ir.from_proto(proto).graph


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("w", None),
        ("positions", "positions"),
        ("rates", "frequencies"),
        ("scale", None),
        ("mean", "running statistics"),
        ("epsilon", "setting"),
    ],
)
def test_the_use_of_a_tensor_tells_what_it_is(name: str, reason: str | None) -> None:
    own = graph()
    statistics = running_statistics(own) - {"scale"}
    found = why_not_a_weight(own.initializers[name], ARRAYS[name], statistics)
    assert found is None if reason is None else reason in str(found)


def test_a_layer_of_sines_multiplies_data_and_is_a_weight() -> None:
    siren = TEXT.replace("Mul(column, rates)", "MatMul(x, w)").replace("float[N, 4]", "float[4, 8]")
    assert not are_frequencies(graph(siren).initializers["w"])
    alone = TEXT.replace("Cos(angles)", "Tanh(angles)")
    assert not are_frequencies(graph(alone).initializers["rates"])
