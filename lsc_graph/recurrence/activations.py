"""The activation functions of the fused ONNX operators RNN, GRU and LSTM, as plain ONNX operators.

Names, parameters and formulas: https://onnx.ai/onnx/operators/onnx__LSTM.html. Where a parameter is
left out, ONNX Runtime does not do what the specification says, and ONNX Runtime is followed here:

- GRU and LSTM: Affine, ScaledTanh and ThresholdedRelu take 0 for a missing alpha or beta (ONNX: 1, 1 and 1
  for alpha). LeakyRelu (0.01), HardSigmoid (0.2, 0.5) and Elu (1) are as specified.
- RNN: every missing alpha or beta is 0, so that LeakyRelu is Relu and HardSigmoid is 0. Entries belong to the
  directions by position, whether or not the function takes one (GRU and LSTM, as specified, use
  up the next entry only where a function takes one).
- RNN tells names apart by case and quietly runs Tanh for one that it does not know; that is refused here.

Seen in onnxruntime/core/providers/cpu/rnn/rnn.h and rnn_helpers.cc (ONNX Runtime 1.31).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.errors import AnalysisError
from lsc_graph.recurrence.writer import GraphWriter

_OPERATORS = {
    "affine": "Affine",
    "elu": "Elu",
    "hardsigmoid": "HardSigmoid",
    "leakyrelu": "LeakyRelu",
    "relu": "Relu",
    "scaledtanh": "ScaledTanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
    "thresholdedrelu": "ThresholdedRelu",
}
_TAKES_ALPHA = frozenset(("Affine", "Elu", "HardSigmoid", "LeakyRelu", "ScaledTanh", "ThresholdedRelu"))
_TAKES_BETA = frozenset(("Affine", "HardSigmoid", "ScaledTanh"))
_DEFAULTS = {"Elu": (1.0, 0.0), "HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01, 0.0)}


@dataclass(frozen=True)
class Activation:
    """One activation function; a parameter that it does not take is 0."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


def resolve_activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], *, where: str
) -> tuple[Activation, ...]:
    """The activations of a GRU or LSTM: a function that takes a parameter uses up the next one."""
    alpha, beta = iter(alphas), iter(betas)
    resolved = []
    for given in names:
        name = _OPERATORS.get(given.lower())
        if name is None:
            raise _unknown(given, where)
        default_alpha, default_beta = _DEFAULTS.get(name, (0.0, 0.0))
        resolved.append(
            Activation(
                name,
                _next(alpha, default_alpha) if name in _TAKES_ALPHA else 0.0,
                _next(beta, default_beta) if name in _TAKES_BETA else 0.0,
            )
        )
    return tuple(resolved)


def resolve_rnn_activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], *, where: str
) -> tuple[Activation, ...]:
    """The activations of an RNN, one per direction: parameters belong to them by position."""
    for parameters, attribute in ((alphas, "activation_alpha"), (betas, "activation_beta")):
        if parameters and len(parameters) < len(names):
            raise AnalysisError(
                f"RNN has fewer entries in {attribute} than directions",
                where=where,
                got=str(list(parameters)),
                expected=f"{len(names)} entries, or none",
            )
    resolved = []
    for index, given in enumerate(names):
        if given not in _OPERATORS.values() and given.lower() != "tanh":
            raise _unknown(given, where)
        name = _OPERATORS[given.lower()]
        alpha = alphas[index] if alphas and name in _TAKES_ALPHA else 0.0
        beta = betas[index] if betas and name in _TAKES_BETA else 0.0
        resolved.append(Activation(name, alpha, beta))
    return tuple(resolved)


def _next(parameters: Iterator[float], default: float) -> float:
    return float(next(parameters, default))


def _unknown(name: str, where: str) -> AnalysisError:
    known = ", ".join(_OPERATORS.values())
    hint = _OPERATORS.get(name.lower())
    return AnalysisError(
        "Unknown activation function",
        where=where,
        got=name,
        expected=f"one of {known}",
        do=f"write {hint}: RNN tells upper from lower case" if hint else None,
    )


def write_activation(writer: GraphWriter, activation: Activation, x: ir.Value, name: str) -> ir.Value:
    """Apply `activation` to `x`, element by element; the result is called `name`."""
    shape, alpha, beta = x.shape, activation.alpha, activation.beta
    match activation.name:
        case "Affine":
            scaled = writer.op("Mul", [x, writer.number(alpha)], f"{name}_scaled", shape)
            return writer.op("Add", [scaled, writer.number(beta)], name, shape)
        case "ScaledTanh":
            scaled = writer.op("Mul", [x, writer.number(beta)], f"{name}_scaled", shape)
            tanh = writer.op("Tanh", [scaled], f"{name}_tanh", shape)
            return writer.op("Mul", [tanh, writer.number(alpha)], name, shape)
        case "HardSigmoid":
            return writer.op("HardSigmoid", [x], name, shape, alpha=alpha, beta=beta)
        case "Elu" | "LeakyRelu" | "ThresholdedRelu":
            return writer.op(activation.name, [x], name, shape, alpha=alpha)
        case operator:
            return writer.op(operator, [x], name, shape)
