"""State transitions that act on every unit by itself, as in LRU: found by their effect, not by name.

Where M_time couples no two units, each unit has a radius of its own, and a vector with one element per
unit may set it. Such a vector gets one unknown: the logarithm of a factor on all the units' radii.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lsc_graph.auditing.measure import FeedForward
from lsc_graph.pretraining.eigenpairs import radius_direction
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.reduction import num_units, unit_matrices
from lsc_graph.pretraining.rows import detached
from lsc_graph.pretraining.trainable import Weight, by_name
from lsc_graph.running.sampling import Sample

_NUM_TIMES = 2
# Elements whose effect is weaker than this share of the strongest one have none.
_FAINT = 1e-9
# An element is changed so far at most before slopes are looked at again, and so often at most.
_FAR, _MOST_PARTS = 2.0, 4


def find_transitions(
    reader: Reader, weights: Sequence[Weight], values: Sequence[Tensor], sample: Sample
) -> dict[int, Tensor]:
    """Per index of a weight that sets every unit's radius: d theta / d log radius, elementwise."""
    if isinstance(reader.model, FeedForward):
        return {}
    sizes = {num_units(layer) for layer in reader.layers.values()} - {0}
    which = [k for k, w in enumerate(weights) if w.num_axes == 1 and w.value.numel() in sizes]
    if not which:
        return {}
    found: dict[int, Tensor] = {}
    for slopes in _slopes(reader, weights, values, which, sample):
        for index, slope in zip(which, slopes, strict=True):
            if slope is not None and _is_transition(slope):
                found[index] = 1 / slope
    return found


def followed(
    reader: Reader,
    weights: Sequence[Weight],
    values: Sequence[Tensor],
    sample: Sample,
    found: Mapping[int, Tensor],
    ways: Mapping[int, float],
) -> tuple[list[Tensor], dict[int, float]]:
    """Weights whose eigenvalues are scaled by a factor each, and by which ones they are.

    Where an eigenvalue is next to one, the slope of its parameter says nothing about a long way: that one is
    gone in parts.

    Args:
        reader, weights, values, sample: as of `find_transitions`.
        found: its result.
        ways: per index of a weight, the logarithm of the factor on all of its eigenvalues.
    """
    changed, rest = list(values), {index: way for index, way in ways.items() if way}
    for number in range(_MOST_PARTS):
        found = find_transitions(reader, weights, changed, sample) if rest and number else found
        for index in [index for index in rest if index in found]:
            most = _FAR / float(found[index].abs().max())
            part = max(-most, min(most, rest[index]))
            changed[index] = (changed[index] + part * found[index].to(changed[index])).to(changed[index])
            rest[index] -= part
        rest = {index: way for index, way in rest.items() if way and index in found}
    return changed, {index: way - rest.get(index, 0.0) for index, way in ways.items()}


def _is_transition(slope: Tensor) -> bool:
    one_sign = bool((slope > 0).all() or (slope < 0).all())
    return one_sign and bool(slope.abs().min() > _FAINT * slope.abs().max())


def _slopes(
    reader: Reader, weights: Sequence[Weight], values: Sequence[Tensor], which: Sequence[int], sample: Sample
) -> list[list[Tensor | None]]:
    """Per layer without coupling: d sum of log radii / d theta for each weight of `which`."""
    leaves = [v.detach().clone().requires_grad_(k in which) for k, v in enumerate(values)]
    wanted = [leaves[k] for k in which]

    def function() -> list[list[Tensor | None]]:
        run = reader.model.run(sample)
        inputs = reader.inputs_of(sample)
        puller = reader.puller(detached(run), inputs)
        steps = reader.model.prepared.cell_graph.num_steps
        times = sorted({steps // 2, steps - 2} & set(range(1, steps)))[:_NUM_TIMES]
        if not times:
            return []
        own = {(name, name) for name in reader.layers}
        with torch.no_grad():
            dense = puller.pull(
                detached(run),
                inputs,
                times,
                lambda layer: torch.eye(layer.state_size).expand(len(times), -1, -1),
                own,
            )
        units = {
            e.source: unit_matrices(e.rows, reader.layers[e.source]) for e in dense if e.source == e.target
        }
        rows = {name: _vectors(blocks) for name, blocks in units.items() if blocks is not None}
        if not rows:
            return []
        pulled = puller.pull(
            run,
            inputs,
            times,
            lambda layer: (
                rows[layer.id][0] if layer.id in rows else torch.zeros(len(times), 2, layer.state_size)
            ),
            {(name, name) for name in rows},
        )
        totals = [
            (edge.rows * rows[edge.source][1].to(edge.rows)).sum()
            for edge in pulled
            if edge.source == edge.target and edge.source in rows
        ]
        return [
            list(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
            for total in totals
            if total.requires_grad  # unlike that of a maximum, whose slopes are 0 and 1 whatever the weights
        ]

    with torch.enable_grad(), reader.states_alone():
        return reader.parametrised.call(by_name(weights, leaves), function)


def _vectors(units: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right vectors [P, 2, n] of the mean over points of the sum over units of log radii."""
    num_points, count, num_states = units.shape[:3]
    direction = radius_direction(units.reshape(-1, num_states, num_states))
    radius = direction.value.clamp_min(1e-30)[:, None, None]
    left = (direction.left / radius / num_points).reshape(num_points, count, 2, num_states)
    right = direction.right.reshape(num_points, count, 2, num_states)
    return left.permute(0, 2, 3, 1).flatten(2), right.permute(0, 2, 3, 1).flatten(2)
