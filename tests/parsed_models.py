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
