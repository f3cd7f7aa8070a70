"""Deep feed-forward networks: the case of one step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from .card import Card, Exhibit
from .checks import require
from .graph import GraphBuilder
from .layers import layer_norm
from .weights import Init, matrix, uniform

Activation = Literal["Sin", "Relu", "Cos", "Tanh", "Linear"]


def feed_forward(
    seed: int = 0,
    *,
    activation: Activation = "Relu",
    num_layers: int = 30,
    input_size: int = 64,
    hidden_size: int = 128,
    output_size: int = 0,
    init: Init = "torch",
    scale: float = 1.0,
) -> Exhibit:
    """Gemm and activation, 30 layers of 128 units as in arXiv 2308.12075; x and y are [batch,features].

    Args:
        seed: of the weights.
        activation: the nonlinearity; "Linear" is none.
        num_layers: L.
        input_size: D.
        hidden_size: H.
        output_size: size of a linear head, which counts as one more layer; 0 for none.
        init: rule for the weights; biases are U(+-1/sqrt(n_in)) with "torch", else 0.
        scale: factor on all weights, at least 0.
    """
    require(scale >= 0, "scale", scale, "at least 0")
    sizes = [input_size] + [hidden_size] * num_layers + [output_size] * (output_size > 0)
    builder, generator, value = GraphBuilder(), np.random.default_rng(seed), "x"
    builder.input("x", ["batch", input_size])
    for index, (num_in, num_out) in enumerate(pairwise(sizes)):
        dense = _Dense(f"layer_{index}", num_out, num_in, init, scale)
        value = dense.write(builder, generator, value)
        if index < num_layers and activation != "Linear":
            value = builder.op(activation, [value], f"layer_{index}/out")
    builder.op("Identity", [value], "y")
    builder.output("y", ["batch", sizes[-1]])
    is_exact = activation == "Linear" and init == "orthogonal" and output_size == 0
    factor = (float(scale),) * (num_layers - 1) if is_exact else None
    summary = f"Feed-forward, {num_layers} layers of {hidden_size} units, {activation}, {init} weights"
    return Exhibit(builder.model(), _card("feed_forward", summary, tuple(sizes[1:]), factor))


def residual_mlp(
    seed: int = 0,
    *,
    num_layers: int = 8,
    hidden_size: int = 32,
    inner_size: int = 64,
    branch_scale: float = 1.0,
) -> Exhibit:
    """Blocks s' = s + W_2 relu(W_1 norm(s)), He et al. 2016 with the norm first; x and y are [batch,H].

    Args:
        seed: of the weights, torch's default.
        num_layers: blocks; each is one layer of the grid, skip included.
        hidden_size: H.
        inner_size: width inside a block.
        branch_scale: factor on W_2 and its bias; with 0 every M_depth is the identity.
    """
    builder, generator, value = GraphBuilder(), np.random.default_rng(seed), "x"
    builder.input("x", ["batch", hidden_size])
    for index in range(num_layers):
        prefix = f"layer_{index}"
        up = _Dense(f"{prefix}.up", inner_size, hidden_size, "torch", 1.0)
        down = _Dense(f"{prefix}.down", hidden_size, inner_size, "torch", branch_scale)
        normed = layer_norm(builder, value, prefix, hidden_size)
        active = builder.op("Relu", [up.write(builder, generator, normed)], f"{prefix}/relu")
        value = builder.op("Add", [value, down.write(builder, generator, active)], f"{prefix}/out")
    builder.op("Identity", [value], "y")
    builder.output("y", ["batch", hidden_size])
    factor = (1.0,) * (num_layers - 1) if branch_scale == 0 else None
    summary = f"Residual MLP, {num_layers} blocks of width {hidden_size} with {inner_size} units inside"
    sizes = (hidden_size,) * num_layers
    return Exhibit(builder.model(), _card("residual_mlp", summary, sizes, factor))


def _card(name: str, summary: str, sizes: tuple[int, ...], factor: tuple[float, ...] | None) -> Card:
    """`factor` is that of every M_depth, where M_depth is exactly factor times orthogonal."""
    return Card(
        name=name,
        summary=summary,
        forms=(),
        num_layers=len(sizes),
        state_sizes=sizes,
        depth_radius=factor,
        depth_gain=factor,
    )


@dataclass(frozen=True)
class _Dense:
    """A Gemm with weights [num_out,num_in] by a rule, times `scale`, and biases."""

    name: str
    num_out: int
    num_in: int
    init: Init
    scale: float

    def write(self, builder: GraphBuilder, generator: np.random.Generator, value: str) -> str:
        w = np.float32(self.scale) * matrix(generator, self.init, self.num_out, self.num_in)
        bound = abs(self.scale) / math.sqrt(self.num_in) if self.init == "torch" else 0.0
        b = builder.weight(f"{self.name}.bias", uniform(generator, bound, self.num_out))
        return builder.linear(value, builder.weight(f"{self.name}.weight", w), f"{self.name}/linear", b)
