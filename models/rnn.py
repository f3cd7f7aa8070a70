"""Stacked RNN nodes with tanh or ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit
from .forms import State, Step, in_form
from .fused import InitialState, fused_stack
from .graph import Array, GraphBuilder
from .layers import gemms
from .weights import Packed, orthogonal, stack_uniform

RecurrentInit = Literal["torch", "orthogonal", "identity"]


def rnn(
    seed: int = 0,
    *,
    activation: Literal["Tanh", "Relu"] = "Tanh",
    num_layers: int = 3,
    input_size: int = 8,
    hidden_size: int = 16,
    recurrent_init: RecurrentInit = "torch",
    recurrent_scale: float = 1.0,
    initial_state: InitialState = "omitted",
    form: Form = Form.FUSED_OP,
    num_steps: int = 8,
) -> Exhibit:
    """h[t,l] = f(W h[t,l-1] + b_W + R h[t-1,l] + b_R) (Elman 1990); one seed gives one network in all forms.

    Args:
        seed: of the weights.
        activation: f.
        num_layers: L.
        input_size: D.
        hidden_size: H.
        recurrent_init: R as torch draws it (everything U(+-1/sqrt(H))), orthogonal, or the identity
            (the IRNN of Le, Jaitly & Hinton, arXiv 1504.00941).
        recurrent_scale: factor on R.
        initial_state: of fused nodes: left out, zeros in the graph, or an input h_0.
        form: fused RNN nodes, or a step of plain operators as a streaming model, Scan, Loop or unrolled.
        num_steps: T of the unrolled form.
    """
    generator = np.random.default_rng(seed)
    layers = [
        Packed(layer.w, np.float32(recurrent_scale) * _recurrent(generator, recurrent_init, layer.r), layer.b)
        for layer in stack_uniform(generator, 1, input_size, hidden_size, num_layers)
    ]
    if form is Form.FUSED_OP:
        model = fused_stack("RNN", layers, initial_state=initial_state, activations=[activation])
    else:
        model = in_form(_step(layers, activation), form, num_steps)
    card = Card(
        name=f"{activation.lower()}_rnn",
        summary=f"Stacked {activation} RNN, {num_layers} layers of {hidden_size} units, recurrent weights "
        f"{recurrent_init} times {recurrent_scale:g}",
        forms=(form,),
        num_steps=num_steps if form is Form.UNROLLED else None,
        num_layers=num_layers,
        state_sizes=(hidden_size,) * num_layers,
    )
    return Exhibit(model, card)


def _step(layers: Sequence[Packed], activation: str) -> Step:
    """As torch exports nn.RNNCell: two Gemm, Add and the nonlinearity."""
    builder, below, states = GraphBuilder(), "x", []
    for index, weights in enumerate(layers):
        from_below, from_before = gemms(builder, weights, below, f"h{index}", f"layer_{index}")
        total = builder.op("Add", [from_below, from_before], f"layer_{index}/sum")
        below = builder.op(activation, [total], f"h{index}n")
        states.append(State(f"h{index}", below, weights.r.shape[-1]))
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), layers[0].w.shape[-1], layers[0].r.shape[-1])


def _recurrent(generator: np.random.Generator, init: RecurrentInit, drawn: Array) -> Array:
    """R [1,H,H] by the rule; `drawn` is torch's."""
    size = drawn.shape[-1]
    if init == "orthogonal":
        return orthogonal(generator, size)[None]
    return np.eye(size, dtype=np.float32)[None] if init == "identity" else drawn
