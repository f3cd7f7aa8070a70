"""Stateless layers that networks are glued together with."""

from __future__ import annotations

import math

import numpy as np

from .graph import GraphBuilder
from .weights import Packed, matrix, uniform


def gelu(builder: GraphBuilder, value: str) -> str:
    """v (1 + erf(v / sqrt 2)) / 2."""
    for name, number in (("sqrt_two", math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
        builder.weight(name, number)
    erf = builder.op("Erf", [builder.op("Div", [value, "sqrt_two"], f"{value}/scaled")], f"{value}/erf")
    share = builder.op("Mul", [builder.op("Add", [erf, "one"], f"{value}/erf_1"), "half"], f"{value}/share")
    return builder.op("Mul", [value, share], f"{value}/gelu")


def gated_linear_unit(
    builder: GraphBuilder, generator: np.random.Generator, value: str, prefix: str, width: int
) -> str:
    """(W_1 v + b_1) sigmoid(W_2 v + b_2), Dauphin et al. 2017."""
    linear = dense(builder, generator, value, f"{prefix}.glu_value", width, width)
    gate = dense(builder, generator, value, f"{prefix}.glu_gate", width, width)
    return builder.op("Mul", [linear, builder.op("Sigmoid", [gate], f"{prefix}/gate")], f"{prefix}/glu")


def layer_norm(builder: GraphBuilder, value: str, prefix: str, width: int) -> str:
    """Zero mean and unit variance over the last axis [W], then scale 1 and shift 0 as weights."""
    scale = builder.weight(f"{prefix}.norm_scale", np.ones(width))
    shift = builder.weight(f"{prefix}.norm_shift", np.zeros(width))
    return builder.op("LayerNormalization", [value, scale, shift], f"{prefix}/norm", axis=-1, epsilon=1e-5)


def gemms(builder: GraphBuilder, weights: Packed, x: str, h: str, prefix: str) -> tuple[str, str]:
    """W x + b_W and R h + b_R of packed weights in one direction, each [B,gates*H]."""
    biases = np.split(np.asarray(weights.b)[0], 2)
    found = []
    for side, value, weight, bias in (("ih", x, weights.w, biases[0]), ("hh", h, weights.r, biases[1])):
        w = builder.weight(f"{prefix}.weight_{side}", weight[0])
        b = builder.weight(f"{prefix}.bias_{side}", bias)
        found.append(builder.linear(value, w, f"{prefix}/{side}", b))
    return found[0], found[1]


def dense(
    builder: GraphBuilder,
    generator: np.random.Generator,
    value: str,
    name: str,
    num_out: int,
    num_in: int,
    output: str | None = None,
) -> str:
    """A torch nn.Linear with its default weights."""
    w = builder.weight(f"{name}.weight", matrix(generator, "torch", num_out, num_in))
    b = builder.weight(f"{name}.bias", uniform(generator, 1 / math.sqrt(num_in), num_out))
    return builder.linear(value, w, output or f"{name}/out", b)
