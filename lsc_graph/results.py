"""What an audit found: frozen, JSON-ready data that needs neither torch nor numpy.

`Analysis` is the one object that every report reads; `docs/audit.schema.json` is its JSON form.
Field order here is key order there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA_VERSION = "1.3"


class Form(StrEnum):
    """How a recurrence was exported."""

    FUSED_OP = "fused_op"
    SCAN = "scan"
    LOOP = "loop"
    UNROLLED = "unrolled"
    STREAMING = "streaming"


class Direction(StrEnum):
    """Which way a recurrence runs through time."""

    FORWARD = "forward"
    REVERSE = "reverse"
    BIDIRECTIONAL = "bidirectional"


class Axis(StrEnum):
    """What the steps of a recurrence are: times, or layers with tied weights."""

    TIME = "time"
    DEPTH = "depth"


class Verdict(StrEnum):
    """What the gradients do over the depth and time that were measured."""

    STABLE = "stable"
    SUBEXPONENTIAL = "subexponential"
    EXPLODING = "exploding"
    VANISHING = "vanishing"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Tool:
    name: str
    version: str


@dataclass(frozen=True)
class ModelFacts:
    """The file as it was read.

    `num_parameters` counts the elements of floating-point tensors of more than one element: initializers
    and constants, nested graphs included.
    """

    path: str | None
    sha256: str
    producer: str
    opsets: dict[str, int]
    num_nodes: int
    num_parameters: int


@dataclass(frozen=True)
class InputFacts:
    """One model input as the audit fed it. `source` says in words where shape and values came from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class Parity:
    """Agreement of the torch view with ONNX Runtime on the audit's own inputs.

    `max_abs_error` is the largest difference over `num_values` compared outputs and final states,
    all within `atol + rtol * |reference|`. Where rounding errors grow beyond that in whole runs, these are
    the values of parts, each given what it has in the run, and `rounding` is how far those errors move what
    differed; how the file joins parts was compared step by step, or over whole runs with smaller weights.
    """

    max_abs_error: float
    provider: str
    rtol: float
    atol: float
    num_values: int
    rounding: float | None = None


@dataclass(frozen=True)
class StateFacts:
    """What a step hands on. A delay only carries something to the next step, and is part of no layer."""

    name: str
    shape: tuple[int, ...]
    is_delay: bool


@dataclass(frozen=True)
class StepNode:
    """One node of a recurrent step.

    `name` is that of the node, or of its first result where it has none or where steps were written out one
    after another: then it is the name at one of the steps.
    """

    name: str
    op_type: str


@dataclass(frozen=True)
class Recurrence:
    """A recurrence as it was found.

    `node` is what it is called in the file; `nodes` are those that one step's states are computed by (of a
    fused operator, the plain operators that it stands for), `weights` the tensors in the file that they are
    computed from. `chosen` is what a person said of its states, as after --state.
    """

    id: str
    form: Form
    node: str
    direction: Direction
    over: Axis
    num_steps: int
    num_nodes: int
    nodes: tuple[StepNode, ...]
    states: tuple[StateFacts, ...]
    weights: tuple[str, ...]
    layer_ids: tuple[str, ...]
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """A candidate that was looked at and not taken for a recurrence, with the reason."""

    candidate: str
    finder: str
    reason: str


