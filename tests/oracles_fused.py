"""RNN, GRU and LSTM of ONNX in plain numpy, one sample and one unit of time at a time, and models of them.

Written from https://onnx.ai/onnx/operators/onnx__LSTM.html (onnx__GRU, onnx__RNN), with what ONNX Runtime
1.31 does where that page is silent: parameters left out, sequences of length 0, where clip applies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx2fx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import helper

from lsc_graph.recurrence.fused_ops import LoweredOp, inline_single_step_scans, lower_fused_ops

NUM_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
NUM_ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

onnxruntime.set_default_logger_severity(4)

ACTIVATIONS = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "leakyrelu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "tanh": lambda x, a, b: np.tanh(x),
    "thresholdedrelu": lambda x, a, b: np.where(x > a, x, 0),
}
DEFAULT_ALPHA = {
    "leakyrelu": 0.01,
    "hardsigmoid": 0.2,
    "elu": 1.0,
    "affine": 0,
    "scaledtanh": 0,
    "thresholdedrelu": 0,
}
DEFAULT_BETA = {"hardsigmoid": 0.5, "affine": 0, "scaledtanh": 0}


@dataclass(frozen=True)
class Case:
    """A fused node with its inputs; W, R, B and P are initializers of `model()`, the others graph inputs."""

    op_type: str
    inputs: dict[str, np.ndarray]
    attributes: dict[str, object] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    opset: int = 17

    @property
    def layout(self) -> int:
        return int(self.attributes.get("layout", 0))

    @property
    def hidden_size(self) -> int:
        return self.inputs["R"].shape[-1]

    def model(self, *, dynamic: bool = False, fed: tuple[str, ...] = ()) -> onnx.ModelProto:
        """The node in a model; `fed` inputs are graph inputs although they are weights."""
        names = [name if name in self.inputs else "" for name in SLOTS]
        node = helper.make_node(
            self.op_type,
            strip(names),
            list(self.wanted()),
            name="rnn",
            hidden_size=self.hidden_size,
            **self.attributes,
        )
        graph = helper.make_graph([node], "g", [], [])
        for name, array in self.inputs.items():
            if name in ("W", "R", "B", "P") and name not in fed:
                graph.initializer.append(onnx.numpy_helper.from_array(array, name))
                continue
            shape = [f"{name}_{axis}" for axis in range(array.ndim)] if dynamic else array.shape
            graph.input.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
            )
        dtype = helper.np_dtype_to_tensor_dtype(self.inputs["X"].dtype)
        graph.output.extend(
            helper.make_tensor_value_info(name, dtype, None) for name in self.wanted() if name
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def wanted(self) -> tuple[str, ...]:
        return self.outputs or OUTPUTS[self.op_type]

    def feeds(self, model: onnx.ModelProto) -> dict[str, np.ndarray]:
        return {value.name: self.inputs[value.name] for value in model.graph.input}

    def expected(self) -> dict[str, np.ndarray]:
        """The outputs by the oracle."""
        every = run_oracle(self)
        return {name: every[name] for name in self.wanted() if name}


def strip(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names.pop()
    return names


def random_case(
    op_type: str,
    seed: int = 0,
    *,
    direction: str = "forward",
    steps: int = 4,
    batch: int = 2,
    size: int = 3,
    hidden: int = 3,
    with_inputs: tuple[str, ...] = ("B", "initial_h"),
    lens: tuple[int, ...] | None = None,
    dtype: type = np.float32,
    outputs: tuple[str, ...] = (),
    opset: int = 17,
    scale: float = 0.6,
    **attributes: object,
) -> Case:
    """A case with normally distributed inputs; `with_inputs` lists the optional ones to include."""
    generator = np.random.default_rng(seed)
    dirs, rows = 2 if direction == "bidirectional" else 1, NUM_GATES[op_type] * hidden
    layout = attributes.get("layout", 0)
    state = (batch, dirs, hidden) if layout else (dirs, batch, hidden)
    shapes = {
        "X": (batch, steps, size) if layout else (steps, batch, size),
        "W": (dirs, rows, size),
        "R": (dirs, rows, hidden),
        "B": (dirs, 2 * rows),
        "initial_h": state,
        "initial_c": state,
        "P": (dirs, 3 * hidden),
    }
    names = ["X", "W", "R", *with_inputs]
    inputs = {n: (scale * generator.normal(size=shapes[n])).astype(dtype) for n in SLOTS if n in names}
    if lens is not None:
        inputs["sequence_lens"] = np.array(lens, dtype=np.int32)
    return Case(op_type, inputs, {"direction": direction, **attributes}, outputs, opset)


def run_oracle(case: Case) -> dict[str, np.ndarray]:
    """Y, Y_h (and Y_c), and per direction the states after every step: `h_0`, `c_0`, `h_1`, `c_1` [T,B,H]."""
    direction = case.attributes.get("direction", "forward")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[str(direction)]
    x = case.inputs["X"].swapaxes(0, 1) if case.layout else case.inputs["X"]
    initial = {}
    for name in ("h", "c"):
        given = case.inputs.get(
            f"initial_{name}", np.zeros((len(ways), x.shape[1], case.hidden_size), x.dtype)
        )
        initial[name] = given.swapaxes(0, 1) if case.layout and f"initial_{name}" in case.inputs else given
    lens = case.inputs.get("sequence_lens", np.full(x.shape[1], x.shape[0]))
    y = np.zeros((x.shape[0], len(ways), x.shape[1], case.hidden_size), x.dtype)
    finals = {name: np.zeros(y.shape[1:], x.dtype) for name in ("h", "c")}
    states = {
        f"{name}_{way}": np.zeros((*y.shape[:1], *y.shape[2:]), x.dtype)
        for way in range(len(ways))
        for name in "hc"
    }
    for way, is_reverse in enumerate(ways):
        for sample in range(x.shape[1]):
            state = {name: initial[name][way, sample] for name in ("h", "c")}
            for time in reversed(range(x.shape[0])) if is_reverse else range(x.shape[0]):
                if time < lens[sample]:
                    state = _step(case, way, x[time, sample], state["h"], state["c"])
                    y[time, way, sample] = state["h"]
                for name in "hc":
                    states[f"{name}_{way}"][time, sample] = state[name]
            if lens[sample] > 0:
                for name in "hc":
                    finals[name][way, sample] = state[name]
    if case.layout:
        y, finals = y.transpose(2, 0, 1, 3), {name: final.swapaxes(0, 1) for name, final in finals.items()}
    return {"Y": y, "Y_h": finals["h"], "Y_c": finals["c"], **states}


def _step(case: Case, way: int, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    gates, hidden = NUM_GATES[case.op_type], case.hidden_size
    w = case.inputs["W"][way].reshape(gates, hidden, -1)
    r = case.inputs["R"][way].reshape(gates, hidden, hidden)
    zeros = np.zeros((w.shape[0] * 2 * hidden), x.dtype)
    wb, rb = (
        case.inputs["B"][way].reshape(2, gates, hidden)
        if "B" in case.inputs
        else zeros.reshape(2, gates, hidden)
    )
    p = case.inputs["P"][way].reshape(3, hidden) if "P" in case.inputs else np.zeros((3, hidden), x.dtype)
    clip = case.attributes.get("clip", np.inf)
    acts = _activations(case)[way * NUM_ACTIVATIONS[case.op_type] :]

    def act(index: int, value: np.ndarray, clip: float = clip) -> np.ndarray:
        name, alpha, beta = acts[index]
        return ACTIVATIONS[name](np.clip(value, -clip, clip) if np.isfinite(clip) else value, alpha, beta)

    def linear(gate: int, state: np.ndarray) -> np.ndarray:
        return w[gate] @ x + wb[gate] + r[gate] @ state + rb[gate]

    if case.op_type == "RNN":
        return {"h": act(0, linear(0, h)), "c": c}
    if case.op_type == "GRU":
        z, reset = act(0, linear(0, h)), act(0, linear(1, h))
        if case.attributes.get("linear_before_reset"):
            candidate = act(1, w[2] @ x + wb[2] + reset * (r[2] @ h + rb[2]))
        else:
            candidate = act(1, linear(2, reset * h))
        return {"h": (1 - z) * candidate + z * h, "c": c}
    i = act(0, linear(0, h) + p[0] * c)
    f = 1 - i if case.attributes.get("input_forget") else act(0, linear(2, h) + p[2] * c)
    new_c = f * c + i * act(1, linear(3, h))
    o = act(0, linear(1, h) + p[1] * new_c)
    return {"h": o * act(2, new_c, clip=np.inf), "c": new_c}


def _activations(case: Case) -> list[tuple[str, float, float]]:
    default = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}[case.op_type]
    names = [str(name).lower() for name in case.attributes.get("activations", default * 2)]
    alphas = [float(np.float32(a)) for a in case.attributes.get("activation_alpha", [])]
    betas = [float(np.float32(b)) for b in case.attributes.get("activation_beta", [])]
    chosen = []
    for name in names:
        alpha = (alphas.pop(0) if alphas else DEFAULT_ALPHA[name]) if name in DEFAULT_ALPHA else 0.0
        beta = (betas.pop(0) if betas else DEFAULT_BETA[name]) if name in DEFAULT_BETA else 0.0
        chosen.append((name, alpha, beta))
    return chosen


def lowered(model: onnx.ModelProto, *, inline: bool = False) -> tuple[onnx.ModelProto, tuple[LoweredOp, ...]]:
    """The rewritten model, checked to be valid ONNX, and what was rewritten."""
    rewritten = ir.from_proto(model)
    ops = lower_fused_ops(rewritten)
    if inline:
        inline_single_step_scans(rewritten)
    proto = ir.to_proto(rewritten)
    onnx.checker.check_model(proto, full_check=True)
    return proto, ops


def op_types(model: onnx.ModelProto) -> set[str]:
    """The operators of the main graph."""
    return {node.op_type for node in model.graph.node}


def run_ort(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by ONNX Runtime on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_torch(model: onnx.ModelProto, feeds: dict[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
    """Every output by torch."""
    tensors = [torch.as_tensor(feeds[value.name]) for value in model.graph.input]
    result = onnx2fx.convert(model)(*tensors)
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return dict(zip([value.name for value in model.graph.output], outputs, strict=True))
