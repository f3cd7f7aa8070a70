"""Radii at fresh points, as many as a standard error asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.auditing.measure import FeedForward
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.shards import gathered, largest, own_share
from lsc_graph.running.sampling import Sample

# Noise is known from how samples differ: the first ones are many, at few steps each. Where more are needed
# they scatter, and then many steps of one cost less than as many samples.
_FIRST_SAMPLES, _MOST_SAMPLES = 8, 512
FIRST_TIMES, _MOST_TIMES = 2, 16
# So many floating-point operations on spectra are spent at most: n^3 for each point and edge.
_MOST_WORK = 6e10
_DENSE = 700
# What an element of a Jacobian takes, where no spectrum of its size is needed.
_PULLED = 16


def estimate(
    reader: Reader,
    values: Mapping[str, Tensor],
    draw: Callable[[int, int], Sequence[Sample]],
    seed: int,
    is_sharp: Callable[[Reading], bool],
    is_enough: Callable[[Sequence[Reading]], bool] = lambda readings: False,
    only: Collection[Edge] | None = None,
    *,
    num_times: int = FIRST_TIMES,
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
        is_enough: whether nobody wants to know the means any better than these readings tell.
        only: the edges to read; all of them where it is None.
        num_times: at how many steps of each of the first samples.
    """
    found: dict[Edge, list[Reading]] = {}
    count, total, spent = _FIRST_SAMPLES, 0, 0.0
    while True:
        samples = own_share(list(enumerate(draw(seed + 7919 * total, count))))
        readings = reader.read(values, samples, num_times, seed + total, with_derivative=False, only=only)
        for reading in gathered(readings):
            found.setdefault(reading.edge, []).append(reading)
        total, spent = total + count, spent + work_of(reader, count, num_times, only)
        joined = [joined_readings(parts) for parts in found.values()]
        only = [reading.edge for reading in joined if not is_sharp(reading)]
        num_times = min(2 * num_times, _MOST_TIMES)
        affordable = int((_MOST_WORK - spent) / work_of(reader, 1, num_times, only))
        count = min(total, _MOST_SAMPLES - total, affordable)
        if count <= 0 or not only or is_enough(joined):
            return joined


def joined_readings(parts: Sequence[Reading]) -> Reading:
    """Readings of one edge at different points as one, without derivative."""
    return replace(
        parts[0],
        values=torch.cat([part.values for part in parts]),
        sizes=tuple(size for part in parts for size in part.sizes),
        derivative=None,
    )


def work_of(reader: Reader, num_samples: int, num_times: int, only: Collection[Edge] | None = None) -> float:
    """What radii at so many points cost: n^3 for a spectrum of the size needed so far, and what is pulled.

    All processes see the same: how many points they look at must not depend on which samples are theirs.
    """
    edges = [edge for edge in reader.blocks.sizes if only is None or edge in only]
    each = [_work_of_edge(reader, edge) for edge in edges]
    each = each or [float(min(layer.state_size, _DENSE) ** 3) for layer in reader.layers.values()] * 2
    points_per_sample = 1 if isinstance(reader.model, FeedForward) else num_times
    return largest(max(1.0, num_samples * sum(each) * points_per_sample))


def _work_of_edge(reader: Reader, edge: Edge) -> float:
    source, target = (reader.layers[name] for name in edge)
    pulled = _PULLED * source.state_size * reader.blocks.num_rows.get(edge, target.state_size)
    return float(min(reader.blocks.sizes[edge], _DENSE) ** 3 + pulled)
