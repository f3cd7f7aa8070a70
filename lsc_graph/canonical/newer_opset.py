"""Models of an operator set that ONNX Runtime does not take yet, in one that it takes."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import ModelProto

from lsc_graph.canonical.function_ops import write_out
from lsc_graph.canonical.inference import infer_shapes, root_cause
from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.model_file.load import newest_run


def in_runnable_opset(proto: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The model in an operator set that ONNX Runtime takes, and in words what had to be done for that.

    Operators that the newer set has brought or changed are written out as their definitions; those without a
    definition of their own are taken as the older set knows them, if that allows what they are given.

    Raises:
        UnsupportedOpsetError: an operator cannot be said in the older set.
    """
    wanted, runnable = _opset(proto), newest_run(onnx.defs.onnx_opset_version())
    if wanted <= runnable:
        return proto, ()
    copy = ModelProto()
    copy.CopyFrom(proto)
    model = ir.from_proto(copy)
    infer_shapes(model)
    written = write_out(model, lambda node: _is_newer(node.op_type, wanted, runnable), infer_shapes)
    kept = sorted({n.op_type for n in model.graph.all_nodes() if _is_newer(n.op_type, wanted, runnable)})
    model.opset_imports[""] = runnable
    older = ir.to_proto(model)
    _check(older, wanted, runnable, kept)
    words = f"operator set {wanted} is newer than ONNX Runtime takes, so the model is read in {runnable}"
    if written:
        words += f"; {', '.join(written)} written out as defined by ONNX"
    if kept:
        words += f"; {', '.join(kept)} taken as in {runnable}"
    return older, (words,)


def _opset(proto: ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _is_newer(op_type: str, wanted: int, runnable: int) -> bool:
    """Whether an operator of the set `wanted` is another one in `runnable`, or not there."""
    try:
        return int(onnx.defs.get_schema(op_type, wanted, "").since_version) > runnable
    except onnx.defs.SchemaError:
        return False


def _check(proto: ModelProto, wanted: int, runnable: int, kept: list[str]) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        raise UnsupportedOpsetError(
            "The model's operator set is not supported",
            where=", ".join(kept) or None,
            got=f"ai.onnx version {wanted}: {root_cause(error)}",
            expected=f"up to version {runnable}, which the installed ONNX Runtime takes, or what it can say",
            do="export the model with another opset, or upgrade onnx and onnxruntime",
        ) from error
