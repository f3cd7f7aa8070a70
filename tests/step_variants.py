"""The same recurrent steps as exporters and optimisers write them: gates packed or apart, weights turned.

Every variant is one step of a streaming model in ONNX's text form. States have `H` elements unless their
shape says otherwise; all weights come from one generator, so that variants of one cell compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

H, D = 132, 3
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StepVariant:
    """One way to write a step: states by name with their shapes, its nodes, and the arrays that they read.

    `form` is the structure that should be found: "units", "gated", or "dense" where there is none.
    """

    form: str
    nodes: str
    states: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"h": (1, H)})

    def model(self) -> onnx.ModelProto:
        """The step as a streaming model."""
        given = ", ".join(f"float[{','.join(map(str, shape))}] {n}_in" for n, shape in self.states.items())
        put = ", ".join(f"float[{','.join(map(str, shape))}] {n}_out" for n, shape in self.states.items())
        text = f"""<ir_version: 9, opset_import: ["" : 18]>
            step (float[1,{D}] x, {given}) => ({put}) {{
                {self.nodes}
            }}"""
        model = parser.parse_model(text)
        for name, value in WEIGHTS.items():
            if any(name in node.input for node in model.graph.node):
                kept = value if value.dtype.kind in "ib" else value.astype(np.float32)
                model.graph.initializer.append(numpy_helper.from_array(kept, name))
        onnx.checker.check_model(model, full_check=True)
        return model


def optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The same as ONNX Runtime rewrites it, in ONNX's own operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> Array:
        return rng.standard_normal(shape) / np.sqrt(shape[-1])

    lam = rng.uniform(0.3, 0.95, H) * np.exp(1j * rng.uniform(0, 3, H))
    w, u = (0.8 * matrix(3, H, H), matrix(3, H, D))
    ends = {"i0": 0, "i1": H, "i2": 2 * H, "i3": 3 * H, "one": 1, "two": 2}
    shapes = {
        "s_row": (1, H), "s_column": (H, 1), "s_gates": (1, 3, H), "s_units": (1, H, 3), "s_h3": (1, 3 * H),
        "s_block": (H, 1, 2), "s_pair": (1, H, 2),
    }  # fmt: skip
    half = rng.uniform(0.2, 0.9, (H, 2, 2))
    return {
        "a": rng.uniform(-0.95, 0.95, H),
        "a2": rng.uniform(-0.95, 0.95, H),
        "re": lam.real,
        "im": lam.imag,
        "bx": matrix(D, H),
        "bx2": matrix(D, H),
        "blocks": half,
        "w": w[0], "wt": w[0].T, "w1": w[1], "w2": w[2], "wt1": w[1].T, "wt2": w[2].T,
        "packed": np.concatenate(w), "packed_t": np.concatenate(w).T,
        "interleaved_t": w.transpose(1, 0, 2).reshape(3 * H, H).T,
        "u0": u[0].T, "u1": u[1].T, "u2": u[2].T,
        "xh_t": np.concatenate([np.concatenate(u).T, np.concatenate(w).T]),
        "kernel": np.concatenate(w)[:, :, None],
        "low": matrix(7, H).T, "high": matrix(H, 7).T,
        "bias": 0.1 * rng.standard_normal(3 * H), "b": 0.1 * rng.standard_normal(H),
        "c1": np.array(1.0),
        "mask": (rng.random((H, H)) < 0.5).astype(float),
        "every": np.array(0.01),
    } | {name: np.array([value]) for name, value in ends.items()} | {
        name: np.array(shape) for name, shape in shapes.items()
    }  # fmt: skip


WEIGHTS = _weights()


def _gru(products: str, *, reset: str = "rn = Mul(r, hn)", blend: str = "") -> str:
    """A GRU step from lines that give hr, hz, hn [1,H], products of the state."""
    blend = blend or "keep = Sub(h_in, n) kept = Mul(z, keep) h_out = Add(n, kept)"
    return f"""
        xr = MatMul(x, u0) xz = MatMul(x, u1) xn = MatMul(x, u2)
        {products}
        sr = Add(xr, hr) r = Sigmoid(sr) sz = Add(hz, xz) z = Sigmoid(sz)
        {reset}
        sn = Add(xn, rn) n = Tanh(sn)
        {blend}"""


_APART = "hr = MatMul(h_in, wt) hz = MatMul(h_in, wt1) hn = MatMul(h_in, wt2)"
_THREE = "hr, hz, hn = Split <axis = 1, num_outputs = 3> (p)"
_COMPLEX = """
    ux = MatMul(x, bx) uy = MatMul(x, bx2)
    rp = Mul({0}) iq = Mul({1}) rq = Mul({2}) ip = Mul({3})
    p_k = Sub(rp, iq) q_k = Add(rq, ip) """
_IN_ORDER = ("re, p", "im, q", "re, q", "im, p")
_SWAPPED = ("p, re", "q, im", "q, re", "p, im")
_TWO = {"h_re": (1, H), "h_im": (1, H)}
_WHOLE, _PAIRS = {"h": (1, 2 * H)}, {"h": (1, H, 2)}
_END = "h_re_out = Add(p_k, ux) h_im_out = Add(uy, q_k)"
_FED = "u = MatMul(x, bx) "


def _two_states(order: tuple[str, ...]) -> str:
    first = "p = Identity(h_re_in) q = Identity(h_im_in) "
    return first + _COMPLEX.format(*order) + _END


def _in_one(split: str, join: str) -> str:
    return split + _COMPLEX.format(*_IN_ORDER) + "p_n = Add(p_k, ux) q_n = Add(uy, q_k) " + join


VARIANTS: dict[str, StepVariant] = {
    # Units that do not meet.
    "diagonal": StepVariant("units", _FED + "k = Mul(a, h_in) h_out = Add(k, u)"),
    "diagonal, turned": StepVariant("units", _FED + "k = Mul(h_in, a) h_out = Add(u, k)"),
    "diagonal by Einsum": StepVariant(
        "units", _FED + 'k = Einsum <equation = "bh,h->bh"> (h_in, a) h_out = Add(u, k)'
    ),
    "diagonal as a column": StepVariant(
        "units",
        _FED + "c = Reshape(h_in, s_column) d = Reshape(a, s_column) k = Mul(c, d) l = Reshape(k, s_row)"
        " h_out = Add(l, u)",
    ),
    "diagonal as a column, transposed": StepVariant(
        "units",
        _FED + "c = Transpose <perm = [1, 0]> (h_in) d = Reshape(a, s_column) k = Mul(c, d)"
        " l = Transpose <perm = [1, 0]> (k) h_out = Add(l, u)",
    ),
    "leaky tanh": StepVariant("units", _FED + "k = Mul(a, h_in) s = Add(k, u) h_out = Tanh(s)"),
    "self-gated": StepVariant(
        "units", _FED + "s = Sigmoid(h_in) k = Mul(s, h_in) l = Mul(k, a) h_out = Add(l, u)"
    ),
    "complex": StepVariant("units", _two_states(_IN_ORDER), _TWO),
    "complex, turned": StepVariant("units", _two_states(_SWAPPED), _TWO),
    "complex in one by Split": StepVariant(
        "units",
        _in_one(
            "p, q = Split <axis = 1, num_outputs = 2> (h_in) ", "h_out = Concat <axis = 1> (p_n, q_n)"
        ),
        _WHOLE,
    ),
    "complex in one by Slice": StepVariant(
        "units",
        _in_one(
            "p = Slice(h_in, i0, i1, one) q = Slice(h_in, i1, i2, one) ",
            "h_out = Concat <axis = 1> (p_n, q_n)",
        ),
        _WHOLE,
    ),
    "complex pairs by Gather": StepVariant(
        "units",
        _in_one(
            "zero = Constant <value_int = 0> () last = Constant <value_int = 1> ()"
            " p = Gather <axis = 2> (h_in, zero) q = Gather <axis = 2> (h_in, last) ",
            "pu = Unsqueeze(p_n, two) qu = Unsqueeze(q_n, two) h_out = Concat <axis = 2> (pu, qu)",
        ),
        _PAIRS,
    ),
    "pairs by batched MatMul": StepVariant(
        "units",
        "c = Reshape(h_in, s_block) k = MatMul(c, blocks) l = Reshape(k, s_pair)"
        " u = MatMul(x, bx) v = Unsqueeze(u, two) h_out = Add(l, v)",
        _PAIRS,
    ),
    "pairs by Einsum": StepVariant(
        "units",
        'l = Einsum <equation = "bhi,hij->bhj"> (h_in, blocks) u = MatMul(x, bx) v = Unsqueeze(u, two)'
        " h_out = Add(l, v)",
        _PAIRS,
    ),
    # Products with shared weights.
    "tanh": StepVariant("gated", _FED + "k = MatMul(h_in, wt) s = Add(k, u) h_out = Tanh(s)"),
    "tanh by Gemm": StepVariant(
        "gated", _FED + "k = Gemm <transB = 1> (h_in, w, u) h_out = Tanh(k)"
    ),
    "tanh by Gemm, scaled": StepVariant(
        "gated", _FED + "k = Gemm <alpha = 0.5, beta = 2.0> (h_in, wt, u) h_out = Tanh(k)"
    ),
    "tanh by Einsum": StepVariant(
        "gated", _FED + 'k = Einsum <equation = "bh,kh->bk"> (h_in, w) s = Add(k, u) h_out = Tanh(s)'
    ),
    "tanh of a column": StepVariant(
        "gated",
        _FED + "c = Transpose <perm = [1, 0]> (h_in) k = MatMul(w, c) l = Transpose <perm = [1, 0]> (k)"
        " s = Add(l, u) h_out = Tanh(s)",
    ),
    "tanh by Gemm of a column": StepVariant(
        "gated",
        _FED + "k = Gemm <transB = 1> (w, h_in) l = Reshape(k, s_row) s = Add(l, u) h_out = Tanh(s)",
    ),
    "tanh in three dimensions": StepVariant(
        "gated",
        _FED + "c = Unsqueeze(h_in, one) k = MatMul(c, wt) l = Squeeze(k, one) s = Add(l, u) h_out = Tanh(s)",
    ),
    "weight transposed in the graph": StepVariant(
        "gated",
        _FED + "v = Transpose <perm = [1, 0]> (w) k = MatMul(h_in, v) s = Add(k, u) h_out = Tanh(s)",
    ),
    "weight masked in the graph": StepVariant(
        "gated", _FED + "v = Mul(wt, mask) k = MatMul(h_in, v) s = Add(k, u) h_out = Tanh(s)"
    ),
    "low rank": StepVariant(
        "gated", _FED + "j = MatMul(h_in, low) k = MatMul(j, high) s = Add(k, u) h_out = Tanh(s)",
    ),
    "diagonal and product": StepVariant(
        "gated", _FED + "k = MatMul(h_in, wt) s = Add(k, u) t = Tanh(s) v = Mul(t, a2) l = Mul(a, h_in)"
        " h_out = Add(v, l)",
    ),
    "input and state side by side": StepVariant(
        "gated", "c = Concat <axis = 1> (x, h_in) p = MatMul(c, xh_t)" + _THREE +
        " f = Sigmoid(hr) g = Tanh(hz) o = Sigmoid(hn) k = Mul(f, h_in) l = Mul(o, g) h_out = Add(k, l)",
    ),
    "gru, gates apart": StepVariant("gated", _gru(_APART)),
    "gru, blended by 1 - z": StepVariant(
        "gated",
        _gru(_APART, blend="y = Sub(c1, z) v = Mul(y, n) k = Mul(z, h_in) h_out = Add(k, v)"),
    ),
    "gru, reset before": StepVariant(
        "gated",
        _gru("hr = MatMul(h_in, wt) hz = MatMul(h_in, wt1)", reset="rh = Mul(h_in, r) rn = MatMul(rh, wt2)"),
    ),
    "gru, packed by Split": StepVariant("gated", _gru("p = MatMul(h_in, packed_t)" + _THREE)),
    "gru, packed by Slice": StepVariant(
        "gated",
        _gru(
            "p = MatMul(h_in, packed_t) hn = Slice(p, i2, i3, one) hr = Slice(p, i0, i1, one)"
            " hz = Slice(p, i1, i2, one)"
        ),
    ),
    "gru, packed by Gemm": StepVariant(
        "gated", _gru("p = Gemm <transB = 1> (h_in, packed, bias)" + _THREE)
    ),
    "gru, packed by Einsum": StepVariant(
        "gated", _gru('p = Einsum <equation = "bh,kh->bk"> (h_in, packed)' + _THREE)
    ),
    "gru, packed by Reshape": StepVariant(
        "gated",
        _gru(
            "m = MatMul(h_in, packed_t) q = Reshape(m, s_gates) zero = Constant <value_int = 0> ()"
            " first = Constant <value_int = 1> () last = Constant <value_int = 2> ()"
            " hr = Gather <axis = 1> (q, zero) hz = Gather <axis = 1> (q, first)"
            " hn = Gather <axis = 1> (q, last)"
        ),
    ),
    "gru, gates interleaved": StepVariant(
        "gated",
        _gru(
            "m = MatMul(h_in, interleaved_t) q = Reshape(m, s_units) zero = Constant <value_int = 0> ()"
            " first = Constant <value_int = 1> () last = Constant <value_int = 2> ()"
            " hr = Gather <axis = 2> (q, zero) hz = Gather <axis = 2> (q, first)"
            " hn = Gather <axis = 2> (q, last)"
        ),
    ),
    "gru, packed column": StepVariant(
        "gated",
        _gru("c = Transpose <perm = [1, 0]> (h_in) k = MatMul(packed, c) p = Reshape(k, s_h3)" + _THREE),
    ),
    "gru by Conv": StepVariant(
        "gated", _gru("c = Unsqueeze(h_in, two) k = Conv (c, kernel) p = Squeeze(k, two)" + _THREE)
    ),
    # Nothing but a dense matrix would be right.
    "units in another order": StepVariant(
        "dense",
        _FED + "minus = Constant <value_ints = [-1]> () far = Constant <value_ints = [-100000]> ()"
        " c = Slice(h_in, minus, far, one, minus) k = Mul(a, c) h_out = Add(k, u)",
    ),
    "a weak mean of all units": StepVariant(
        "dense",
        _gru(_APART).replace("h_out", "h_new")
        + " mean = ReduceMean <keepdims = 1> (h_in, one) m = Mul(mean, every) h_out = Add(h_new, m)",
    ),
    "normalised": StepVariant(
        "dense", _FED + "k = MatMul(h_in, wt) s = Add(k, u) h_out = Softmax <axis = 1> (s)"
    ),
    "outer product": StepVariant(
        "dense",
        _FED + "c = Transpose <perm = [1, 0]> (h_in) o = MatMul(c, h_in) i = MatMul(u, o)"
        " k = Mul(i, every) s = Add(k, u) h_out = Tanh(s)",
    ),
}  # fmt: skip
