"""Recurrent models written in onnxscript: python onnxscript_models.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxscript import FLOAT, script
from onnxscript import opset18 as op

T, D, H = 12, 8, 16
generator = np.random.default_rng(0)
W = onnx.numpy_helper.from_array((0.3 * generator.standard_normal((D, H))).astype(np.float32), "w")
U = onnx.numpy_helper.from_array((0.3 * generator.standard_normal((H, H))).astype(np.float32), "u")


@script()
def counted(x: FLOAT[12, 1, 8], h0: FLOAT[1, 16]) -> FLOAT[1, 16]:
    w = op.Constant(value=W)
    u = op.Constant(value=U)
    h = op.Identity(h0)
    for t in range(12):
        xt = op.Gather(x, t, axis=0)
        h = op.Tanh(op.MatMul(xt, w) + op.MatMul(h, u))
    return h


@script()
def until(x: FLOAT[12, 1, 8], h0: FLOAT[1, 16]) -> FLOAT[1, 16]:
    w = op.Constant(value=W)
    u = op.Constant(value=U)
    h = op.Identity(h0)
    t = op.Constant(value_int=0)
    goes_on = t < 12
    while goes_on:
        xt = op.Gather(x, t, axis=0)
        h = op.Tanh(op.MatMul(xt, w) + op.MatMul(h, u))
        t = t + 1
        goes_on = t < 12
    return h


def main(folder: Path) -> None:
    for function in (counted, until):
        onnx.save(function.to_model_proto(), folder / f"{function.name}.onnxscript.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
