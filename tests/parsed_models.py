"""Models in ONNX's own words, with weights drawn for the names that the text leaves open."""

from __future__ import annotations

import numpy as np
import onnx


def parsed(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """The model that a text describes, with a random initializer of each name and shape."""
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = generator.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return proto


def saturated_softmax() -> onnx.ModelProto:
    """A streaming cell h' = 30 softmax(h) + x: what is left of its gradient are differences of ones."""
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8] x, float[1, 8] h) => (float[1, 8] h_out) {
            k = Constant<value_float = 30.0>() s = Softmax(h) t = Mul(s, k) h_out = Add(t, x)
        }
        """
    )
