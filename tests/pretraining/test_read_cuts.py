"""Weights are cut apart where the model does so itself."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from unrolled_models import Unroller, at, stacked

from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.pretraining.read_cuts import read_cuts

N, M = 10, 4
CASES = {
    "slices": (
        "a = Slice(w, zero, three, axis1) b = Slice(w, three, last, axis1) y = Concat<axis = 1>(b, a)",
        {1: (3,)},
    ),
    "a split": ("a, b, c = Split<axis = 0>(w, sizes) y = Concat<axis = 0>(c, b, a)", {0: (2, 7)}),
    "a product with what was joined": ("j = Concat<axis = 1>(p, q) y = MatMul(j, w)", {0: (4,)}),
    "transposed": (
        "j = Concat<axis = 1>(p, q) u = Transpose(w) v = Transpose(u) y = MatMul(j, v)",
        {0: (4,)},
    ),
    "a Gemm with the transpose": ("j = Concat<axis = 1>(r, s) y = Gemm<transB = 1>(j, w)", {1: (1,)}),
    "as first operand": ("j = Concat<axis = 0>(r2, s2) y = MatMul(w, j)", {1: (1,)}),
    "batches that were joined": ("j = Concat<axis = 0>(t, t) y = MatMul(j, w)", {}),
    "every other column": ("y = Slice(w, zero, last, axis1, two)", {}),
    "the whole": ("y = Slice(w, zero, last, axis1)", {}),
}
INPUTS = {"p": (2, 4), "q": (2, 6), "r": (2, 1), "s": (2, 3), "r2": (1, 2), "s2": (3, 2), "t": (2, N)}


@pytest.mark.parametrize("name", CASES)
def test_cuts_are_where_the_model_reads_a_part(name: str) -> None:
    body, expected = CASES[name]
    inputs = ", ".join(f"float[{rows}, {columns}] {key}" for key, (rows, columns) in INPUTS.items())
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> m ({inputs}) => (float[a, b] y) {{ {body} }}'
    )
    arrays = {"zero": [0], "three": [3], "last": [M], "axis1": [1], "two": [2], "sizes": [2, 5, 3]}
    tensors = [numpy_helper.from_array(np.array(array), key) for key, array in arrays.items()]
    weight = np.random.default_rng(0).standard_normal((N, M)).astype(np.float32)
    proto.graph.initializer.extend([*tensors, numpy_helper.from_array(weight, "w")])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    assert read_cuts([model.graph.initializers["w"]]) == expected


def test_a_matrix_for_input_and_state_moves_both_radii(tmp_path: Path) -> None:
    """h' = tanh(cat([x, h], 1) W), as steps are often written by hand; no width fits twice into an axis."""
    net, steps, sizes = Unroller(), 6, (4, 16, 24)
    weights = [net.weight(low + high, high) for low, high in pairwise(sizes)]
    states = [net.input(f"h{index}", 1, size) for index, size in enumerate(sizes[1:])]
    x, rows = net.input("x", steps, 1, sizes[0]), []
    for time in range(steps):
        below = at(net, x, time)
        for index, weight in enumerate(weights):
            joined = net.op("Concat", below, states[index], axis=1)
            states[index] = below = net.op("Tanh", net.op("MatMul", joined, weight))
        rows.append(below)
    net.output(stacked(net, rows))
    onnx.save(net.model(), tmp_path / "in.onnx")
    report = pretrain_file(tmp_path / "in.onnx", tmp_path / "out.onnx", target_time=0.8, target_depth=0.4)
    assert report.is_reached
    assert [change.is_reached for change in report.radii] == [True] * 3
