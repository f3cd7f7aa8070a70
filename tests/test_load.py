"""Bad files get one clear error each, before anything large is allocated."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsc_graph.models import registry

from lsc_graph.errors import (
    ExternalDataError,
    LimitExceededError,
    LoadError,
    LscGraphError,
    NotOnnxError,
    TruncatedModelError,
    UnsupportedOpsetError,
)
from lsc_graph.limits import Limits
from lsc_graph.load import load

MODEL = registry.build("gru")
BYTES = MODEL.SerializeToString()


def saved(folder: Path, data: bytes, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_path_bytes_and_proto_give_the_same_model(tmp_path: Path) -> None:
    found = [load(saved(tmp_path, BYTES)), load(BYTES), load(MODEL)]
    assert len({model.proto.SerializeToString() for model in found}) == 1
    facts = found[0].facts
    assert facts.num_parameters == sum(
        int(np.prod(t.dims)) for t in MODEL.graph.initializer if t.data_type == 1
    )
    assert facts.num_nodes == len(MODEL.graph.node)
    assert facts.opsets["ai.onnx"] == 17


@pytest.mark.parametrize(
    "data",
    [b"", b"hello, I am a text file\n", b"PK\x03\x04rest", b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 4],
    ids=["empty", "text", "zip", "png", "random"],
)
def test_what_is_not_onnx_is_called_so(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(NotOnnxError, match="not an ONNX model"):
        load(saved(tmp_path, data))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_a_model_that_ends_early_is_truncated(keep: float) -> None:
    with pytest.raises(TruncatedModelError):
        load(BYTES[: int(len(BYTES) * keep)])


def test_a_missing_file_a_near_name_and_a_folder(tmp_path: Path) -> None:
    saved(tmp_path, BYTES)
    with pytest.raises(LoadError, match=r"did you mean .*model\.onnx"):
        load(tmp_path / "modle.onnx")
    with pytest.raises(LoadError, match="folder is not a model"):
        load(tmp_path)


@pytest.mark.parametrize("version", [1, 6, 999])
def test_operator_sets_out_of_range_are_refused(version: int) -> None:
    model = registry.build("gru")
    model.opset_import[0].version = version
    with pytest.raises(UnsupportedOpsetError, match=str(version)):
        load(model)


def test_a_graph_that_the_checker_rejects_is_refused() -> None:
    model = registry.build("gru")
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(LoadError, match="nobody"):
        load(model)


def test_a_tensor_with_less_data_than_its_shape_needs_is_truncated() -> None:
    model = registry.build("gru")
    tensor = next(t for t in model.graph.initializer if t.raw_data)
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(TruncatedModelError, match=tensor.name):
        load(model)


def external(folder: Path) -> Path:
    path = folder / "external.onnx"
    onnx.save_model(
        registry.build("gru"), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def redirected(path: Path, location: str) -> Path:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    found = load(external(tmp_path)).proto
    for ours, theirs in zip(found.graph.initializer, MODEL.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(ours), onnx.numpy_helper.to_array(theirs))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match="missing"):
        load(path)


def test_external_data_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ExternalDataError, match="ends before"):
        load(path)


@pytest.mark.parametrize("kind", ["dots", "absolute", "link"])
def test_external_data_outside_the_folder_is_never_read(kind: str, tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    path = external(inner)
    secret = tmp_path / "secret.bin"
    secret.write_bytes((inner / "weights.bin").read_bytes())
    (inner / "link.bin").symlink_to(secret)
    locations = {"dots": "../secret.bin", "absolute": str(secret), "link": "link.bin"}
    with pytest.raises(ExternalDataError, match="outside"):
        load(redirected(path, locations[kind]))


def test_external_data_of_a_model_given_as_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExternalDataError, match="needs a folder"):
        load(external(tmp_path).read_bytes())


def test_sizes_are_capped_before_anything_is_allocated() -> None:
    model = registry.build("gru")
    model.graph.initializer[0].dims[:] = [2**20, 2**20]
    with pytest.raises(LimitExceededError, match="bytes of tensors"):
        load(model)
    with pytest.raises(LimitExceededError, match="nodes"):
        load(MODEL, Limits(max_nodes=2))


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, len(BYTES) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_never_raise_anything_but_our_errors(position: int, value: int, cut: bool) -> None:
    damaged = BYTES[:position] if cut else BYTES[:position] + bytes([value]) + BYTES[position + 1 :]
    with contextlib.suppress(LscGraphError):
        load(damaged)


def test_outputs_without_a_declared_shape_are_accepted_as_onnx_runtime_does() -> None:
    model = registry.build("gru")
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    assert not load(model).proto.graph.output[0].type.tensor_type.HasField("shape")
