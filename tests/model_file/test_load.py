"""Bad files get one clear error each, before anything large is allocated."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
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
from lsc_graph.model_file.limits import Limits
from lsc_graph.model_file.load import load

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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1f\x8b\x08\x00\x00\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "TensorFlow Lite"),
        (b"\x20\x00\x00\x00ORTM\x14\x00\x20\x00", ".ort format"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}\x00\x00", "safetensors"),
        (b"# Read me\nA model.\n", "text that starts with '# Read me'"),
        (onnx.numpy_helper.from_array(np.ones(3), "w").SerializeToString(), "not an ONNX model"),
    ],
    ids=["lfs", "pickle", "gzip", "keras", "gguf", "tflite", "ort", "safetensors", "text", "tensor"],
)
def test_well_known_other_files_are_recognised(data: bytes, words: str) -> None:
    with pytest.raises(NotOnnxError, match="not an ONNX model") as caught:
        load(data)
    assert words in str(caught.value)


def test_a_model_cut_anywhere_is_never_loaded() -> None:
    small = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    ).SerializeToString()
    load(small)
    kinds = []
    for end in range(len(small)):
        with pytest.raises(LoadError) as caught:
            load(small[:end])
        kinds.append(type(caught.value))
    assert kinds.count(TruncatedModelError) > len(small) * 0.9


def test_the_caller_keeps_a_proto_of_its_own() -> None:
    given = registry.build("gru")
    before = given.SerializeToString()
    load(given).proto.graph.node[0].name = "changed"
    assert given.SerializeToString() == before


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    assert load(saved(tmp_path, BYTES)).sha256 == hashlib.sha256(BYTES).hexdigest()


def model_of(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17, "local": 1]>\n' + text)


def test_constants_that_hold_weights_count_as_parameters() -> None:
    facts = load(
        model_of(
            """g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}, int64[3] index = {0, 1, 2}> {
                c = Constant<value = float[3] {4, 5, 6}>()
                epsilon = Constant<value = float {0.1}>()
                a = Mul(x, w)  b = Mul(a, c)  y = Add(b, epsilon)
            }"""
        )
    ).facts
    assert facts.num_parameters == 6
    assert facts.num_nodes == 5


def test_operators_of_unknown_domains_are_no_reason_to_refuse() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { y = local.Mystery(x) }")
    assert load(model).facts.opsets == {"ai.onnx": 17, "local": 1}


def test_a_missing_operator_set_is_said() -> None:
    model = registry.build("gru")
    del model.opset_import[:]
    with pytest.raises(UnsupportedOpsetError, match="does not say which operator set"):
        load(model)


def test_an_operator_set_that_onnx_knows_but_onnx_runtime_does_not_is_refused() -> None:
    newest = onnx.defs.onnx_opset_version()
    model = model_of("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    model.opset_import[0].version = newest
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime has no common base class for its errors.
        with pytest.raises(UnsupportedOpsetError, match=f"version {newest}"):
            load(model)
    else:
        load(model)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = Neg(z)  z = Neg(y)", "topologically sorted"),
        ("y = Neg(x)  y = Abs(x)", "single static assignment"),
        ("y = Sigmoidal(x)", "Sigmoidal"),
    ],
    ids=["cycle", "duplicate name", "unknown operator"],
)
def test_what_the_checker_finds_is_passed_on(nodes: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        load(model_of(f"g (float[3] x) => (float[3] y) {{ {nodes} }}"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.float_data.pop(), TruncatedModelError, "2 values"),
        (lambda t: t.float_data.append(1.0), LoadError, "4 values"),
        (lambda t: t.dims.__setitem__(0, -3), LoadError, "negative dimension"),
        (lambda t: setattr(t, "data_type", 99), LoadError, "no known type"),
        (lambda t: t.dims.__setitem__(0, 2**62), LimitExceededError, "bytes of tensors"),
    ],
    ids=["less", "more", "negative", "type", "huge"],
)
def test_tensors_that_contradict_their_shape_are_refused(
    change: Callable[[onnx.TensorProto], object], error: type[LscGraphError], words: str
) -> None:
    model = model_of("g (float[3] x) => (float[3] y) <float[3] w> { y = Mul(x, w) }")
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    model.graph.initializer.append(tensor)
    change(model.graph.initializer[0])
    with pytest.raises(error, match=words):
        load(model)


def test_functions_are_counted_as_often_as_they_are_called() -> None:
    """Sixty functions that each call the next one twice: a small file, 2^60 nodes."""
    functions = "".join(
        f"""
        <domain: "local", opset_import: ["": 17, "local": 1]>
        f{i} (a) => (c) {{ b = local.f{i + 1}(a)  c = local.f{i + 1}(b) }}"""
        for i in range(60)
    )
    last = '<domain: "local", opset_import: ["": 17]> f60 (a) => (b) { b = Neg(a) }'
    model = model_of("g (float[3] x) => (float[3] y) { y = local.f0(x) }" + functions + last)
    with pytest.raises(LimitExceededError, match="functions expanded: about 1e18"):
        load(model)


def test_functions_that_call_themselves_are_refused() -> None:
    model = model_of(
        """g (float[3] x) => (float[3] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17, "local": 1]> f (a) => (b) { b = local.h(a) }
        <domain: "local", opset_import: ["": 17, "local": 1]> h (a) => (b) { b = local.f(a) }"""
    )
    with pytest.raises(LoadError, match="call themselves"):
        load(model)


def nested(depth: int) -> onnx.ModelProto:
    text = "y0 = Neg(x)"
    for i in range(depth):
        text = (
            f"y{i + 1} = If (c) <then_branch = t{i} () => (float[3] y{i}) {{ {text} }}, "
            f"else_branch = e{i} () => (float[3] z{i}) {{ z{i} = Abs(x) }}>"
        )
    return model_of(f"g (float[3] x, bool c) => (float[3] y{depth}) {{ {text} }}")


def test_nesting_is_capped() -> None:
    load(nested(3), Limits(max_depth=3))
    with pytest.raises(LimitExceededError, match="inside each other: 3"):
        load(nested(3), Limits(max_depth=2))


def test_nesting_beyond_what_protobuf_reads_is_a_limit_and_not_damage() -> None:
    data = b""
    for _ in range(100):  # graph { node { attribute { g { ... } } } }, without lengths that protobuf checks
        data = field(1, field(5, field(6, data)))
    with pytest.raises(LimitExceededError, match="nested too deeply"):
        load(b"\x08\x08" + field(7, data))


def field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = bytearray(), len(data)
    while size >= 128:
        length.append(size % 128 + 128)
        size //= 128
    return bytes([number << 3 | 2, *length, size]) + data


@pytest.mark.parametrize("location", ["C:\\secret.bin", "\\\\host\\share", "a/../../secret.bin", "", "a\0b"])
def test_hostile_locations_are_refused_on_every_system(location: str, tmp_path: Path) -> None:
    with pytest.raises(ExternalDataError, match="outside"):
        load(redirected(external(tmp_path), location))


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "link.bin").symlink_to(tmp_path / "weights.bin")
    load(redirected(path, "link.bin"))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_regular_files_hold_tensor_data(kind: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    if kind == "pipe":
        os.mkfifo(tmp_path / "odd")
    else:
        (tmp_path / "odd").mkdir()
    with pytest.raises(ExternalDataError):
        load(redirected(path, "odd"))


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-1"), ("offset", "1e9"), ("length", "2"), ("offset", "9" * 19)]
)
def test_offsets_and_lengths_are_checked_before_reading(key: str, value: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    for entry in [entry for entry in entries if entry.key == key]:
        entries.remove(entry)
    entries.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExternalDataError):
        load(path)


def test_external_data_beyond_what_onnx_runtime_takes_is_refused_before_reading(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [2**15, 2**15]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LimitExceededError, match="external data"):
        load(path)


def test_names_that_are_not_utf8_are_damage() -> None:
    data = BYTES.replace(b"layer_0", b"layer\xff0")
    assert data != BYTES
    with pytest.raises(LoadError, match="not UTF-8"):
        load(data)
