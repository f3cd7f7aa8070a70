"""Inputs, weights and runs moved by as little as they are rounded by: what else moves is rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor

from lsc_graph.running.reference import Array
from lsc_graph.to_torch.program import Run


def inputs_rounded_otherwise(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Floats moved by as little as they are rounded by, up or down."""
    generator = np.random.default_rng(0)

    def moved(value: Array) -> Array:
        if value.dtype.kind != "f":
            return value
        ends = np.where(generator.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        return np.asarray(np.nextafter(value, ends))

    return {name: moved(value) for name, value in inputs.items()}


def run_rounded_otherwise(run: Run, generator: torch.Generator) -> Run:
    """A run of which every number is moved by about as much as it is rounded by."""

    def moved(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
        return value * (1 + signs * torch.finfo(value.dtype).eps)

    return run.mapped(moved)


def weights_rounded_otherwise(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose weights are moved by about as much as they are rounded by."""
    copy, random = onnx.ModelProto(), np.random.default_rng(0)
    copy.CopyFrom(proto)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    for tensor in copy.graph.initializer:
        if tensor.data_type in floats:
            stored = onnx.numpy_helper.to_array(tensor)
            signs = random.choice([-1.0, 1.0], stored.shape)
            moved = (stored * (1 + signs * np.finfo(stored.dtype).eps)).astype(stored.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    return copy
