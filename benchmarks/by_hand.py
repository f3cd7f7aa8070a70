"""Rescaling by hand: for five architectures, told which of their weights sets which radius.

What rescaling has to be compared with: no sensitivities, one radius for one knob of each layer. Recurrent
weights are multiplied by (target / radius in time)^eta, input weights by (target / radius in depth)^eta;
gates that keep the state, decays and |lambda| are moved as well. eta falls where an error changes its sign.
The rest is lsc-graph's own: the points, the radii, the tolerance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lsc_graph.pretraining.fit import Fit
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge

# Samples and steps of each, every iteration; so much of the newest reading makes the running means.
_POINTS, _NEWEST = (8, 1), 0.3
_SLOW_DOWN = 0.6
# Log factors of a single iteration.
_MOST = 1.0
Layer = dict[str, Tensor]
Knobs = Callable[[Layer, float, float], Layer]


def rescale_by_hand(problem: Problem, model: str, values: Sequence[Tensor], max_iterations: int) -> Fit:
    """Fit the radii in time of all layers, and those from each layer to the next.

    Ends when all of them are within tolerance at one iteration's points, or their running means are.

    Args:
        problem: what to fit.
        model: the name of its architecture.
        values: of the weights, at first.
        max_iterations: at most so many.
    """
    start, layers = time.perf_counter(), list(problem.reader.layers)
    names = [weight.names[0] for weight in problem.weights]
    kept, means, paces = list(values), dict[Edge, float](), dict[Edge, tuple[float, float]]()
    for iteration in range(max_iterations):
        found = _radii(problem, kept, iteration, adjacent(layers))
        means = {edge: _mixed(means.get(edge), radius) for edge, radius in found.items()}
        if any(_are_within(problem, own) for own in (found, means)):
            return Fit(kept, iteration, True, time.perf_counter() - start, "every radius is at its target")
        steps = {}
        for edge, radius in found.items():
            error = math.log(problem.targets[edge] / max(radius, 1e-9))
            before, pace = paces.get(edge, (error, 1.0))
            paces[edge] = error, pace * (_SLOW_DOWN if error * before < 0 else 1.0)
            steps[edge] = max(-_MOST, min(_MOST, paces[edge][1] * error))
        for number, layer in enumerate(layers):
            own = {name: k for k, name in enumerate(names) if name.startswith(f"layer_{number}.")}
            below = steps.get((layers[number - 1], layer), 0.0) if number else 0.0
            given = {name.partition(".")[2]: kept[k] for name, k in own.items()}
            turned = KNOBS[model](given, steps[layer, layer], below)
            for name, k in own.items():
                kept[k] = turned.get(name.partition(".")[2], kept[k])
    seconds = time.perf_counter() - start
    return Fit(kept, max_iterations, False, seconds, f"the {max_iterations} iterations given are used up")


def adjacent(layers: Sequence[str]) -> set[Edge]:
    """The edges in time, and those from one layer to the next."""
    return {(layer, layer) for layer in layers} | set(pairwise(layers))


def _radii(problem: Problem, values: Sequence[Tensor], iteration: int, edges: set[Edge]) -> dict[Edge, float]:
    seed = problem.seed_of(iteration, 0)
    readings = problem.read(values, *_POINTS, seed, with_derivative=False, only=edges)
    return {reading.edge: reading.mean for reading in readings}


def _mixed(before: float | None, radius: float) -> float:
    return radius if before is None else before + _NEWEST * (radius - before)


def _are_within(problem: Problem, radii: Mapping[Edge, float]) -> bool:
    return all(abs(radius - problem.targets[edge]) <= problem.tolerance for edge, radius in radii.items())


def _scaled(layer: Layer, step: float, *names: str) -> Layer:
    return {name: layer[name] * math.exp(step) for name in names}


def _fused(kept_gate: int | None) -> Knobs:
    """An RNN, GRU or LSTM operator; which gate keeps the state, of those in its bias."""

    def turned(layer: Layer, time_step: float, depth_step: float) -> Layer:
        found = _scaled(layer, time_step, "weight_hh") | _scaled(layer, depth_step, "weight_ih")
        if kept_gate is None:
            return found
        size, bias = layer["weight_hh"].shape[-1], layer["bias"].clone()
        bias[:, kept_gate * size : (kept_gate + 1) * size] += time_step
        return found | {"bias": bias}

    return turned


def _spiking(layer: Layer, time_step: float, depth_step: float) -> Layer:
    found = _scaled(layer, time_step, "weight_rec") | _scaled(layer, depth_step, "weight_in")
    # What the file has as 1 - decay stays as it is: moved along, it led the fit astray.
    decays = {name: torch.sigmoid(torch.logit(layer[name], 1e-4) + time_step) for name in ("alpha", "rho")}
    return found | decays


def _linear_recurrence(layer: Layer, time_step: float, depth_step: float) -> Layer:
    magnitude = (torch.exp(-layer["nu_log"].exp()) * math.exp(time_step)).clamp(1e-6, 1 - 1e-6)
    return _scaled(layer, depth_step, "b_re", "b_im") | {"nu_log": (-magnitude.log()).log()}


# ONNX packs the gates of a GRU as z, r, h, those of an LSTM as i, o, f, c.
KNOBS: Mapping[str, Knobs] = {
    "tanh_rnn": _fused(None),
    "gru": _fused(0),
    "lstm": _fused(2),
    "alif_smooth": _spiking,
    "lru": _linear_recurrence,
}
