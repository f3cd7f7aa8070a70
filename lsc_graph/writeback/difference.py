"""The structural difference of two protobuf messages: which fields differ, as paths."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from google.protobuf.message import Message
from onnx import ModelProto

from lsc_graph.canonical.origins import Origin, find_tensor

DATA_FIELDS = ("raw_data", "float_data", "double_data", "int32_data")


def differences(one: Message, other: Message, path: str = "") -> Iterator[str]:
    """Every field, at any depth, that two messages of one type do not share, as a path.

    `graph.initializer[3].raw_data` for a field that differs, `graph.node[]` for a list of another length.
    Unknown fields count as one field named `<unknown>`.
    """
    pending: list[tuple[Message, Message, str]] = [(one, other, path)]
    while pending:
        a, b, where = pending.pop()
        if a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True):
            continue
        before = len(pending)
        found = list(_fields(a, b, where, pending))
        yield from found
        if not found and len(pending) == before:
            yield f"{where}<unknown>"


def _fields(a: Message, b: Message, where: str, pending: list[tuple[Message, Message, str]]) -> Iterator[str]:
    """Differences of plain fields; messages are put onto `pending`."""
    for field in a.DESCRIPTOR.fields:
        name, is_message = f"{where}{field.name}", field.message_type is not None
        x, y = getattr(a, field.name), getattr(b, field.name)
        if not field.is_repeated:
            if field.has_presence and a.HasField(field.name) != b.HasField(field.name):
                yield name
            elif is_message:
                pending.append((x, y, f"{name}."))
            elif x != y:
                yield name
        elif len(x) != len(y):
            yield f"{name}[]"
        elif is_message:
            pending += [(p, q, f"{name}[{i}].") for i, (p, q) in enumerate(zip(x, y, strict=True))]
        elif list(x) != list(y):
            yield name


def without_values(proto: ModelProto, origins: Iterable[Origin], keys: Collection[str]) -> ModelProto:
    """A copy of a model without the data of the tensors at `origins`, and without metadata of those keys.

    Two models that differ only in these have equal copies.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    for origin in origins:
        tensor = find_tensor(copy, origin)
        if tensor is not None:
            for field in DATA_FIELDS:
                tensor.ClearField(field)
    kept = [entry for entry in copy.metadata_props if entry.key not in keys]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    return copy
