"""Linear Recurrent Units: a deep complex diagonal state-space network in real arithmetic.

A. Orvieto, S. Smith, A. Gu, A. Fernando, C. Gulcehre, R. Pascanu, S. De, "Resurrecting Recurrent Neural
Networks for Long Sequences", ICML 2023, arXiv 2303.06349; initialisation as in its appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit, Topology
from .checks import require
from .forms import State, Step, in_form
from .graph import Array, GraphBuilder
from .layers import dense, gated_linear_unit, gelu, layer_norm
from .weights import normal


@dataclass(frozen=True)
class Recurrence:
    """lambda = exp(-exp(nu_log) + i exp(theta_log)) [N]; real and imaginary part of b [2,N,W], c [2,W,N]."""

    nu_log: Array
    theta_log: Array
    gamma_log: Array
    b: Array
    c: Array
    d: Array

    def magnitudes(self) -> list[float]:
        """|lambda_j| = exp(-nu_j), of the float32 parameters as stored."""
        return [float(value) for value in np.exp(-np.exp(self.nu_log.astype(np.float64)))]


def lru(
    seed: int = 0,
    *,
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    model_size: int = 12,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    form: Form = Form.STREAMING,
    num_steps: int = 8,
) -> Exhibit:
    """Encoder, blocks of LayerNorm, LRU, GELU, gated linear unit and skip, decoder.

    h[t] = lambda h[t-1] + gamma (B u[t]), out = Re(C h[t]) + D u[t]. States h<l>_re and h<l>_im [batch,N].
    The skips go round a layer's state, so that with three layers or more each reads all those below.

    Args:
        seed: of the weights.
        num_layers: L blocks.
        input_size: D, also the size of y.
        hidden_size: N complex units; a layer's state has 2 N elements.
        model_size: W, the width between blocks.
        r_min: least |lambda|.
        r_max: greatest |lambda|; |lambda|^2 is uniform between the two squares.
        max_phase: the phases are uniform from 0 to it.
        form: how the step is written.
        num_steps: T of the unrolled form.
    """
    require(0 <= r_min < r_max <= 1, "r_min, r_max", (r_min, r_max), "0 <= r_min < r_max <= 1")
    require(max_phase > 0, "max_phase", max_phase, "more than 0")
    generator = np.random.default_rng(seed)
    layers = [_draw(generator, hidden_size, model_size, (r_min, r_max), max_phase) for _ in range(num_layers)]
    model = in_form(_step(generator, layers, input_size), form, num_steps)
    magnitudes = [layer.magnitudes() for layer in layers]
    card = Card(
        name="lru",
        summary=f"Linear Recurrent Unit, {num_layers} blocks of {hidden_size} complex units, |lambda| from "
        f"{r_min:g} to {r_max:g}",
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(2 * hidden_size,) * num_layers,
        topology=Topology.SKIP,
        num_steps=num_steps if form is Form.UNROLLED else None,
        time_radius=tuple(max(values) for values in magnitudes),
        time_gain=tuple(math.hypot(*values) / math.sqrt(hidden_size) for values in magnitudes),
    )
    return Exhibit(model, card)


def _draw(
    generator: np.random.Generator, hidden: int, width: int, ring: tuple[float, float], max_phase: float
) -> Recurrence:
    low, high = ring[0] ** 2, ring[1] ** 2
    squares = low + (high - low) * (1 - generator.random(hidden))
    squares = np.clip(squares, 1e-12, 1 - 1e-6)
    phases = max_phase * (1 - generator.random(hidden))
    return Recurrence(
        nu_log=np.log(-0.5 * np.log(squares)).astype(np.float32),
        theta_log=np.log(phases).astype(np.float32),
        gamma_log=(0.5 * np.log1p(-squares)).astype(np.float32),
        b=normal(generator, 1 / math.sqrt(2 * width), 2, hidden, width),
        c=normal(generator, 1 / math.sqrt(hidden), 2, width, hidden),
        d=normal(generator, 1.0, width),
    )


def _step(generator: np.random.Generator, layers: list[Recurrence], input_size: int) -> Step:
    builder, states = GraphBuilder(), []
    hidden, width = layers[0].b.shape[1:]
    u = dense(builder, generator, "x", "encoder", width, input_size)
    for index, weights in enumerate(layers):
        normed = layer_norm(builder, u, f"layer_{index}", width)
        after = _recurrence(builder, weights, normed, index)
        states += [
            State(f"h{index}_{part}", value, hidden) for part, value in zip(("re", "im"), after, strict=True)
        ]
        mixed = _read_out(builder, weights, after, normed, f"layer_{index}")
        gated = gated_linear_unit(builder, generator, gelu(builder, mixed), f"layer_{index}", width)
        u = builder.op("Add", [u, gated], f"layer_{index}/out")
    dense(builder, generator, u, "decoder", input_size, width, output="y")
    return Step(builder, tuple(states), input_size, input_size)


def _recurrence(builder: GraphBuilder, weights: Recurrence, u: str, index: int) -> tuple[str, str]:
    """The new state, real and imaginary part [B,N]."""
    prefix = f"layer_{index}"
    lam_re, lam_im = _eigenvalues(builder, weights, prefix)
    gamma = builder.op("Exp", [builder.weight(f"{prefix}.gamma_log", weights.gamma_log)], f"{prefix}/gamma")
    re, im = f"h{index}_re", f"h{index}_im"
    turned = {
        "re": ("Sub", (lam_re, re), (lam_im, im)),
        "im": ("Add", (lam_re, im), (lam_im, re)),
    }
    after = []
    for number, (part, (op_type, first, second)) in enumerate(turned.items()):
        b = builder.weight(f"{prefix}.b_{part}", weights.b[number])
        drive = builder.op(
            "Mul", [gamma, builder.linear(u, b, f"{prefix}/b_{part}")], f"{prefix}/drive_{part}"
        )
        products = [builder.op("Mul", pair, f"{prefix}/{part}_{k}") for k, pair in enumerate((first, second))]
        kept = builder.op(op_type, products, f"{prefix}/kept_{part}")
        after.append(builder.op("Add", [kept, drive], f"h{index}_{part}_next"))
    return after[0], after[1]


def _eigenvalues(builder: GraphBuilder, weights: Recurrence, prefix: str) -> tuple[str, str]:
    """Real and imaginary part [N] of lambda, computed in the graph from its logarithmic parameters."""
    nu = builder.op("Exp", [builder.weight(f"{prefix}.nu_log", weights.nu_log)], f"{prefix}/nu")
    theta = builder.op("Exp", [builder.weight(f"{prefix}.theta_log", weights.theta_log)], f"{prefix}/theta")
    magnitude = builder.op("Exp", [builder.op("Neg", [nu], f"{prefix}/minus_nu")], f"{prefix}/magnitude")
    cos, sin = (builder.op(op_type, [theta], f"{prefix}/{op_type.lower()}") for op_type in ("Cos", "Sin"))
    return (
        builder.op("Mul", [magnitude, cos], f"{prefix}/lambda_re"),
        builder.op("Mul", [magnitude, sin], f"{prefix}/lambda_im"),
    )


def _read_out(builder: GraphBuilder, weights: Recurrence, state: tuple[str, str], u: str, prefix: str) -> str:
    """Re(C h) + D u [B,W]."""
    parts = [
        builder.linear(value, builder.weight(f"{prefix}.c_{part}", weights.c[number]), f"{prefix}/c_{part}")
        for number, (part, value) in enumerate(zip(("re", "im"), state, strict=True))
    ]
    through = builder.op("Mul", [builder.weight(f"{prefix}.d", weights.d), u], f"{prefix}/through")
    real = builder.op("Sub", parts, f"{prefix}/real")
    return builder.op("Add", [real, through], f"{prefix}/lru")
