from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.free_sizes import bytes_depending, free_sizes


def model(body: str, shape: tuple[int, ...], **integers: list[int]) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float{list(shape)} x, float[4] b) => (float{list(shape)} y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    stored = {name: np.array(values, np.int64) for name, values in integers.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return proto


@pytest.mark.parametrize(
    ("shape", "inner", "batch"),
    [
        ((1, 4), [1, 2, 2], (5, 4)),
        ((1, 4), [2, 1, 2], None),
        ((1, 4), [1, -1, 2], (5, 4)),
        ((3, 1, 4), [3, 1, 2, 2], (3, 5, 4)),
        ((3, 4), [3, 2, 2], (15, 4)),
    ],
)
def test_reshapes_keep_the_batch_of_what_they_are_given(
    shape: tuple[int, ...], inner: list[int], batch: tuple[int, ...] | None
) -> None:
    proto = model(
        "r = Reshape(x, inner) t = Tanh(r) y = Reshape(t, whole)", shape, inner=inner, whole=[*shape]
    )
    free = Reference(free_sizes(proto))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(free.run({"x": x, "b": np.zeros(4, np.float32)})["y"], np.tanh(x), rtol=1e-5)
    if batch is not None:
        x = np.random.default_rng(0).standard_normal(batch).astype(np.float32)
        np.testing.assert_allclose(
            free.run({"x": x, "b": np.zeros(4, np.float32)})["y"], np.tanh(x), rtol=1e-5
        )


def test_the_model_that_sizes_are_freed_of_stays_as_it_is() -> None:
    proto = model("r = Reshape(x, inner) y = Reshape(r, whole)", (1, 4), inner=[1, 2, 2], whole=[1, 4])
    before = proto.SerializeToString()
    free_sizes(proto)
    assert proto.SerializeToString() == before


def test_what_follows_from_an_input_takes_memory_for_each_point() -> None:
    proto = model("t = Tanh(b) s = Exp(t) p = Mul(x, s) y = Neg(p)", (3, 4))
    assert bytes_depending(proto, ["x"]) == 3 * 12 * 8
    assert bytes_depending(proto, ["b"]) == (3 * 4 + 2 * 12) * 8
