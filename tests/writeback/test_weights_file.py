"""Weights as a safetensors file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lsc_graph.canonical.origins import find_tensor
from lsc_graph.errors import UsageError, WriteBackError
from lsc_graph.writeback.weights_file import save_weights

TEXT = """
<ir_version: 8, opset_import: ["" : 17], metadata_props: ["key": "value"]>
g (float[2] x, bool flag) => (float[2] y)
<float[2] w = {1, 2}, float16[2] half = {1, 3}, bfloat16[2] brain = {1, 3}, double[1, 2] wide = {1, 2},
 int64[1] n = {1}>
{
    c = Constant<value = float[2] {3, 4}>()
    a = Mul(x, w)
    b = Mul(a, c)
    h = If (flag) <
        then_branch = p () => (float[2] r) <float[2] w2 = {5, 6}> { r = Mul(b, w2) },
        else_branch = e () => (float[2] r2) { r2 = Neg(b) }
    >
    y = Identity(h)
}
"""
NAMES = ["w", "half", "brain", "wide", "c", "h/then_branch/w2"]


def test_torch_reads_every_type_at_every_place(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    proto = onnx.parser.parse_model(TEXT)
    save_weights(tmp_path / "w.safetensors", proto, NAMES)
    found = load_file(tmp_path / "w.safetensors")
    assert sorted(found) == sorted(NAMES)
    assert (found["half"].dtype, found["brain"].dtype) == (torch.float16, torch.bfloat16)
    for name in NAMES:
        tensor = find_tensor(proto, tuple(name.split("/")))
        assert tensor is not None
        np.testing.assert_array_equal(
            found[name].double().numpy(), numpy_helper.to_array(tensor).astype(float)
        )
        assert tuple(found[name].shape) == tuple(tensor.dims)


@pytest.mark.parametrize("name", ["nobody", "n"])
def test_what_is_no_weight_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WriteBackError, match=name):
        save_weights(tmp_path / "w.safetensors", onnx.parser.parse_model(TEXT), [name])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_or_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_weights(tmp_path / "no" / "w.safetensors", onnx.parser.parse_model(TEXT), ["w"])
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UsageError, match="pip install"):
        save_weights(tmp_path / "w.safetensors", onnx.parser.parse_model(TEXT), ["w"])