class CovarianceDecay(StrEnum):
    """Whether a radius at one step says less and less about later steps, as the paper's bound assumes."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "too few steps or samples to tell"
    CONSTANT = "constant: no covariance"


@dataclass(frozen=True)
class TimeCorrelation:
    """Autocorrelation of a value over time, about the mean of each step over samples.

    `decay_steps` is the first lag at which it is below 1/e, None if it is not within half of the steps;
    `tail` is its root mean square over lags from a quarter to half of the steps, which includes noise.
    """

    lag_1: float | None
    decay_steps: int | None
    tail: float | None
    decaying_covariance: CovarianceDecay


@dataclass(frozen=True)
class Statistics:
    """Mean over (sample, step) points; `std_error` is that of the mean (nan-free; 0 for one point).

    Samples count as independent, steps do not: `effective_points` independent points would have the same
    standard error. `std` is over all points, `std_over_time` that of the means of each step over samples.
    """

    mean: float
    std_error: float
    min: float
    max: float
    num_points: int
    std: float = 0.0
    std_over_time: float | None = None
    effective_points: float = 1.0
    time_correlation: TimeCorrelation | None = None


@dataclass(frozen=True)
class DepthEdgeFacts:
    """One depth edge: statistics of M_depth's active block from layer `source` (theory section 3).

    `radius` is None where the block is not square; `norm` is the top singular value.
    `block` says in words which block was taken, e.g. "h -> h, 64 x 64".
    """

    source: str
    block: str
    radius: Statistics | None
    gain: Statistics
    norm: Statistics | None


@dataclass(frozen=True)
class LayerFacts:
    """One layer. Time statistics run over steps 1..T-1, depth statistics over 0..T-1.

    `depth_radius` and `depth_gain` are those of the single depth edge, where there is just one;
    with several, `depth_gain` is that of the concatenated blocks and `depth_radius` is None. `depth_times`
    says for each layer of `depth_from` at which times before (negative) or behind its own it is read;
    nothing where that is not the same at every step, or not known before the model runs.
    """

    id: str
    name: str
    recurrence: str | None
    state_size: int
    time_radius: Statistics | None
    time_gain: Statistics | None
    depth_from: tuple[str, ...]
    depth_times: tuple[tuple[int, ...], ...]
    depth_radius: Statistics | None
    depth_gain: Statistics | None
    depth_edges: tuple[DepthEdgeFacts, ...]


@dataclass(frozen=True)
class RadiusOutcome:
    """How the spectral radii along one edge were found; `source` is `target` for an edge in time.

    `methods` counts the points by estimator. Means leave out the points that did not converge. `max_error` is
    the largest estimated relative error of those that did, `max_condition` the largest condition number of a
    dominant eigenvalue, where one was computed. Where derivatives are finite differences,
    `max_difference_error` is how far their error bars may move a radius to first order, relative to it; at
    `num_unknown` points that is more than the radius itself. It is None where it was not looked at.
    """

    source: str
    target: str
    methods: dict[str, int]
    num_points: int
    num_converged: int
    max_error: float | None
    max_condition: float | None
    max_difference_error: float | None = None
    num_unknown: int = 0


@dataclass(frozen=True)
class TimeParallel:
    """A layer without a cell that maps a sequence to a sequence causally, all times at once.

    The pieces of its Jacobian stand in for M_depth and M_time, as in the paper's parallel Linear Recurrent
    Unit: `equal` are d y[t] / d x[t], `neighbour` d y[t] / d x[t-1], where x is what layer `source` puts
    out ("input NAME": the model's own input). `time_axis` is the layer's own; `reach` is the largest t - t'
    with a derivative that is not zero. Between two recurrences, the layer's states stand for y, and those of
    `source` for x: what lies between mixes times.
    """

    layer_id: str
    source: str
    time_axis: int
    num_steps: int
    reach: int
    equal_radius: Statistics | None
    equal_gain: Statistics
    neighbour_radius: Statistics | None
    neighbour_gain: Statistics


@dataclass(frozen=True)
class LayerSpread:
    """How the means of one kind of figure ("time_radius", "depth_gain", ...) spread over the layers.

    In depth there is one figure for each edge, under the layer that it leads to.
    """

    kind: str
    num_layers: int
    mean: float
    std: float
    min: float
    min_layer: str
    max: float
    max_layer: str


@dataclass(frozen=True)
class Precision:
    """Whether the standard error of every layer's radii (gains where there is none) is as small as asked for.

    `where` is the figure with the largest standard error; `limit` says what stopped the audit before.
    """

    requested: float
    largest_std_error: float
    where: str
    is_reached: bool
    limit: str | None
    num_samples: int
    num_rounds: int


@dataclass(frozen=True)
class Grid:
    """The depth x time grid. Paths run from the first layer's first state to the last layer's last.

    "First" and "last layer" are all layers of least and greatest depth (both directions of a
    bidirectional one); a reverse layer's first state is at the last time.
    `log10_num_gradient_paths` is None when there is no path.
    """

    num_layers: int
    num_steps: int
    num_gradient_paths: str
    log10_num_gradient_paths: float | None


@dataclass(frozen=True)
class GrowthPoint:
    """Growth from the cell dt steps and dl layers before the last one, in decades; None is log10 of 0.

    Beside what was measured, what is predicted (docs/predictors.md): `coherent` and `incoherent` from one
    mean factor per edge, `mean_field` from the mean squares of the local Jacobians' elements, `resampled`
    from the local Jacobians of runs of successive steps, the runs in random order. `random_sign` is measured:
    what the paths would give if they did not interfere. What does not apply (no time axis, elements not
    known) is None as well.
    """

    dt: int
    dl: int
    log10_num_paths: float | None
    measured_log10: float | None
    coherent_log10: float | None
    incoherent_log10: float | None
    coherence: float | None
    mean_field_log10: float | None = None
    resampled_log10: float | None = None
    random_sign_log10: float | None = None


@dataclass(frozen=True)
class Growth:
    """Growth at the farthest cell, and the table of all of them.

    The three factors (theory section 4) add up to `measured_log10`:
    `paths_log10` = 1/2 log10 N, `local_log10` = log10 rms norm of one path's product,
    `interference_log10` = coherence * 1/2 log10 N.
    `coherence` is None where there is a single path. `std_error` is that of `measured_log10` over samples.
    """

    dt: int
    dl: int
    measured_log10: float | None
    coherent_log10: float | None
    incoherent_log10: float | None
    coherence: float | None
    std_error: float | None
    paths_log10: float | None
    local_log10: float | None
    interference_log10: float | None
    table: tuple[GrowthPoint, ...]
    mean_field_log10: float | None = None
    resampled_log10: float | None = None
    random_sign_log10: float | None = None


@dataclass(frozen=True)
class Judgement:
    """`stability_index` is a^p + b^p with p = 2 / (1 + coherence); `recommended_target` is 2^(-1/p)."""

    label: Verdict
    reasons: tuple[str, ...]
    stability_index: float | None
    recommended_target: float | None


@dataclass(frozen=True)
class SurrogateFacts:
    """The surrogate derivative that thresholds between states were given, and which ones these are."""

    shape: str
    dampening: float
    sharpness: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class BlackBoxFacts:
    """Parts that ran in ONNX Runtime, their derivatives by finite differences.

    `max_relative_error` is the largest estimated error of a Jacobian, relative to its norm: an error
    bar for gains. What it does to radii is said with these (`RadiusOutcome`).
    """

    reason: str
    parts: tuple[str, ...]
    precision: str
    max_relative_error: float
    num_runs: int


@dataclass(frozen=True)
class Analysis:
    schema_version: str
    tool: Tool
    model: ModelFacts
    inputs: tuple[InputFacts, ...]
    parity: Parity
    recurrences: tuple[Recurrence, ...]
    refusals: tuple[Refusal, ...]
    layers: tuple[LayerFacts, ...]
    radii: tuple[RadiusOutcome, ...]
    spread: tuple[LayerSpread, ...]
    precision: Precision | None
    surrogate: SurrogateFacts | None
    black_box: BlackBoxFacts | None
    time_parallel: tuple[TimeParallel, ...]
    grid: Grid
    growth: Growth
    verdict: Judgement
    warnings: tuple[str, ...]
    timing_seconds: dict[str, float]


@dataclass(frozen=True)
class CausalReading:
    """A layer without a cell that is causal over what may be time: one reading for each axis of its output.

    `source` is the layer that it reads, or "input NAME"; `num_steps` belong to `time_axes`.
    """

    layer_id: str
    source: str
    time_axes: tuple[int, ...]
    num_steps: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What was found without measuring anything."""

    schema_version: str
    tool: Tool
    model: ModelFacts
    inputs: tuple[InputFacts, ...]
    recurrences: tuple[Recurrence, ...]
    refusals: tuple[Refusal, ...]
    layers: tuple[LayerFacts, ...]
    causal: tuple[CausalReading, ...]
    grid: Grid
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Rerolled:
    """An unrolled recurrence that was rewritten as Scan: `num_nodes` for each of `num_steps` steps.

    `chosen` is what a person said of its states, as after --state; `apart` which first steps stay before the
    Scan and why, if any do.
    """

    name: str
    weight: str
    num_steps: int
    num_nodes: int
    states: tuple[str, ...]
    is_reverse: bool
    over_depth: bool
    chosen: tuple[str, ...]
    apart: str | None = None


@dataclass(frozen=True)
class Rerolling:
    """A model with its unrolled recurrences rewritten, verified on `num_checks` random inputs.

    `model` is the result as a ModelProto; it is no part of the JSON form.
    """

    path: str | None
    output: str | None
    recurrences: tuple[Rerolled, ...]
    refusals: tuple[Refusal, ...]
    num_nodes_before: int
    num_nodes_after: int
    max_abs_error: float
    num_checks: int
    model: object = field(repr=False, compare=False)
