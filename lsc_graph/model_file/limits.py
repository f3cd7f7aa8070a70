"""Caps that a model file must respect before anything large is made from it."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto

from lsc_graph.errors import LimitExceededError, LoadError
from lsc_graph.model_file.file_format import MAX_PROTOBUF_BYTES
from lsc_graph.model_file.proto_walk import Scope, model_scopes, scopes, tensors_of
from lsc_graph.model_file.tensor_data import is_external, num_bytes

FunctionId = tuple[str, str, str]


@dataclass(frozen=True)
class Limits:
    """Largest model that is read: nodes with functions expanded, nesting of graphs, bytes of tensors."""

    max_nodes: int = 200_000
    max_depth: int = 32
    max_tensor_bytes: int = 8 * 2**30


def check_limits(proto: ModelProto, limits: Limits, where: str | None) -> None:
    """Raise LimitExceededError if the model is too large.

    Raises:
        LimitExceededError: it is.
        LoadError: its functions call themselves.
    """
    num_nodes, depth = _expanded_size(proto, limits, where)
    _check(num_nodes, limits.max_nodes, "nodes, with functions expanded", where)
    _check(depth, limits.max_depth, "graphs inside each other, with functions expanded", where)
    tensors = [tensor for scope in model_scopes(proto) for tensor in tensors_of(scope)]
    external = sum(num_bytes(tensor) for tensor in tensors if is_external(tensor))
    own = sum(num_bytes(tensor) for tensor in tensors if not is_external(tensor))
    _check(own + external, limits.max_tensor_bytes, "bytes of tensors", where)
    if external:
        total = external + proto.ByteSize()
        _check(total, MAX_PROTOBUF_BYTES, "bytes with external data, which ONNX Runtime has to take", where)


def _check(got: int, limit: int, what: str, where: str | None) -> None:
    if got > limit:
        raise LimitExceededError(
            "The model is too large",
            where=where,
            got=f"{what}: {f'{got:,}' if got < 10**15 else f'about 1e{len(str(got)) - 1}'}",
            expected=f"at most {limit:,}",
        )


def _expanded_size(proto: ModelProto, limits: Limits, where: str | None) -> tuple[int, int]:
    """Number of nodes and nesting depth that the model has once its functions are inlined."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    bodies: dict[FunctionId | None, Counter[tuple[FunctionId | None, int]]] = {}
    for key, body in [(None, proto.graph), *functions.items()]:
        bodies[key] = _calls(body, functions.keys(), limits, where)
    called = {key: {callee for callee, _ in calls if callee} for key, calls in bodies.items()}
    sizes: dict[FunctionId | None, tuple[int, int]] = {}
    try:
        for key in graphlib.TopologicalSorter(called).static_order():
            inner = [(sizes.get(callee, (1, 0)), level, num) for (callee, level), num in bodies[key].items()]
            nodes = sum(num * size[0] for size, _, num in inner)
            sizes[key] = (nodes, max((level + size[1] for size, level, _ in inner), default=0))
    except graphlib.CycleError as error:
        names = " -> ".join("::".join(filter(None, key)) for key in error.args[1] if key)
        raise LoadError("Functions of the model call themselves", where=where, got=names) from error
    return sizes[None]


def _calls(
    body: Scope, functions: Collection[FunctionId], limits: Limits, where: str | None
) -> Counter[tuple[FunctionId | None, int]]:
    """How many nodes at each nesting level call each function; None for plain nodes."""
    counts: Counter[tuple[FunctionId | None, int]] = Counter()
    for scope, level in scopes(body):
        _check(level, limits.max_depth, "graphs inside each other", where)
        for node in scope.node:
            key = (node.domain, node.op_type, node.overload)
            counts[key if key in functions else None, level] += 1
        if not scope.node:
            counts[None, level] += 0
    return counts
