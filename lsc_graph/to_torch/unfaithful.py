"""Operators that onnx2fx converts to something else, and when: they are refused by name.

Found by running every conformance case of the onnx package (`benchmarks/conformance.py`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import ConversionError

Check = Callable[[ir.Node], str | None]


def refuse_unfaithful(graph: ir.Graph) -> None:
    """Raise for the first node whose conversion would compute something else.

    Raises:
        ConversionError: with the operator, the node and the option that is not converted.
    """
    for node in graph.all_nodes():
        reason = why_unfaithful(node)
        if reason:
            raise ConversionError(
                "An operator cannot be converted to torch faithfully",
                where=f"{node.op_type} that computes {node.outputs[0].name}",
                got=reason,
                expected="an operator whose torch counterpart computes the same",
                do="cut the model before this operator, or replace it, and audit that file",
            )


def why_unfaithful(node: ir.Node) -> str | None:
    """What is not converted of a node; None if all of it is."""
    check = CHECKS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return check(node) if check else None


def _has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _gives(node: ir.Node, index: int) -> bool:
    """Whether anything reads an output."""
    if len(node.outputs) <= index or not node.outputs[index].name:
        return False
    return bool(node.outputs[index].uses()) or node.outputs[index].is_graph_output()


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def _integer(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _type(node: ir.Node, index: int) -> ir.DataType | None:
    value = node.inputs[index] if _has(node, index) else None
    return None if value is None else value.dtype


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if _has(node, index) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _always(reason: str) -> Check:
    return lambda node: reason


def _random(node: ir.Node) -> str | None:
    return "its outputs are random, so that no two runs can be compared"


def _scatter(node: ir.Node) -> str | None:
    """onnx2fx writes these into one tensor after another, in place: torch has no derivative of that."""
    kind = _text(node, "reduction", "none")
    return f"reduction {kind}, which cannot be differentiated" if kind in ("mul", "max", "min") else None


def _max_unpool(node: ir.Node) -> str | None:
    return "an output shape" if _has(node, 2) else None


def _negative_log_likelihood(node: ir.Node) -> str | None:
    """torch refuses to differentiate it."""
    shape = static_shape(node.inputs[0])
    is_known = shape is not None and len(shape) < 4
    return None if is_known else "an input of four or more axes, which cannot be differentiated"


def _needs_torchvision(node: ir.Node) -> str | None:
    return None if importlib.util.find_spec("torchvision") else "it needs the package torchvision"


def _dropout(node: ir.Node) -> str | None:
    if not _has(node, 2):
        return None
    is_training, ratio = _constant(node, 2), _constant(node, 1)
    if is_training is not None and not is_training.any():
        return None
    return None if ratio is not None and not ratio.any() else _random(node)


def _attention(node: ir.Node) -> str | None:
    mask, past, lengths = (_has(node, index) for index in (3, 4, 6))
    softcap = node.attributes.get("softcap")
    if max(_integer(node, "left_window_size", -1), _integer(node, "right_window_size", -1)) >= 0:
        return "a window"
    if _integer(node, "is_causal") and (mask or past or lengths):
        return "is_causal together with a mask, past keys or lengths"
    if softcap is not None and softcap.as_float() and mask:
        return "softcap together with a mask"
    if _integer(node, "qk_matmul_output_mode") == 3 and _gives(node, 3) and mask:
        return "qk_matmul_output_mode 3 together with a mask"
    return None


def _batch_norm(node: ir.Node) -> str | None:
    return "training_mode" if _integer(node, "training_mode") else None


def _conv_integer(node: ir.Node) -> str | None:
    pads = node.attributes.get("pads")
    is_padded = _text(node, "auto_pad", "NOTSET") != "NOTSET" or (pads is not None and any(pads.as_ints()))
    return "padding together with a zero point" if is_padded and _has(node, 2) else None


def _eye_like(node: ir.Node) -> str | None:
    return "k or dtype" if _integer(node, "k") or "dtype" in node.attributes else None


def _pad(node: ir.Node) -> str | None:
    if _text(node, "mode", "constant") == "wrap":
        return "mode wrap"
    return "axes that are not constant" if _has(node, 3) else None


def _pow(node: ir.Node) -> str | None:
    base, exponent = _type(node, 0), _type(node, 1)
    mixed = base is not None and exponent is not None and base.is_integer() and exponent.is_floating_point()
    return "an integer base with a floating-point exponent" if mixed else None


def _reduced_booleans(node: ir.Node) -> str | None:
    return "booleans" if _type(node, 0) == ir.DataType.BOOL else None


def _quantized(index: int) -> Check:
    """onnx2fx gives uint8 whatever the type of the zero point."""

    def check(node: ir.Node) -> str | None:
        asked = _type(node, index)
        return f"a zero point of type {asked}" if asked not in (None, ir.DataType.UINT8) else None

    return check


def _quantize(node: ir.Node) -> str | None:
    known = (None, ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32)
    asked = _type(node, 2)
    return None if asked in known else f"a zero point of type {asked}"


def _cross_entropy(node: ir.Node) -> str | None:
    return "the output log_prob" if _gives(node, 1) else None


def _resize(node: ir.Node) -> str | None:
    """torch's interpolate knows sizes alone, half-pixel or corner-aligned coordinates, and floors."""
    mode = _text(node, "mode", "nearest")
    coordinates = _text(node, "coordinate_transformation_mode", "half_pixel")
    for name in ("antialias", "exclude_outside", "axes"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.value:
            return name
    if _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return "keep_aspect_ratio_policy"
    cubic = node.attributes.get("cubic_coeff_a")
    if cubic is not None and mode == "cubic" and cubic.as_float() != -0.75:
        return "cubic_coeff_a"
    ratios = _ratios(node)
    if ratios is None:
        return "sizes that are not constant, or scales that do not divide evenly"
    if mode == "nearest":
        return _nearest(coordinates, _text(node, "nearest_mode", "round_prefer_floor"), ratios)
    if coordinates == "pytorch_half_pixel" and 1 not in (static_shape(node.outputs[0]) or (1,))[2:]:
        return None
    known = ("half_pixel", "align_corners")
    return None if coordinates in known else f"{mode} with coordinate_transformation_mode {coordinates}"


def _ratios(node: ir.Node) -> tuple[float, ...] | None:
    """Size after by size before along each axis; None unless the sizes alone say it."""
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if before is None or after is None or 0 in before:
        return None
    ratios = tuple(b / a for a, b in zip(before, after, strict=True))
    if not _has(node, 2) or _has(node, 3):
        return ratios
    scales = _constant(node, 2)
    is_exact = scales is not None and np.allclose(scales, ratios, rtol=1e-6, atol=0)
    return ratios if is_exact else None


def _nearest(coordinates: str, rounding: str, ratios: tuple[float, ...]) -> str | None:
    """Pixel i of torch is pixel floor(i / ratio) of the input."""
    is_whole = all(ratio == int(ratio) for ratio in ratios)
    rounds = rounding.startswith("round_prefer") and coordinates in ("half_pixel", "pytorch_half_pixel")
    if (coordinates == "asymmetric" and rounding == "floor") or (is_whole and rounds):
        return None
    return f"nearest with {coordinates}, {rounding} and ratios {', '.join(f'{r:g}' for r in ratios)}"


def _upsample(node: ir.Node) -> str | None:
    mode = _text(node, "mode", "nearest")
    if mode != "nearest":
        return f"mode {mode}"
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if before is None or after is None or any(b % a for a, b in zip(before, after, strict=True)):
        return "scales that are no whole numbers"
    return None


CHECKS: dict[str, Check] = {
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "ConvInteger": _conv_integer,
    "DeformConv": _needs_torchvision,
    "Dropout": _dropout,
    "DynamicQuantizeLinear": _always("its range includes zero, which torch's does not"),
    "EyeLike": _eye_like,
    "MaxUnpool": _max_unpool,
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "NonMaxSuppression": _needs_torchvision,
    "Pad": _pad,
    "Pow": _pow,
    "QLinearMatMul": _quantized(7),
    "QuantizeLinear": _quantize,
    "ReduceMax": _reduced_booleans,
    "ReduceMin": _reduced_booleans,
    "Resize": _resize,
    "RoiAlign": _needs_torchvision,
    "ScatterND": _scatter,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
    "Upsample": _upsample,
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _random,
    ),
}
