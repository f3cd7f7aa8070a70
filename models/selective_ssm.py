"""Selective state spaces as in Mamba: a diagonal recurrence whose steps and read-outs the input decides.

A. Gu, T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, arXiv
2312.00752, section 3.2 and algorithm 2; the local convolution in front of the recurrence is left out.
"""

from __future__ import annotations

import math

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit, Topology
from .checks import require
from .forms import State, Step, in_form
from .graph import GraphBuilder
from .layers import dense, layer_norm
from .weights import matrix, uniform


def selective_ssm(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    state_size: int = 4,
    model_size: int = 12,
    step_min: float = 0.001,
    step_max: float = 0.1,
    form: Form = Form.STREAMING,
    num_steps: int = 8,
) -> Exhibit:
    """Encoder, blocks of LayerNorm, selective state space, gate and skip, decoder.

    With u = W_u v, delta = softplus(W_2 W_1 u + b), B = W_B u, C = W_C u and A = -exp(A_log), for E channels
    of N units each: h[t] = exp(delta A) h[t-1] + delta B u, out = W_o ((C h[t] + D u) silu(W_g v)).
    States h<l> [batch,E N]. The skips go round a layer's state.

    Args:
        seed: of the weights.
        num_layers: L blocks.
        input_size: D, also the size of y.
        hidden_size: E channels.
        state_size: N units of each channel; a layer's state has E N elements.
        model_size: W, the width between blocks.
        step_min: least delta at zero input.
        step_max: greatest; log delta is uniform between the two logarithms.
        form: how the step is written.
        num_steps: T of the unrolled form.
    """
    require(0 < step_min < step_max, "step_min, step_max", (step_min, step_max), "0 < step_min < step_max")
    generator, builder = np.random.default_rng(seed), GraphBuilder()
    states: list[State] = []
    value = dense(builder, generator, "x", "encoder", model_size, input_size)
    for index in range(num_layers):
        normed = layer_norm(builder, value, f"layer_{index}", model_size)
        block = _Block(builder, generator, index, (hidden_size, state_size, model_size))
        mixed, after = block.write(normed, (step_min, step_max))
        states.append(State(f"h{index}", after, hidden_size * state_size))
        value = builder.op("Add", [value, mixed], f"layer_{index}/out")
    dense(builder, generator, value, "decoder", input_size, model_size, output="y")
    step = Step(builder, tuple(states), input_size, input_size)
    card = Card(
        name="selective_ssm",
        summary=f"Selective state space (Mamba), {num_layers} blocks of {hidden_size} channels with "
        f"{state_size} units each",
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(hidden_size * state_size,) * num_layers,
        topology=Topology.SKIP,
        num_steps=num_steps if form is Form.UNROLLED else None,
    )
    return Exhibit(in_form(step, form, num_steps), card)


class _Block:
    """One layer's nodes and weights; sizes are (E, N, W)."""

    def __init__(
        self, builder: GraphBuilder, generator: np.random.Generator, index: int, sizes: tuple[int, int, int]
    ) -> None:
        self._builder, self._generator, self._index = builder, generator, index
        self._channels, self._units, self._width = sizes

    def _op(self, kind: str, values: list[str], name: str, **attributes: object) -> str:
        return self._builder.op(kind, values, f"layer_{self._index}/{name}", **attributes)

    def _linear(self, value: str, name: str, num_out: int, num_in: int) -> str:
        weight = matrix(self._generator, "torch", num_out, num_in)
        name = f"layer_{self._index}.{name}"
        return self._builder.linear(value, self._builder.weight(name, weight), f"{name}/out")

    def write(self, normed: str, steps: tuple[float, float]) -> tuple[str, str]:
        """What the block adds to its input [B,W], and the new state [B,E N]."""
        channels, units, builder = self._channels, self._units, self._builder
        u = self._linear(normed, "in", channels, self._width)
        delta = self._column(self._step_sizes(u, steps), "delta")
        drive = self._op("Mul", [delta, self._column(u, "u")], "delta_u")
        b, c = (self._row(self._linear(u, name, units, channels), name) for name in ("b", "c"))
        decay = self._op("Exp", [self._op("Mul", [delta, self._rates()], "delta_a")], "decay")
        shape = builder.integers([-1, channels, units])
        before = self._op("Reshape", [f"h{self._index}", shape], "before")
        kept = self._op("Mul", [decay, before], "kept")
        new = self._op("Add", [kept, self._op("Mul", [drive, b], "driven")], "new")
        after = builder.op("Reshape", [new, builder.integers([-1, channels * units])], f"h{self._index}_next")
        read = self._op("Mul", [new, c], "read_units")
        read = self._op("ReduceSum", [read, builder.integers([-1])], "read", keepdims=0)
        return self._gated(read, u, normed), after

    def _step_sizes(self, u: str, steps: tuple[float, float]) -> str:
        """delta [B,E] > 0, through a bottleneck as in the paper."""
        rank = max(1, math.ceil(self._width / 16))
        low, high = (math.log(step) for step in steps)
        at_zero = np.exp(low + (high - low) * self._generator.random(self._channels))
        bias = self._builder.weight(
            f"layer_{self._index}.delta_bias", np.log(np.expm1(at_zero)).astype(np.float32)
        )
        inner = self._linear(u, "delta_1", rank, self._channels)
        weight = uniform(self._generator, rank**-0.5, self._channels, rank)
        outer = self._builder.weight(f"layer_{self._index}.delta_2", weight)
        total = self._builder.linear(inner, outer, f"layer_{self._index}/delta_sum", bias)
        return self._op("Softplus", [total], "delta")

    def _rates(self) -> str:
        """A = -exp(A_log) [E,N], which starts from -1, ..., -N."""
        rows = np.tile(np.log(np.arange(1, self._units + 1)), (self._channels, 1))
        log = self._builder.weight(f"layer_{self._index}.a_log", rows.astype(np.float32))
        return self._op("Neg", [self._op("Exp", [log], "rates")], "a")

    def _gated(self, read: str, u: str, normed: str) -> str:
        skip = self._builder.weight(f"layer_{self._index}.d", np.ones(self._channels, np.float32))
        total = self._op("Add", [read, self._op("Mul", [skip, u], "skipped")], "mixed")
        gate = self._linear(normed, "gate", self._channels, self._width)
        silu = self._op("Mul", [gate, self._op("Sigmoid", [gate], "gate_sigmoid")], "silu")
        gated = self._op("Mul", [total, silu], "gated")
        return self._linear(gated, "out", self._width, self._channels)

    def _column(self, value: str, name: str) -> str:
        return self._op("Unsqueeze", [value, self._builder.integers([-1])], f"{name}_column")

    def _row(self, value: str, name: str) -> str:
        return self._op("Unsqueeze", [value, self._builder.integers([1])], f"{name}_row")
