"""Stacked LSTM nodes, in one direction or two."""

from __future__ import annotations

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit, Topology
from .fused import InitialState, fused_stack
from .weights import stack_uniform, with_gate_bias

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
) -> Exhibit:
    """Stacked LSTM (Hochreiter & Schmidhuber 1997; gates in ONNX order i, o, f, c), torch's default weights.

    Args:
        seed: of the weights.
        num_layers: L.
        input_size: D.
        hidden_size: H; a layer's state is (h, c), 2 H elements.
        forget_bias: added to the forget gate's bias (1 in Jozefowicz et al. 2015).
        initial_state: left out, zeros in the graph, or inputs h_0 and c_0.
    """
    layers = stack_uniform(np.random.default_rng(seed), NUM_GATES, input_size, hidden_size, num_layers)
    shifted = with_gate_bias(layers, _FORGET, forget_bias)
    model = fused_stack("LSTM", shifted, initial_state=initial_state)
    card = Card(
        name="lstm",
        summary=f"Stacked LSTM, {num_layers} layers of {hidden_size} units",
        forms=(Form.FUSED_OP,),
        num_layers=num_layers,
        state_sizes=(2 * hidden_size,) * num_layers,
    )
    return Exhibit(model, card)


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
