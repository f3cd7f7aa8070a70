"""Spiking neurons with adaptive thresholds (ALIF), with true spikes or with a smooth stand-in.

G. Bellec, D. Salaj, A. Subramoney, R. Legenstein, W. Maass, "Long short-term memory and learning-to-learn in
networks of spiking neurons", NeurIPS 2018, arXiv 1803.09574: its adaptive neuron in steps of 1 ms, without
delays or refractory time.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from onnx import TensorProto

from lsc_graph.results import Form

from .card import Card, Exhibit
from .checks import require
from .forms import State, Step, in_form
from .graph import GraphBuilder
from .weights import matrix, normal, uniform

Spike = Literal["threshold", "sigmoid"]
_PARTS = ("spike", "voltage", "adaptation")


def alif(
    seed: int = 0,
    *,
    spike: Spike = "threshold",
    num_layers: int = 2,
    input_size: int = 8,
    hidden_size: int = 16,
    output_size: int = 4,
    voltage_decay: float = math.exp(-1 / 20),
    adaptation_decay: float = math.exp(-1 / 200),
    threshold: float = 0.03,
    adaptation: float = 0.3,
    sharpness: float = 20.0,
    form: Form = Form.STREAMING,
    num_steps: int = 8,
) -> Exhibit:
    """Layers of ALIF neurons and a linear readout of the last layer's spikes.

    b' = rho b + (1 - rho) z,  v' = alpha v + (1 - alpha) (W z_below' + R z) - (theta + beta b) z,
    z' = [v' > theta + beta b'], or sigmoid(sharpness (v' - theta - beta b')).

    Args:
        seed: of the weights.
        spike: "threshold" gives spikes by Greater and Cast, whose derivative is zero: no gradient passes from
            layer to layer. "sigmoid" is differentiable; its spikes lie between 0 and 1.
        num_layers: L.
        input_size: D.
        hidden_size: H; a layer's state is (z, v, b), 3 H elements.
        output_size: size of y.
        voltage_decay: alpha in [0, 1); 20 ms by default.
        adaptation_decay: rho in [0, 1); 200 ms by default.
        threshold: theta, the threshold at rest; with it and `adaptation` as they are, roughly one
            neuron in twenty of every layer fires in a step on standard normal inputs.
        adaptation: beta, the threshold's rise per unit of adaptation.
        sharpness: of the sigmoid.
        form: how the step is written.
        num_steps: T of the unrolled form.
    """
    require(0 <= voltage_decay < 1, "voltage_decay", voltage_decay, "at least 0, below 1")
    require(0 <= adaptation_decay < 1, "adaptation_decay", adaptation_decay, "at least 0, below 1")
    builder, generator = GraphBuilder(), np.random.default_rng(seed)
    builder.weight("beta", adaptation)
    builder.weight(spike, 0.0 if spike == "threshold" else sharpness)
    decays = {"alpha": voltage_decay, "rho": adaptation_decay}
    states, below, num_in = [], "x", input_size
    for index in range(num_layers):
        _parameters(builder, generator, f"layer_{index}", (hidden_size, num_in), decays, threshold)
        after = _cell(builder, below, index, spike)
        names = zip(_PARTS, after, strict=True)
        states += [State(f"state{index}_{part}", value, hidden_size) for part, value in names]
        below, num_in = after[0], hidden_size
    w = builder.weight("readout.weight", matrix(generator, "torch", output_size, hidden_size))
    b = builder.weight("readout.bias", uniform(generator, 1 / math.sqrt(hidden_size), output_size))
    builder.linear(below, w, "y", b)
    model = in_form(Step(builder, tuple(states), input_size, output_size), form, num_steps)
    decay = max(voltage_decay, adaptation_decay)
    return Exhibit(model, _card(spike, num_layers, hidden_size, decay, form, num_steps))


def _card(spike: Spike, num_layers: int, hidden: int, decay: float, form: Form, num_steps: int) -> Card:
    """With true spikes M_time is block triangular with eigenvalues 0 (z), alpha (v) and rho (b)."""
    is_smooth = spike == "sigmoid"
    kind = "sigmoids in place of spikes" if is_smooth else "true spikes"
    radius = float(np.float32(decay))
    return Card(
        name="alif_smooth" if is_smooth else "alif",
        summary=f"Adaptive leaky integrate-and-fire, {num_layers} layers of {hidden} neurons, {kind}",
        forms=(form,),
        num_layers=num_layers,
        state_sizes=(3 * hidden,) * num_layers,
        num_steps=num_steps if form is Form.UNROLLED else None,
        is_differentiable=is_smooth,
        time_radius=None if is_smooth else (radius,) * num_layers,
    )


def _parameters(
    builder: GraphBuilder,
    generator: np.random.Generator,
    prefix: str,
    sizes: tuple[int, int],
    decays: dict[str, float],
    threshold: float,
) -> None:
    """W [H,D] and R [H,H] ~ N(0, 1/n_in) as in the authors' code; decays and thresholds [H]."""
    hidden, num_in = sizes
    builder.weight(f"{prefix}.weight_in", normal(generator, 1 / math.sqrt(num_in), hidden, num_in))
    builder.weight(f"{prefix}.weight_rec", normal(generator, 1 / math.sqrt(hidden), hidden, hidden))
    builder.weight(f"{prefix}.theta", np.full(hidden, threshold))
    for name, decay in decays.items():
        builder.weight(f"{prefix}.{name}", np.full(hidden, decay))
        builder.weight(f"{prefix}.one_minus_{name}", np.full(hidden, 1 - decay))


def _cell(builder: GraphBuilder, below: str, index: int, spike: Spike) -> tuple[str, str, str]:
    """The new spikes, voltages and adaptations [B,H]."""
    p = f"layer_{index}"
    z, v, b = (f"state{index}_{part}" for part in _PARTS)
    drive = builder.op(
        "Add",
        [
            builder.linear(below, f"{p}.weight_in", f"{p}/in"),
            builder.linear(z, f"{p}.weight_rec", f"{p}/rec"),
        ],
        f"{p}/current",
    )
    new_b = _mix(builder, p, "rho", b, z, f"{b}_next")
    charged = _mix(builder, p, "alpha", v, drive, f"{p}/charged")
    reset = builder.op("Mul", [_threshold(builder, p, b, "before"), z], f"{p}/reset")
    new_v = builder.op("Sub", [charged, reset], f"{v}_next")
    excess = builder.op("Sub", [new_v, _threshold(builder, p, new_b, "after")], f"{p}/excess")
    return _spikes(builder, excess, f"{z}_next", spike), new_v, new_b


def _mix(builder: GraphBuilder, prefix: str, decay: str, old: str, new: str, output: str) -> str:
    """decay * old + (1 - decay) * new."""
    kept = builder.op("Mul", [old, f"{prefix}.{decay}"], f"{output}/kept")
    added = builder.op("Mul", [new, f"{prefix}.one_minus_{decay}"], f"{output}/added")
    return builder.op("Add", [kept, added], output)


def _threshold(builder: GraphBuilder, prefix: str, adaptation: str, when: str) -> str:
    """theta + beta b."""
    rise = builder.op("Mul", [adaptation, "beta"], f"{prefix}/rise_{when}")
    return builder.op("Add", [rise, f"{prefix}.theta"], f"{prefix}/threshold_{when}")


def _spikes(builder: GraphBuilder, excess: str, output: str, spike: Spike) -> str:
    """The initializer named after the kind of spike holds 0, or the sharpness."""
    if spike == "sigmoid":
        return builder.op("Sigmoid", [builder.op("Mul", [excess, spike], f"{excess}/sharp")], output)
    above = builder.op("Greater", [excess, spike], f"{excess}/above")
    return builder.op("Cast", [above], output, to=TensorProto.FLOAT)
