"""Models of the zoo with larger or smaller matrices."""

from __future__ import annotations

import numpy as np
import onnx
from lsc_graph.models import registry
from onnx import TensorProto, numpy_helper


def with_scaled_weights(name: str, scale: float, **options: object) -> onnx.ModelProto:
    """A model of the zoo whose matrices are multiplied by a number."""
    proto = registry.build(name, **options)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == TensorProto.FLOAT:
            scaled = (numpy_helper.to_array(tensor) * scale).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    return proto
