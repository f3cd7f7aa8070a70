"""Stacked LSTM nodes, in one direction or two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit, Topology
from .forms import State, Step, in_form
from .fused import InitialState, fused_stack
from .graph import GraphBuilder
from .layers import gemms
from .weights import Packed, stack_uniform, with_gate_bias

NUM_GATES = 4
_FORGET = 2


def lstm(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    forget_bias: float = 0.0,
    initial_state: InitialState = "input",
    form: Form = Form.FUSED_OP,
    num_steps: int = 8,
) -> Exhibit:
    """Stacked LSTM (Hochreiter & Schmidhuber 1997; gates in ONNX order i, o, f, c), torch's default weights.

    One seed gives one network in all forms.

    Args:
        seed: of the weights.
        num_layers: L.
        input_size: D.
        hidden_size: H; a layer's state is (h, c), 2 H elements.
        forget_bias: added to the forget gate's bias (1 in Jozefowicz et al. 2015).
        initial_state: of fused nodes: left out, zeros in the graph, or inputs h_0 and c_0.
        form: fused LSTM nodes, or a step of plain operators as a streaming model, Scan, Loop or unrolled.
        num_steps: T of the unrolled form.
    """
    layers = stack_uniform(np.random.default_rng(seed), NUM_GATES, input_size, hidden_size, num_layers)
    shifted = with_gate_bias(layers, _FORGET, forget_bias)
    if form is Form.FUSED_OP:
        model = fused_stack("LSTM", shifted, initial_state=initial_state)
    else:
        model = in_form(_step(shifted), form, num_steps)
    card = Card(
        name="lstm",
        summary=f"Stacked LSTM, {num_layers} layers of {hidden_size} units",
        forms=(form,),
        num_steps=num_steps if form is Form.UNROLLED else None,
        num_layers=num_layers,
        state_sizes=(2 * hidden_size,) * num_layers,
    )
    return Exhibit(model, card)


def _step(layers: Sequence[Packed]) -> Step:
    builder, below, states = GraphBuilder(), "x", []
    hidden = layers[0].r.shape[-1]
    for index, weights in enumerate(layers):
        below, cell = _cell(builder, weights, below, index)
        states += [State(f"h{index}", below, hidden), State(f"c{index}", cell, hidden)]
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), layers[0].w.shape[-1], hidden)


def _cell(builder: GraphBuilder, weights: Packed, x: str, index: int) -> tuple[str, str]:
    """The new h and c [B,H], as torch exports nn.LSTMCell: Gemm, Add, Split and pointwise operators."""
    p = f"layer_{index}"
    gates = builder.op("Add", list(gemms(builder, weights, x, f"h{index}", p)), f"{p}/gates")
    parts = builder.ops("Split", [gates], [f"{p}/{gate}_in" for gate in "iofg"], axis=-1)
    i, o, f = (builder.op("Sigmoid", [part], f"{p}/{gate}") for gate, part in zip("iof", parts, strict=False))
    kept = builder.op("Mul", [f, f"c{index}"], f"{p}/kept")
    added = builder.op("Mul", [i, builder.op("Tanh", [parts[3]], f"{p}/g")], f"{p}/added")
    c = builder.op("Add", [kept, added], f"c{index}n")
    return builder.op("Mul", [o, builder.op("Tanh", [c], f"{p}/squashed")], f"h{index}n"), c


def bidirectional_lstm(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    forget_bias: float = 0.0,
    initial_state: InitialState = "zeros",
) -> Exhibit:
    """Stacked bidirectional LSTM with torch's Transpose and Reshape between the layers.

    Args:
        seed: of the weights.
        num_layers: bidirectional layers; the card counts each direction as a layer.
        input_size: D.
        hidden_size: H of each direction; y is [time,batch,2*H].
        forget_bias: added to the forget gate's bias.
        initial_state: left out, zeros in the graph, or inputs h_0 and c_0.
    """
    layers = stack_uniform(
        np.random.default_rng(seed), NUM_GATES, input_size, hidden_size, num_layers, num_directions=2
    )
    shifted = with_gate_bias(layers, _FORGET, forget_bias)
    model = fused_stack("LSTM", shifted, initial_state=initial_state)
    card = Card(
        name="bidirectional_lstm",
        summary=f"Bidirectional LSTM, {num_layers} layers of {hidden_size} units in each direction",
        forms=(Form.FUSED_OP,),
        num_layers=2 * num_layers,
        state_sizes=(2 * hidden_size,) * (2 * num_layers),
        topology=Topology.BIDIRECTIONAL,
    )
    return Exhibit(model, card)
