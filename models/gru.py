"""The same stacked GRU, weight for weight, as fused nodes or as plain operators in the other four forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit
from .forms import State, Step, in_form
from .fused import fused_stack
from .graph import GraphBuilder
from .layers import gemms
from .weights import Packed, stack_uniform, with_gate_bias

NUM_GATES = 3
CERTAIN_BIAS = 100.0


def gru(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    update_bias: float = 0.0,
    form: Form = Form.FUSED_OP,
    num_steps: int = 8,
) -> Exhibit:
    """Stacked GRU (Cho et al. 2014), linear_before_reset = 1 as in torch, torch's default weights.

    z = sigmoid(W_z x + R_z h), r = sigmoid(W_r x + R_r h), n = tanh(W_n x + r (R_n h)), h' = (1 - z) n + z h,
    each product with its bias. One seed gives one network in all forms.

    Args:
        seed: of the weights.
        num_layers: L.
        input_size: D.
        hidden_size: H.
        update_bias: added to z's bias. From 100 on, z is 1 to the last bit for inputs of the order of 1,
            M_time is the identity and M_depth is 0.
        form: fused GRU nodes, or a step of plain operators as a streaming model, Scan, Loop or unrolled.
        num_steps: T of the unrolled form.
    """
    drawn = stack_uniform(np.random.default_rng(seed), NUM_GATES, input_size, hidden_size, num_layers)
    layers = with_gate_bias(drawn, 0, update_bias)
    if form is Form.FUSED_OP:
        model = fused_stack("GRU", layers, linear_before_reset=1)
    else:
        model = in_form(_step(layers), form, num_steps)
    return Exhibit(model, _card(num_layers, hidden_size, update_bias, form, num_steps))


def _card(num_layers: int, hidden_size: int, update_bias: float, form: Form, num_steps: int) -> Card:
    keeps_all = update_bias >= CERTAIN_BIAS
    ones, zeros = (1.0,) * num_layers, (0.0,) * (num_layers - 1)
    return Card(
        name="gru",
        summary=f"Stacked GRU, {num_layers} layers of {hidden_size} units",
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(hidden_size,) * num_layers,
        num_steps=num_steps if form is Form.UNROLLED else None,
        time_radius=ones if keeps_all else None,
        time_gain=ones if keeps_all else None,
        depth_radius=zeros if keeps_all else None,
        depth_gain=zeros if keeps_all else None,
    )


def _step(layers: Sequence[Packed]) -> Step:
    builder, below, states = GraphBuilder(), "x", []
    hidden = layers[0].r.shape[-1]
    builder.weight("one", 1.0)
    for index, weights in enumerate(layers):
        below = _cell(builder, weights, below, index)
        states.append(State(f"h{index}", below, hidden))
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), layers[0].w.shape[-1], hidden)


def _cell(builder: GraphBuilder, weights: Packed, x: str, index: int) -> str:
    """x [B,D] and h [B,H] to the new h, as torch exports nn.GRUCell: Gemm, Split and pointwise operators."""
    prefix, h = f"layer_{index}", f"h{index}"
    parts = {
        gates[-2:]: builder.ops("Split", [gates], [f"{gates}_{gate}" for gate in "zrn"], axis=-1)
        for gates in gemms(builder, weights, x, h, prefix)
    }
    z, r = (
        builder.op("Sigmoid", [builder.op("Add", pair, f"{prefix}/{gate}_sum")], f"{prefix}/{gate}")
        for gate, pair in zip("zr", zip(*parts.values(), strict=True), strict=False)
    )
    reset = builder.op("Mul", [r, parts["hh"][2]], f"{prefix}/reset")
    n = builder.op("Tanh", [builder.op("Add", [parts["ih"][2], reset], f"{prefix}/candidate")], f"{prefix}/n")
    new = builder.op("Mul", [builder.op("Sub", ["one", z], f"{prefix}/fresh"), n], f"{prefix}/new")
    kept = builder.op("Mul", [z, h], f"{prefix}/kept")
    return builder.op("Add", [new, kept], f"{h}n")
