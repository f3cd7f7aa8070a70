"""What was counted: frozen, JSON-ready data that needs neither torch nor numpy. Field order is key order."""

from __future__ import annotations

from dataclasses import dataclass

from lsc_graph.results import ModelFacts, Tool

PATHS_SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class StateRef:
    """States of one layer: at one time, or at every time (None)."""

    layer: str
    time: int | None


@dataclass(frozen=True)
class Count:
    """A number of gradient paths.

    `num_gradient_paths` has all digits, or is None where they were not asked for and are more than 1000;
    `log10` is None when there is no path.
    """

    num_gradient_paths: str | None
    log10: float | None


@dataclass(frozen=True)
class CellCount:
    """A count for the state of one layer at one time."""

    layer: str
    time: int
    count: Count


@dataclass(frozen=True)
class TimeGrowth:
    """Growth with the number of steps at this depth: path counts grow like factor^T T^degree."""

    factor_per_step: float
    degree: int


@dataclass(frozen=True)
class DirectionRate:
    """log10 growth of the number of paths per edge, dt steps for every dl levels, as both grow together."""

    dt: float
    dl: float
    log10_per_edge: float


@dataclass(frozen=True)
class Boundary:
    """Where path sums neither grow nor fade exponentially in any direction, for time factor a and depth
    factor b.

    `critical_line` is in words, with p = 1 where paths align (coherent) and p = 2 where they are unrelated;
    None where it is no straight line in a^p and b^p. `balanced_*` is the critical a = b. `is_exact`: all
    levels of the stack are alike; else the whole stack is taken as one period of an endless one.
    """

    critical_line: str | None
    balanced_coherent: float | None
    balanced_incoherent: float | None
    is_exact: bool


@dataclass(frozen=True)
class EdgeTarget:
    """Weights of one kind of edge for which no path sum exceeds 1, where paths align and where they do not.

    `unbalanced_*` are for this number of steps and depth; None where they were not computed.
    """

    source: str
    target: str
    lag: int
    balanced_coherent: float
    balanced_incoherent: float
    unbalanced_coherent: float | None
    unbalanced_incoherent: float | None


@dataclass(frozen=True)
class PathReport:
    """The gradient paths of a model over `num_steps` steps; `own_steps` is what the model was run with."""

    schema_version: str
    tool: Tool
    model: ModelFacts
    num_layers: int
    num_steps: int
    own_steps: int
    sources: tuple[StateRef, ...]
    targets: tuple[StateRef, ...]
    total: Count
    method: str
    growth: TimeGrowth | None
    directions: tuple[DirectionRate, ...]
    boundary: Boundary | None
    edge_targets: tuple[EdgeTarget, ...]
    from_inputs: tuple[CellCount, ...]
    through_cells: tuple[CellCount, ...]
    notes: tuple[str, ...]
