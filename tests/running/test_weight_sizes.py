"""Sizes of inputs that only the weights tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from lsc_graph.audit_model import inspect
from lsc_graph.running.weight_sizes import weight_sizes

OPERATORS = {
    "MatMul(x, w)": ((181, 7), 181),
    "Gemm(x, w)": ((181, 7), 181),
    "Gemm <transB = 1> (x, w)": ((7, 181), 181),
    "Conv(x, w)": ((7, 181, 3), 181),
    "GRU <hidden_size = 5> (x, w, r)": ((1, 15, 181), 181),
    "Add(x, w)": ((181, 7), None),
}


def model_of(text: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    proto = parse_model(f'<ir_version: 10, opset_import: ["" : 18]> m {text}')
    generator = np.random.default_rng(0)
    for name, shape in weights.items():
        array = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_ask_for_the_size_that_their_weights_read(operator: str) -> None:
    shape, size = OPERATORS[operator]
    proto = model_of(f"(float[a,b] x) => (float[c,d] y) {{ y = {operator} }}", {"w": shape})
    assert weight_sizes(proto) == (() if size is None else (size,))


def test_constants_in_nodes_are_weights_too() -> None:
    proto = model_of("(float[a,b] x) => (float[c,d] y) { y = MatMul(x, w) }", {"w": (181, 7)})
    (tensor,) = proto.graph.initializer
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, node)
    assert weight_sizes(proto) == (181,)


def test_a_recurrence_whose_features_only_its_weights_tell_is_found(tmp_path: Path) -> None:
    """181 is none of the usual sizes."""
    proto = model_of(
        """(float[time,features] x) => (float[time,1,1,5] y) {
            one = Constant <value_ints = [1]> ()
            s = Unsqueeze(x, one) y, last = GRU <hidden_size = 5> (s, w, r) }""",
        {"w": (1, 15, 181), "r": (1, 15, 5)},
    )
    onnx.save(proto, tmp_path / "open.onnx")
    found = inspect(tmp_path / "open.onnx")
    assert [own.num_steps for own in found.recurrences] == [32]
    (given,) = found.inputs
    assert tuple(given.shape) == (32, 181)
