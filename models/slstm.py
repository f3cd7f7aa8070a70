"""The scalar memory cell of xLSTM: exponential gates, a normaliser and a stabiliser, recurrent weights.

M. Beck, K. Pöppel, M. Spanring, A. Auer, O. Prudnikova, M. Kopp, G. Klambauer, J. Brandstetter,
S. Hochreiter, "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024, arXiv 2405.04517, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit
from .forms import State, Step, in_form
from .graph import GraphBuilder
from .layers import gemms
from .weights import Packed, stack_uniform

_NUM_GATES = 4


def slstm(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    forget_bias: float = 3.0,
    form: Form = Form.SCAN,
    num_steps: int = 8,
) -> Exhibit:
    """Stacked sLSTM cells of one head, without the residual blocks around them.

    z, i, f, o = W x[t] + R h[t-1] + b;  m[t] = max(log sigmoid(f) + m[t-1], i);
    i' = exp(i - m[t]), f' = exp(log sigmoid(f) + m[t-1] - m[t]);
    c[t] = f' c[t-1] + i' tanh(z), n[t] = f' n[t-1] + i', h[t] = sigmoid(o) c[t] / n[t].
    States h<l>, c<l>, n<l>, m<l> [batch,H]; m only keeps the numbers in range, and cancels in h.

    Args:
        seed: of the weights; all U(+-1/sqrt(H)), gates in the order z, i, f, o.
        num_layers: L.
        input_size: D.
        hidden_size: H; a layer's state has 4 H elements.
        forget_bias: added to the bias of f, so that the cell remembers at first.
        form: how the step is written.
        num_steps: T of the unrolled form.
    """
    generator = np.random.default_rng(seed)
    layers = stack_uniform(generator, _NUM_GATES, input_size, hidden_size, num_layers)
    for weights in layers:
        assert weights.b is not None
        weights.b[:, 2 * hidden_size : 3 * hidden_size] += np.float32(forget_bias)
    card = Card(
        name="slstm",
        summary=f"Stacked sLSTM (xLSTM), {num_layers} layers of {hidden_size} units",
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(4 * hidden_size,) * num_layers,
        num_steps=num_steps if form is Form.UNROLLED else None,
    )
    return Exhibit(in_form(_step(layers), form, num_steps), card)


def _step(layers: Sequence[Packed]) -> Step:
    builder, below, states = GraphBuilder(), "x", []
    for index, weights in enumerate(layers):
        hidden = weights.r.shape[-1]
        sums = gemms(builder, weights, below, f"h{index}", f"layer_{index}")
        total = builder.op("Add", list(sums), f"layer_{index}/sum")
        gates = [f"layer_{index}/{gate}" for gate in "zifo"]
        builder.ops("Split", [total, builder.integers([hidden] * _NUM_GATES)], gates, axis=-1)
        after = _cell(builder, gates, index)
        states += [State(f"{name}{index}", value, hidden) for name, value in zip("hcnm", after, strict=True)]
        below = after[0]
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), layers[0].w.shape[-1], layers[0].r.shape[-1])


def _cell(builder: GraphBuilder, gates: Sequence[str], index: int) -> tuple[str, str, str, str]:
    """New h, c, n and m [B,H] from the four sums that enter the gates."""

    def op(kind: str, values: Sequence[str], name: str) -> str:
        return builder.op(kind, list(values), f"layer_{index}/{name}")

    z, i, f, o = gates
    h, c, n, m = (f"{name}{index}" for name in "hcnm")
    kept = op("Neg", [op("Softplus", [op("Neg", [f], "minus_f")], "softplus")], "log_forget")
    carried = op("Add", [kept, m], "carried")
    new_m = builder.op("Max", [carried, i], f"{m}_next")
    write = op("Exp", [op("Sub", [i, new_m], "i_shifted")], "write")
    forget = op("Exp", [op("Sub", [carried, new_m], "f_shifted")], "forget")
    value = op("Mul", [write, op("Tanh", [z], "value")], "written")
    new_c = builder.op("Add", [op("Mul", [forget, c], "kept_c"), value], f"{c}_next")
    new_n = builder.op("Add", [op("Mul", [forget, n], "kept_n"), write], f"{n}_next")
    shown = op("Div", [new_c, new_n], "shown")
    new_h = builder.op("Mul", [op("Sigmoid", [o], "output_gate"), shown], f"{h}_next")
    return new_h, new_c, new_n, new_m
