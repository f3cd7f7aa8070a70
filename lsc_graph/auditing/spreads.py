"""How radii and gains spread over the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lsc_graph.results import LayerFacts, LayerSpread, Statistics


def layer_spreads(layers: Sequence[LayerFacts]) -> tuple[LayerSpread, ...]:
    """Of each kind of figure that at least one layer has, its spread over the layers."""
    kinds: dict[str, list[tuple[str, Statistics | None]]] = {
        "time_radius": [(layer.id, layer.time_radius) for layer in layers],
        "time_gain": [(layer.id, layer.time_gain) for layer in layers],
        "depth_radius": [(layer.id, edge.radius) for layer in layers for edge in layer.depth_edges],
        "depth_gain": [(layer.id, edge.gain) for layer in layers for edge in layer.depth_edges],
    }
    found = []
    for kind, figures in kinds.items():
        known = [(layer_id, value) for layer_id, value in figures if value is not None]
        if known:
            found.append(_spread(kind, known))
    return tuple(found)


def _spread(kind: str, figures: Sequence[tuple[str, Statistics]]) -> LayerSpread:
    means = [value.mean for _, value in figures]
    mean = math.fsum(means) / len(means)
    squares = math.fsum((value - mean) ** 2 for value in means)
    lowest, highest = (pick(figures, key=lambda item: item[1].mean) for pick in (min, max))
    return LayerSpread(
        kind=kind,
        num_layers=len(figures),
        mean=mean,
        std=math.sqrt(squares / (len(means) - 1)) if len(means) > 1 else 0.0,
        min=lowest[1].mean,
        min_layer=lowest[0],
        max=highest[1].mean,
        max_layer=highest[0],
    )
