"""Linear recurrent networks, of which every gradient is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from lsc_graph.results import Form

from .card import Card, Exhibit
from .checks import require
from .forms import State, Step, in_form
from .fused import fused_stack
from .graph import Array, GraphBuilder
from .weights import Packed, orthogonal, uniform

_AFFINE: dict[str, Any] = {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}


def pascal_rnn(
    seed: int = 0,
    *,
    num_layers: int = 3,
    hidden_size: int = 1,
    radius: float = 0.5,
    form: Form = Form.FUSED_OP,
    num_steps: int = 8,
) -> Exhibit:
    """h[t,l] = r (h[t-1,l] + h[t,l-1]), unit by unit; its gradients are Pascal's triangle times powers of r.

    There is nothing random in it: the seed only goes into the metadata. See `pascal_gradient`.

    Args:
        seed: unused by the weights.
        num_layers: L.
        hidden_size: H independent copies side by side; x is [time,batch,H].
        radius: r >= 0.
        form: fused RNN nodes with W = R = r I, or Add and Mul in one of the other forms.
        num_steps: T of the unrolled form.
    """
    require(radius >= 0, "radius", radius, "at least 0")
    scale = float(np.float32(radius))
    if form is Form.FUSED_OP:
        weight = np.float32(radius) * np.eye(hidden_size, dtype=np.float32)[None]
        model = fused_stack("RNN", [Packed(weight, weight)] * num_layers, **_AFFINE)
    else:
        model = in_form(_pascal_step(num_layers, hidden_size, scale), form, num_steps)
    summary = f"Pascal RNN: {num_layers} layers of h[t,l] = {radius:g} (h[t-1,l] + h[t,l-1])"
    return Exhibit(
        model, _card("pascal_rnn", summary, (num_layers, hidden_size), (scale, scale), form, num_steps)
    )


def pascal_gradient(radius: float, num_layers: int, dt: int) -> float:
    """d h[t+dt,L] / d x[t] = r^(L+dt) C(L-1+dt, dt): every path takes L edges in depth and dt in time."""
    return radius ** (num_layers + dt) * comb(num_layers - 1 + dt, dt)


def _pascal_step(num_layers: int, hidden_size: int, radius: float) -> Step:
    builder, below, states = GraphBuilder(), "x", []
    for index in range(num_layers):
        weight = builder.weight(f"layer_{index}.weight", np.full(hidden_size, radius))
        total = builder.op("Add", [f"h{index}", below], f"layer_{index}/sum")
        below = builder.op("Mul", [total, weight], f"h{index}n")
        states.append(State(f"h{index}", below, hidden_size))
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), hidden_size, hidden_size)


def linear_orthogonal_rnn(
    seed: int = 0,
    *,
    num_layers: int = 3,
    input_size: int = 16,
    hidden_size: int = 16,
    radius: float = 0.5,
    depth_radius: float = 0.5,
    form: Form = Form.FUSED_OP,
    num_steps: int = 8,
) -> Exhibit:
    """h[t,l] = r Q_l h[t-1,l] + r' P_l h[t,l-1], Q_l and P_l orthogonal: radius, gain and norm coincide.

    Args:
        seed: of the weights.
        num_layers: L.
        input_size: D; the first input weight is U(+-1/sqrt(D)) where D differs from H, else r' P as well.
        hidden_size: H.
        radius: r >= 0, the factor of every M_time.
        depth_radius: r' >= 0, the factor of every M_depth.
        form: fused RNN nodes with activation Affine, or MatMul and Add in one of the other forms.
        num_steps: T of the unrolled form.
    """
    require(radius >= 0, "radius", radius, "at least 0")
    require(depth_radius >= 0, "depth_radius", depth_radius, "at least 0")
    generator = np.random.default_rng(seed)
    inputs = [input_size] + [hidden_size] * (num_layers - 1)
    layers = [
        (
            _from_below(generator, hidden_size, size, depth_radius),
            np.float32(radius) * orthogonal(generator, hidden_size),
        )
        for size in inputs
    ]
    if form is Form.FUSED_OP:
        model = fused_stack("RNN", [Packed(w[None], r[None]) for w, r in layers], **_AFFINE)
    else:
        model = in_form(_matrix_step(layers), form, num_steps)
    summary = (
        f"Linear RNN, {num_layers} layers of {hidden_size} units, "
        f"{radius:g} and {depth_radius:g} times orthogonal matrices in time and depth"
    )
    sizes, radii = (num_layers, hidden_size), (radius, depth_radius)
    return Exhibit(model, _card("linear_orthogonal_rnn", summary, sizes, radii, form, num_steps))


def _card(
    name: str,
    summary: str,
    sizes: tuple[int, int],
    radii: tuple[float, float],
    form: Form,
    num_steps: int,
) -> Card:
    """`sizes` are L and H, `radii` those in time and depth, where every M is radius times orthogonal."""
    num_layers, hidden_size = sizes
    in_time, in_depth = (radii[0],) * num_layers, (radii[1],) * (num_layers - 1)
    return Card(
        name=name,
        summary=summary,
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(hidden_size,) * num_layers,
        num_steps=num_steps if form is Form.UNROLLED else None,
        time_radius=in_time,
        time_gain=in_time,
        depth_radius=in_depth,
        depth_gain=in_depth,
    )


def _from_below(generator: np.random.Generator, hidden: int, size: int, radius: float) -> Array:
    """The weight [H,D] on what comes from below."""
    if size == hidden:
        return np.asarray(np.float32(radius) * orthogonal(generator, hidden))
    return uniform(generator, size**-0.5, hidden, size)


def _matrix_step(layers: Sequence[tuple[Array, Array]]) -> Step:
    builder, below, states = GraphBuilder(), "x", []
    hidden = layers[0][1].shape[0]
    for index, (w, r) in enumerate(layers):
        prefix = f"layer_{index}"
        from_below = builder.op("MatMul", [below, builder.weight(f"{prefix}.weight_ih", w.T)], f"{prefix}/ih")
        from_before = builder.op(
            "MatMul", [f"h{index}", builder.weight(f"{prefix}.weight_hh", r.T)], f"{prefix}/hh"
        )
        below = builder.op("Add", [from_below, from_before], f"h{index}n")
        states.append(State(f"h{index}", below, hidden))
    builder.op("Identity", [below], "y")
    return Step(builder, tuple(states), layers[0][0].shape[1], hidden)
