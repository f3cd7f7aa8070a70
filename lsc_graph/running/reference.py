"""ONNX Runtime as the reference that every number is checked against."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from lsc_graph.errors import AnalysisError
from lsc_graph.model_file.proto_walk import model_scopes

MAX_SECONDS = 60.0
"""How long one run of a model with Loop operators may take."""

_WRONG = ["Pad_Fusion"]
"""Optimisations of ONNX Runtime that change results: zeros before a MaxPool become its own padding, -inf."""

Array = np.ndarray[Any, np.dtype[Any]]


class Reference:
    """A model in ONNX Runtime.

    Args:
        proto: the model, tensors in memory.
        device: "cpu" or "cuda".

    Raises:
        AnalysisError: ONNX Runtime does not accept the model.
    """

    def __init__(self, proto: onnx.ModelProto, device: str = "cpu") -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # As many as torch has, with which it takes turns.
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if device == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=providers, disabled_optimizers=_WRONG
            )
        except Exception as error:  # ONNX Runtime has no common base class for its errors.
            raise AnalysisError(
                "ONNX Runtime does not load the model",
                got=one_line(error),
                expected="operators that it knows, and shapes and types that fit each other",
                do="export the model again, or cut it before the operator that is named",
            ) from error
        self._may_run_on = any(node.op_type == "Loop" for scope in model_scopes(proto) for node in scope.node)
        self.provider = self._session.get_providers()[0]
        self.output_names = [output.name for output in self._session.get_outputs()]
        self._types = {value.name: value.type for value in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Outputs by name; float inputs are given in the precision that the model asks for.

        Raises:
            AnalysisError: the model does not run on these inputs.
        """
        names = list(outputs) if outputs is not None else self.output_names
        known = {name: self._cast(name, value) for name, value in inputs.items() if name in self._types}
        try:
            values = self._run(names, known)
        except Exception as error:  # as above
            raise AnalysisError("The model does not run in ONNX Runtime", got=one_line(error)) from error
        return dict(zip(names, values, strict=True))

    def _run(self, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """One run; a model with loops is stopped after MAX_SECONDS, for its loops may have no end."""
        if not self._may_run_on:
            return list(self._session.run(names, feed))
        options = onnxruntime.RunOptions()
        watch = threading.Timer(MAX_SECONDS, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            return list(self._session.run(names, feed, options))
        finally:
            watch.cancel()

    def _cast(self, name: str, value: Array) -> Array:
        is_half = self._types[name] == "tensor(float16)"
        return value.astype(np.float16) if is_half and value.dtype == np.float32 else value


def one_line(error: Exception) -> str:
    """An error's text on one line, without ONNX Runtime's source locations."""
    text = " ".join(str(error).split())
    return text[-400:]


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model that also outputs the named values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return copy
