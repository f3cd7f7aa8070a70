"""Target radii: by name, for a given size, as measured, as given, and for single layers by pattern."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lsc_graph.errors import UsageError
from lsc_graph.layers.cells import CellGraph, Layer

NAMES = ("half", "one", "sqrt", "auto", "unbalanced")
_FIXED = {"half": 0.5, "one": 1.0, "sqrt": math.sqrt(0.5)}


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    `time` and `depth` go before the name; `overrides` are (pattern of layer names or ids, kind or None
    for both, value), of which the last that fits counts.
    """

    name: str | None = None
    time: float | None = None
    depth: float | None = None
    overrides: Sequence[tuple[str, str | None, float]] = ()


@dataclass(frozen=True)
class Targets:
    """A target for every edge. `time` and `depth` are those without overrides."""

    time: float
    depth: float
    of_edge: Mapping[tuple[str, str], float]


def resolve(wish: Wish, cells: CellGraph, edges: Sequence[tuple[str, str]], auto: float | None) -> Targets:
    """The target of every edge.

    Args:
        wish: what was asked for; by default `one` for feed-forward models, else `half`.
        cells: the model's layers.
        edges: (source, target) of every edge; in time both are one layer.
        auto: the balanced target for the coherence that was measured, 2^(-1/p) with p = 2/(1 + kappa).

    Raises:
        UsageError: there is no such name, a target is not positive, or an override fits no radius.
    """
    time, depth = _pair(wish, cells, auto)
    time = time if wish.time is None else wish.time
    depth = depth if wish.depth is None else wish.depth
    for value in (time, depth, *(value for *_, value in wish.overrides)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError("A target radius must be positive", got=str(value))
    layers = {layer.id: layer for layer in cells.layers}
    _check_overrides(wish, cells.layers)
    chosen, used = {}, set()
    for source, target in edges:
        kind = "time" if source == target else "depth"
        chosen[source, target] = time if kind == "time" else depth
        for pattern, only, value in wish.overrides:
            if _fits(layers[target], pattern) and only in (None, kind):
                chosen[source, target] = value
                used.add((pattern, only))
    _check_used(wish, used, chosen, layers)
    return Targets(time, depth, chosen)


def _pair(wish: Wish, cells: CellGraph, auto: float | None) -> tuple[float, float]:
    is_recurrent = any(layer.time_step for layer in cells.layers)
    name = wish.name or ("half" if is_recurrent else "one")
    if name in _FIXED:
        return _FIXED[name], _FIXED[name]
    if name == "auto":
        value = auto if is_recurrent and auto is not None else (0.5 if is_recurrent else 1.0)
        return value, value
    if name == "unbalanced":
        return unbalanced(cells.num_steps, len(cells.layers))
    raise UsageError("There is no such target", got=name, expected=", ".join(NAMES))


def unbalanced(num_steps: int, num_layers: int) -> tuple[float, float]:
    """a = T/(T+L), b = L/(T+L): a + b = 1, most of it along the longer axis (the paper, section 4)."""
    return num_steps / (num_steps + num_layers), num_layers / (num_steps + num_layers)


def _fits(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.id, pattern)


def _check_overrides(wish: Wish, layers: Sequence[Layer]) -> None:
    for pattern, kind, _ in wish.overrides:
        if kind not in (None, "time", "depth"):
            raise UsageError("A target is for time or for depth", got=str(kind))
        if not any(_fits(layer, pattern) for layer in layers):
            names = ", ".join(f"{layer.id} ({layer.name})" for layer in layers[:8])
            raise UsageError("A target fits no layer", got=pattern, expected=names)


def _check_used(
    wish: Wish,
    used: Collection[tuple[str, str | None]],
    edges: Iterable[tuple[str, str]],
    layers: Mapping[str, Layer],
) -> None:
    """An override of layers that have no radius of its kind would change nothing, and nobody would know."""
    for pattern, kind, _ in wish.overrides:
        if (pattern, kind) not in used:
            own = [layer for layer in layers.values() if _fits(layer, pattern)]
            raise UsageError(
                f"A target fits layers without a radius{'' if kind is None else f' in {kind}'}",
                got=f"{pattern}, which fits {', '.join(f'{layer.id} ({layer.name})' for layer in own[:8])}",
                expected=f"a pattern of one of these radii: {_shown(edges)}",
            )


def _shown(edges: Iterable[tuple[str, str]]) -> str:
    kinds = [f"{target}:{'time' if source == target else 'depth'}" for source, target in edges]
    return ", ".join(list(dict.fromkeys(kinds))[:12])
