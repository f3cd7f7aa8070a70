"""Radii at fresh points, as many as a standard error asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.auditing.measure import FeedForward
from lsc_graph.pretraining.readings import Edge, Reader, Reading
from lsc_graph.pretraining.shards import gathered, own_share
from lsc_graph.running.sampling import Sample

# Noise is known from how samples differ: the first ones are many, at few steps each.
_FIRST_SAMPLES, _FIRST_TIMES, _NUM_TIMES = 16, 2, 4
_MOST_SAMPLES = 512
# So many floating-point operations on spectra are spent at most: n^3 for each point and edge.
_MOST_WORK = 2e10
_DENSE = 700
# What an element of a Jacobian takes, where no spectrum of its size is needed.
_PULLED = 16


def estimate(
    reader: Reader,
    values: Mapping[str, Tensor],
    draw: Callable[[int, int], Sequence[Sample]],
    seed: int,
    is_sharp: Callable[[Reading], bool],
    is_enough: Callable[[Reading], bool] = lambda reading: False,
    only: Collection[Edge] | None = None,
) -> list[Reading]:
    """Readings without derivative at fresh points.

    Samples are doubled until every mean is sharp enough, or the most is done: for those edges that need
    more alone.

    Args:
        reader: takes readings.
        values: parameters by initializer name.
        draw: samples by seed and number.
        seed: of samples and of the steps looked at.
        is_sharp: whether a mean is known well enough.
        is_enough: whether nobody wants to know the other means any better, after this one.
        only: the edges to read; all of them where it is None.
    """
    found: dict[Edge, list[Reading]] = {}
    count, total, num_times = _FIRST_SAMPLES, 0, _FIRST_TIMES
    while True:
        samples = own_share(list(enumerate(draw(seed + 7919 * total, count))))
        readings = reader.read(values, samples, num_times, seed + total, with_derivative=False, only=only)
        for reading in gathered(readings):
            found.setdefault(reading.edge, []).append(reading)
        total += count
        joined = [joined_readings(parts) for parts in found.values()]
        only = [reading.edge for reading in joined if not is_sharp(reading)]
        limit = most_samples(reader, only)
        if total >= limit or not only or any(map(is_enough, joined)):
            return joined
        count, num_times = min(total, limit - total), _NUM_TIMES


def joined_readings(parts: Sequence[Reading]) -> Reading:
    """Readings of one edge at different points as one, without derivative."""
    return replace(
        parts[0],
        values=torch.cat([part.values for part in parts]),
        sizes=tuple(size for part in parts for size in part.sizes),
        derivative=None,
    )


def most_samples(reader: Reader, only: Collection[Edge] | None = None) -> int:
    """How many samples the work allows for, at least the first few."""
    work = work_of(reader, 1, _NUM_TIMES, only)
    return max(_FIRST_SAMPLES, min(_MOST_SAMPLES, int(_MOST_WORK / work)))


def work_of(reader: Reader, num_samples: int, num_times: int, only: Collection[Edge] | None = None) -> float:
    """What radii at so many points cost: n^3 for a spectrum of the size needed so far, and the Jacobian."""
    edges = [edge for edge in reader.sizes if only is None or edge in only]
    each = [_work_of_edge(reader, edge) for edge in edges]
    each = each or [float(min(layer.state_size, _DENSE) ** 3) for layer in reader.layers.values()] * 2
    points_per_sample = 1 if isinstance(reader.model, FeedForward) else num_times
    return max(1.0, num_samples * sum(each) * points_per_sample)


def _work_of_edge(reader: Reader, edge: Edge) -> float:
    source, target = (reader.layers[name] for name in edge)
    pulled = _PULLED * source.state_size * target.state_size
    return float(min(reader.sizes[edge], _DENSE) ** 3 + pulled)
