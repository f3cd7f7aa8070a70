"""The activation functions of the fused ONNX operators RNN, GRU and LSTM, as plain ONNX operators.

Names, parameters and formulas: https://onnx.ai/onnx/operators/onnx__LSTM.html. Names are read in any case, as
ONNX Runtime does for GRU and LSTM. The next entry of activation_alpha and activation_beta goes to the next
function that takes one.

Where a parameter is left out, ONNX Runtime (1.31) is followed against the specification: Affine, ScaledTanh
and ThresholdedRelu get alpha and beta 0, so that the first two are 0 everywhere and the last is Relu (ONNX:
alpha 1). LeakyRelu (0.01), HardSigmoid (0.2, 0.5) and Elu (1) are as specified. (In the sources of older
releases, RNN gets 0 for every parameter left out.) It is not followed where Softplus overflows, above 88 in
single precision.
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
    """The activation functions by these names, with their parameters."""
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


def _next(parameters: Iterator[float], default: float) -> float:
    return float(next(parameters, default))


def _unknown(name: str, where: str) -> AnalysisError:
    return AnalysisError(
        "Unknown activation function",
        where=where,
        got=name,
        expected="one of " + ", ".join(_OPERATORS.values()),
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
