"""Parts of a model run on single samples, where only a run can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

Trial = Callable[[onnx.ModelProto], dict[str, np.ndarray[Any, np.dtype[Any]]]]
"""Runs a model whose inputs are inputs of the analysed one; raises AnalysisError if it does not run."""
