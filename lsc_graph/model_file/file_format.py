"""Bytes to ModelProto, with a reason when they are not one."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import ModelProto

from lsc_graph.errors import LimitExceededError, LoadError, NotOnnxError, TruncatedModelError

MAX_PROTOBUF_BYTES = 2**31 - 1
_EXPECTED = "an ONNX model: a serialized ModelProto"
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch .pt file", "export the model to ONNX"),
    (b"\x80\x02", "a pickle, such as an old PyTorch .pt file", "export the model to ONNX"),
    (b"\x89HDF", "an HDF5 file, such as a Keras .h5 file", "export the model to ONNX"),
    (b"GGUF", "a GGUF file", "export the model to ONNX"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x89PNG", "a PNG image", None),
    (b"\xff\xd8\xff", "a JPEG image", None),
    (b"%PDF", "a PDF document", None),
)
_FLATBUFFERS = {
    b"TFL3": ("a TensorFlow Lite model", "convert it to ONNX with tf2onnx"),
    b"ORTM": ("a model in ONNX Runtime's own .ort format", "give the .onnx file that it was made from"),
}


def parse_model(data: bytes, where: str | None) -> ModelProto:
    """The model that the bytes hold.

    Args:
        data: the whole file.
        where: its path, for messages.

    Raises:
        NotOnnxError: the bytes are something else.
        TruncatedModelError: they start like a model and stop early.
        LimitExceededError: graphs are nested deeper than protobuf can read.
        LoadError: they are damaged in another way.
    """
    if not data:
        raise NotOnnxError(
            "An empty file is not an ONNX model", where=where, got="0 bytes", expected=_EXPECTED
        )
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise _why_not(data, where, error) from error
    if not proto.HasField("graph"):
        raise _without_graph(proto, data, where)
    return proto


def _why_not(data: bytes, where: str | None, error: DecodeError) -> LoadError | LimitExceededError:
    complete, gap = _outline(data)
    if not complete:
        return _not_onnx(data, where)
    if gap is not None:
        return TruncatedModelError(
            "The model file is cut off", where=where, got=gap, do="copy or download the file again"
        )
    if "Depth" in str(error):
        return LimitExceededError("Graphs are nested too deeply to be read", where=where, got=str(error))
    return LoadError(
        "The model file is damaged", where=where, got=str(error), do="copy or download the file again"
    )


def _without_graph(proto: ModelProto, data: bytes, where: str | None) -> LoadError:
    if proto.ir_version and not len(UnknownFieldSet(proto)):
        return TruncatedModelError(
            "The model file ends before its graph",
            where=where,
            got=f"{len(data)} bytes",
            do="copy or download the file again",
        )
    return _not_onnx(data, where)


def _not_onnx(data: bytes, where: str | None) -> NotOnnxError:
    got, do = _recognised(data)
    return NotOnnxError("This is not an ONNX model", where=where, got=got, expected=_EXPECTED, do=do)


def _recognised(data: bytes) -> tuple[str, str | None]:
    """What the bytes look like, in words, and what to do about it."""
    for magic, got, do in _MAGIC:
        if data.startswith(magic):
            return got, do
    if data[4:8] in _FLATBUFFERS:
        return _FLATBUFFERS[data[4:8]]
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return "a safetensors file: weights without a graph", "export the model to ONNX"
    start = data[:256]
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        line = start.decode("utf-8", "replace").splitlines()[0][:60]
        return f"text that starts with {line!r}", None
    return f"{len(data)} bytes that start with {data[:8].hex(' ')}", None


def _outline(data: bytes) -> tuple[bool, str | None]:
    """Whether all top-level fields are those of a ModelProto, and where the last one is cut off, if it is."""
    known = {field.number: _wire_type(field.type) for field in ModelProto.DESCRIPTOR.fields}
    num_fields = 0
    for number, wire, end in _fields(data):
        if known.get(number) != wire:
            return False, None
        num_fields += 1
        if end > len(data):
            name = ModelProto.DESCRIPTOR.fields_by_number[number].name
            return True, f"{len(data)} bytes; field `{name}` would end at byte {end}"
    return num_fields > 0, None


def _wire_type(kind: int) -> int:
    return _VARINT if kind in (3, 4, 5, 8, 13, 14, 17, 18) else _LENGTH


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Top-level fields as (number, wire type, end); the end lies past the data if the field is cut off."""
    position = 0
    while position < len(data):
        tag, start = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            length, start = _varint(data, start)
            position = start + length
        elif wire == _VARINT:
            position = _varint(data, start)[1]
        else:
            position = start + {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        yield number, wire, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it, which is past the end if the number is cut off."""
    value = 0
    for index in range(10):
        if position + index >= len(data):
            return value, len(data) + 1
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    return value, position + 10
