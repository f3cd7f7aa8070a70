"""The cell graph: layers, and who depends on whom at which time lag."""

from __future__ import annotations

from dataclasses import dataclass

from lsc_graph.recurrence.site import StateVariable


@dataclass(frozen=True)
class Layer:
    """A strongly connected component of state variables over time; `time_step` is -1 when it runs in reverse.

    `time_step` is 0 for a layer without recurrence (a feed-forward block).
    """

    id: str
    name: str
    recurrence: str | None
    states: tuple[StateVariable, ...]
    state_size: int
    time_step: int


@dataclass(frozen=True)
class DepthEdge:
    """s[t_source, source] -> s[t_target, target].

    `time_pairs` None means equal times shifted by `lag`: t_source = t_target - lag.
    Otherwise it lists every (t_source, t_target) that is connected.
    """

    source: str
    target: str
    lag: int = 0
    time_pairs: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class CellGraph:
    """Layers in depth order. A layer with `time_step` != 0 has the time edges s[t - time_step] -> s[t]."""

    layers: tuple[Layer, ...]
    depth_edges: tuple[DepthEdge, ...]
    num_steps: int
