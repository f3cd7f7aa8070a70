"""Small models for tests of writing back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper


def small_model() -> ModelProto:
    """Two weights of two elements."""
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17], metadata_props: ["kept": "as it is"]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
        { a = Mul(x, w)  y = Mul(a, v) }
        """
    )


def external_model(folder: Path) -> Path:
    """Three tensors in one data file; `b` and `tied` share their bytes."""
    folder.mkdir()
    w = [numpy_helper.from_array(np.full((4, 4), k, np.float32), name) for k, name in enumerate("ab")]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["u"]), helper.make_node("MatMul", ["u", "b"], ["v"])]
    nodes.append(helper.make_node("MatMul", ["v", "tied"], ["y"]))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], w)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.add().CopyFrom(model.graph.initializer[1])
    model.graph.initializer[2].name = "tied"
    path.write_bytes(model.SerializeToString())
    return path
