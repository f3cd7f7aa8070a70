"""What pre-training did: frozen, JSON-ready data that needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass

from lsc_graph.results import ModelFacts, SurrogateFacts, Tool

PRETRAIN_SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class Radius:
    """The mean of a radius over points: samples, and steps of each."""

    mean: float
    std_error: float
    num_points: int


@dataclass(frozen=True)
class RadiusChange:
    """One radius before and after.

    `source` and `layer` are layer ids; in time both are one layer. `quantity` is "spectral radius", or "gain"
    where the block is not square. `is_reached`: within the tolerance and two standard errors of the target,
    if the standard error is at most the tolerance. `reason` says why it was not. `written` is what an audit
    of the written file found, if there is one.
    """

    layer: str
    name: str
    source: str
    kind: str
    quantity: str
    target: float
    before: Radius
    after: Radius
    is_reached: bool
    reason: str | None
    written: Radius | None = None


@dataclass(frozen=True)
class LeftOut:
    """A floating-point tensor of the file that was not trained, and why."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class PretrainReport:
    """Pre-training to the local stability condition, in numbers.

    `target_time` and `target_depth` are those of layers without an override. `data_digest` is the SHA-256 of
    the given data, or of the first synthetic sample. `surrogate` stood in for the derivatives of thresholds.
    `stop_reason` says why it ended.
    """

    schema_version: str
    tool: Tool
    model: ModelFacts
    method: str
    target_time: float
    target_depth: float
    tolerance: float
    num_steps: int
    surrogate: SurrogateFacts | None
    radii: tuple[RadiusChange, ...]
    trained: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    iterations: int
    is_reached: bool
    stop_reason: str
    seconds: float
    seed: int
    data_digest: str
    warnings: tuple[str, ...]
