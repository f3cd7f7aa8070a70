"""Indices from the end are counted from the front, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch

from lsc_graph.canonical.normalize import normalize
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.segment import Parameters, Segment

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[3, 4] x) => (float[4] last, float[3, 2] mixed)
{
    end = Constant<value = int64 {-1}>()
    both = Constant<value = int64[2] {-2, 1}>()
    last = Gather<axis = 0>(x, end)
    mixed = Gather<axis = -1>(x, both)
}
"""


def test_torch_and_onnx_runtime_agree_on_indices_from_the_end() -> None:
    proto = onnx.parser.parse_model(TEXT)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    expected = Reference(proto).run({"x": x})
    model = normalize(proto, {"x": (3, 4)}, {})
    found = Reference(ir.to_proto(model)).run({"x": x})
    segment = Segment(model.graph, ["x"], ["last", "mixed"], opsets={"": 17}, parameters=Parameters())
    for name, value in zip(("last", "mixed"), segment(torch.from_numpy(x)), strict=True):
        np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_array_equal(value.numpy(), expected[name])
