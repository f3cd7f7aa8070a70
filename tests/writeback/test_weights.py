"""New values change their own bytes and nothing else, in every place where a tensor can stand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from writeback_models import external_model

from lsc_graph.canonical.origins import Origin, find_tensor
from lsc_graph.errors import UsageError, WriteBackError
from lsc_graph.model_file.load import load
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.writeback.difference import differences, without_values
from lsc_graph.writeback.weights import with_values, written

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1], metadata_props: ["kept": "as it is"]>
g (float[2] x, bool flag) => (float[2] y)
<float[2] w = {1, 2}, float16[2] half = {1, 2}, bfloat16[2] brain = {1, 2}, double[2] wide = {1, 2}>
{
    c = Constant<value = float[2] {3, 4}>()
    a = Mul(x, w)
    b = Mul(a, c)
    h = If (flag) <
        then_branch = p () => (float[2] r) <float[2] w2 = {5, 6}> {
            q = Constant<value = float[2] {7, 8}>()
            s = Mul(b, w2)
            r = Mul(s, q)
        },
        else_branch = e () => (float[2] r2) { r2 = Neg(b) }
    >
    y = local.scale(h)
}
<domain: "local", opset_import: ["" : 17]>
scale (u) => (v) { k = Constant<value = float[2] {9, 10}>()  v = Mul(u, k) }
"""
ORIGINS: list[Origin] = [
    ("w",),
    ("c",),
    ("half",),
    ("brain",),
    ("wide",),
    ("h", "then_branch", "w2"),
    ("h", "then_branch", "q"),
    ("function", "local::scale::", "k"),
]
NEW = np.array([0.25, -1.5])


@pytest.fixture(name="proto")
def _proto() -> ModelProto:
    return onnx.parser.parse_model(TEXT)


def as_raw(proto: ModelProto) -> ModelProto:
    """The same model with every tensor's data in `raw_data`."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for origin in ORIGINS:
        tensor = find_tensor(copy, origin)
        assert tensor is not None
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return copy


@pytest.mark.parametrize("origin", ORIGINS, ids="/".join)
@pytest.mark.parametrize("is_raw", [False, True])
def test_only_the_data_of_the_named_tensor_changes(proto: ModelProto, origin: Origin, is_raw: bool) -> None:
    before = as_raw(proto) if is_raw else proto
    after = with_values(before, {origin: NEW})
    found = list(differences(before, after))
    assert len(found) == 1
    assert found[0].endswith("raw_data" if is_raw else ("float_data", "double_data", "int32_data"))
    tensor = find_tensor(after, origin)
    assert tensor is not None
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(float), NEW)


def test_a_difference_outside_of_the_trained_tensors_is_seen(proto: ModelProto) -> None:
    other = with_values(proto, {("w",): NEW})
    keys = frozenset({PROVENANCE})
    strip = [without_values(model, (("w",),), keys) for model in (proto, other)]
    assert list(differences(*strip)) == []
    other.graph.node[1].name = "renamed"
    strip[1] = without_values(other, (("w",),), keys)
    assert list(differences(*strip)) == ["graph.node[1].name"]


def test_half_precision_is_rounded_to_nearest(proto: ModelProto) -> None:
    value = np.array([1.0002, 3.0], dtype=np.float32)
    tensor = find_tensor(with_values(proto, {("half",): value}), ("half",))
    assert tensor is not None
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), value.astype(np.float16))


@pytest.mark.parametrize(
    ("origin", "values"),
    [
        (("nobody",), NEW),
        (("w",), np.zeros(3)),
        (("w",), np.array([np.nan, 1.0])),
        (("half",), np.array([1e6, 1.0])),
    ],
)
def test_values_that_do_not_fit_are_refused(proto: ModelProto, origin: Origin, values: np.ndarray) -> None:
    with pytest.raises(WriteBackError):
        with_values(proto, {origin: values})


def test_a_file_appears_whole_with_its_provenance(proto: ModelProto, tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    with written(source, target, {("w",): NEW}, {"seed": 3}) as temporary:
        assert not target.exists()
        assert load(temporary).facts.num_nodes > 0
    after = onnx.load(target)
    assert json.loads({p.key: p.value for p in after.metadata_props}[PROVENANCE]) == {"seed": 3}
    assert sorted(differences(proto, after)) == ["graph.initializer[0].float_data", "metadata_props[]"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


def test_a_check_that_fails_leaves_the_old_file(proto: ModelProto, tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    target.write_bytes(b"old")

    def fail() -> None:
        with written(source, target, {("w",): NEW}, {}):
            raise RuntimeError("no good")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_input_is_written_over_only_when_asked(proto: ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(proto, source)
    with pytest.raises(UsageError, match="input itself"), written(source, source, {}, {}):
        pass
    with written(source, source, {("w",): NEW}, {}, is_in_place_allowed=True):
        pass
    tensor = find_tensor(onnx.load(source), ("w",))
    assert tensor is not None
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), NEW)


@pytest.mark.parametrize("folder", ["one", "other"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_external_data_are_copied_with_the_new_values(tmp_path: Path, folder: str, name: str) -> None:
    source = external_model(tmp_path / "one")
    (tmp_path / "other").mkdir()
    target = tmp_path / folder / "out.onnx"
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    new = np.arange(16, dtype=np.float32).reshape(4, 4)
    with written(source, target, {(name,): new}, {}) as temporary:
        load(temporary)
    old_values = {t.name: numpy_helper.to_array(t) for t in load(source).proto.graph.initializer}
    values = {t.name: numpy_helper.to_array(t) for t in load(target).proto.graph.initializer}
    for key in values:
        np.testing.assert_array_equal(values[key], new if key == name else old_values[key])
    assert all(path.read_bytes() == data for path, data in before.items())


def test_nothing_external_is_left_when_a_check_fails(tmp_path: Path) -> None:
    source = external_model(tmp_path / "one")
    (tmp_path / "other").mkdir()

    def fail() -> None:
        with written(source, tmp_path / "other" / "out.onnx", {("a",): np.ones((4, 4))}, {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "other").iterdir()) == []
