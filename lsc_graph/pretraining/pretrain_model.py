"""Pre-training, readable from top to bottom: prepare, compare, choose, fit, measure again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsc_graph.audit_model import Source, audit
from lsc_graph.dequantize import is_quantized
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.measure import HALF_TOLERANCE, FeedForward, Sequences, Streaming, measured_model
from lsc_graph.origins import Origin, find_tensor
from lsc_graph.prepare import Prepared, Request, prepare
from lsc_graph.pretrain_results import (
    PRETRAIN_SCHEMA_VERSION,
    LeftOut,
    PretrainReport,
    Radius,
    RadiusChange,
)
from lsc_graph.pretraining.checkpoint import Checkpoint
from lsc_graph.pretraining.fit import Fit, Progress
from lsc_graph.pretraining.methods import MAX_ITERATIONS, check_method, fit
from lsc_graph.pretraining.points import Points
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.readings import Edge, Reader, Reading
from lsc_graph.pretraining.shards import join_group
from lsc_graph.pretraining.targets import Targets, Wish, resolve
from lsc_graph.pretraining.trainable import Choice, as_trained, choose
from lsc_graph.reference import Array
from lsc_graph.results import Tool
from lsc_graph.sampling import read_data
from lsc_graph.to_torch.parity import ParityCheck, Tolerance
from lsc_graph.writeback.tensors import values_of

_NUM_COMPARED = 2
_NUM_LOOKS = 4
_BEFORE, _AFTER = 1_000_003, 2_000_003


@dataclass(frozen=True)
class Pretrained:
    """New values of the trained tensors by their place in the file, and what was done.

    Each array has the shape and the type of the tensor that it replaces (see `lsc_graph.origins`).
    """

    values: Mapping[Origin, Array]
    report: PretrainReport

    @property
    def named(self) -> dict[str, Array]:
        """The values by name: an initializer's own, with its place before it inside an inner graph."""
        return {"/".join(origin): array for origin, array in self.values.items()}


def pretrain(
    model: Source,
    *,
    target: str | None = None,
    target_time: float | None = None,
    target_depth: float | None = None,
    overrides: Sequence[tuple[str, str | None, float]] = (),
    method: str = "rescale",
    tolerance: float = 0.02,
    max_iterations: int | None = None,
    train: Sequence[str] = (),
    freeze: Sequence[str] = (),
    num_steps: int | None = None,
    data: Mapping[str, Array] | str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    device: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Pretrained:
    """Move a model's weights until the mean radius of every layer, in time and depth, is at its target.

    The local stability condition of the paper (section 6 of its theory page), reached by rescaling.

    Args:
        model: path, bytes or ModelProto of an ONNX model; it is not changed.
        target: "half", "one", "sqrt", "auto" (from the measured coherence) or "unbalanced" (for this number
            of steps and layers); by default "half", and "one" for feed-forward models.
        target_time: goes before `target` for radii in time.
        target_depth: goes before `target` for radii in depth.
        overrides: (pattern of layer names or ids, "time", "depth" or None for both, radius).
        method: "rescale" (few unknowns, by Gauss-Newton), "gradient" (every element, by Adam), "both", or
            "paper" (the paper's procedure; needs the extra `paper`).
        tolerance: how far a mean radius may be from its target.
        max_iterations: at most so many; by default what the method needs (`methods.MAX_ITERATIONS`).
        train: patterns of tensor names; if there are any, nothing else is trained.
        freeze: patterns of tensor names that are not trained.
        num_steps: T; radii depend on it, so use the length that will be trained on.
        data: as in `audit`; synthetic values otherwise.
        inputs: as in `audit`.
        input_shapes: as in `audit`.
        states: as in `audit`.
        seed: of samples and probes; the same seed gives the same weights.
        device: "auto", "cpu" or "cuda".
        checkpoint: a file that the state of the fit is kept in while it runs.
        resume: go on from `checkpoint`, if it is there; the outcome is that of a fit without interruption.
        progress: called after every iteration.

    Returns:
        New values, and a report with the reason for every radius that was not reached.

    Raises:
        UsageError: the request is wrong.
        AnalysisError: the model cannot be analysed or trained; `ParityError` if the torch view disagrees.
    """
    _check_options(method, tolerance, max_iterations)
    if resume and checkpoint is None:
        raise UsageError("--resume needs the file to go on from", do="give it with --checkpoint")
    started = time.perf_counter()
    given = read_data(data) if data is not None else {}
    request = Request(num_steps, dict(inputs or {}), dict(input_shapes or {}), tuple(states), given)
    prepared = prepare(model, request)
    _refuse_quantized(prepared)
    join_group(device_of(device))
    view = measured_model(prepared, device_of(device), torch.Generator().manual_seed(seed))
    assert isinstance(view, Sequences | Streaming | FeedForward)
    points = Points(prepared, given)
    _compare(view, points, seed)
    choice = choose(prepared, view.parameters, train, freeze)
    if not choice.weights:
        raise AnalysisError("The model has nothing to train", got=_why_nothing(choice))
    reader = Reader(view, torch.Generator().manual_seed(seed))
    values = as_trained(choice.weights)
    wish = Wish(target, target_time, target_depth, overrides)
    coherence = _balanced(model, request, seed, device) if target == "auto" else None
    job = _Job(prepared, reader, choice, points, wish, coherence, tolerance, seed)
    before = _Measured(job.problem.estimate(values, seed + _BEFORE, tolerance))
    most = MAX_ITERATIONS[method] if max_iterations is None else max_iterations
    kept = None if checkpoint is None else Checkpoint(checkpoint, job.request(method))
    resumed = kept.load() if kept is not None and resume else None
    say = progress or (lambda _: None)
    fitted = fit(job.problem, method, values, most, say, kept.save if kept is not None else None, resumed)
    stored = job.stored(fitted.values)
    after = _Measured(job.problem.estimate(job.as_stored(stored), seed + _AFTER, tolerance / 4))
    report = job.report(method, before, after, fitted, time.perf_counter() - started)
    if kept is not None:
        kept.remove()
    return Pretrained(stored, report)


@dataclass(frozen=True)
class _Measured:
    """Readings by edge."""

    of_edge: Mapping[Edge, Reading]

    def radius(self, edge: Edge) -> Radius:
        reading = self.of_edge[edge]
        return Radius(reading.mean, reading.std_error, reading.values.numel())


class _Job:
    """One request: what is trained, on which points, to which targets."""

    def __init__(
        self,
        prepared: Prepared,
        reader: Reader,
        choice: Choice,
        points: Points,
        wish: Wish,
        balanced: float | None,
        tolerance: float,
        seed: int,
    ) -> None:
        self.prepared, self.reader, self.choice, self.points = prepared, reader, choice, points
        self.tolerance, self.seed = tolerance, seed
        looks = list(enumerate(points.draw(seed, 1)))
        edges = [r.edge for r in reader.read({}, looks, _NUM_LOOKS, seed, with_derivative=False)]
        self.targets: Targets = resolve(wish, prepared.cell_graph, edges, balanced)
        of_edge = self.targets.of_edge
        self.problem = Problem(reader, choice.weights, of_edge, points.draw, tolerance, seed)

    def request(self, method: str) -> dict[str, Any]:
        """What a fit depends on: a checkpoint belongs to it alone."""
        weights = {w.label: sha256(w.value.cpu().numpy().tobytes()).hexdigest() for w in self.choice.weights}
        return {
            "weights": weights,
            "targets": sorted((*edge, value) for edge, value in self.targets.of_edge.items()),
            "method": method,
            "tolerance": self.tolerance,
            "num_steps": self.prepared.cell_graph.num_steps,
            "seed": self.seed,
            "data": self.points.digest(self.seed),
        }

    def stored(self, values: Sequence[Tensor]) -> dict[Origin, Array]:
        """Values as the file will hold them."""
        found = {}
        for weight, value in zip(self.choice.weights, values, strict=True):
            tensor = find_tensor(self.prepared.loaded.proto, weight.origin)
            assert tensor is not None
            found[weight.origin] = value.detach().cpu().numpy().astype(values_of(tensor).dtype)
        return found

    def as_stored(self, stored: Mapping[Origin, Array]) -> list[Tensor]:
        """The values that are read back from the file."""
        return [
            torch.from_numpy(stored[w.origin].astype(np.float32)).to(w.value) for w in self.choice.weights
        ]

    def report(
        self, method: str, before: _Measured, after: _Measured, fit: Fit, seconds: float
    ) -> PretrainReport:
        """Everything in numbers."""
        radii = tuple(self._change(edge, before, after, fit) for edge in after.of_edge)
        is_reached = all(change.is_reached for change in radii)
        return PretrainReport(
            schema_version=PRETRAIN_SCHEMA_VERSION,
            tool=Tool("lsc-graph", version("lsc-graph")),
            model=self.prepared.loaded.facts,
            method=method,
            target_time=self.targets.time,
            target_depth=self.targets.depth,
            tolerance=self.tolerance,
            num_steps=self.prepared.cell_graph.num_steps,
            radii=radii,
            trained=tuple(weight.label for weight in self.choice.weights),
            left_out=tuple(LeftOut(tensor, reason) for tensor, reason in self.choice.left_out.items()),
            iterations=fit.iterations,
            is_reached=is_reached,
            stop_reason=fit.stop_reason,
            seconds=seconds,
            seed=self.seed,
            data_digest=self.points.digest(self.seed),
            warnings=tuple(self.prepared.findings.warnings),
        )

    def _change(self, edge: Edge, before: _Measured, after: _Measured, fit: Fit) -> RadiusChange:
        source, layer = edge
        reading, target = after.of_edge[edge], self.targets.of_edge[edge]
        is_reached = abs(reading.mean - target) <= self.tolerance + 2 * reading.std_error
        return RadiusChange(
            layer=layer,
            name=self.reader.layers[layer].name,
            source=source,
            kind=reading.kind.value,
            quantity="spectral radius" if reading.is_radius else "gain",
            target=target,
            before=before.radius(edge),
            after=after.radius(edge),
            is_reached=is_reached,
            reason=None if is_reached else fit.reasons.get(edge, fit.stop_reason),
        )


def device_of(wanted: str) -> str:
    """The device's name for torch.

    Raises:
        UsageError: there is no such device.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError("There is no such device", got=wanted, expected="auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, but torch sees no CUDA device", do="use --device cpu")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def _check_options(method: str, tolerance: float, max_iterations: int | None) -> None:
    check_method(method)
    if not 0 < tolerance < 1 or (max_iterations is not None and max_iterations < 0):
        raise UsageError(
            "The tolerance must be between 0 and 1, and iterations cannot be negative",
            got=f"{tolerance}, {max_iterations}",
        )


def _refuse_quantized(prepared: Prepared) -> None:
    if is_quantized(prepared.loaded.proto):
        names = prepared.dequantized
        raise AnalysisError(
            "A quantised model cannot be pre-trained",
            where=names[0] if names else None,
            got=f"{len(names)} quantised weights or operators" if names else "quantised operators",
            expected="floating-point weights: integers cannot be moved a little",
            do="pre-train the float model that it was made from, and quantise the result",
        )


def _compare(view: Sequences | Streaming | FeedForward, points: Points, seed: int) -> None:
    """Refuse to train a torch view that does not agree with ONNX Runtime."""
    check = ParityCheck(HALF_TOLERANCE if view.prepared.is_half else Tolerance())
    with torch.no_grad():
        for sample in points.draw(seed, _NUM_COMPARED):
            view.compare(sample, view.run(sample), check)


def _why_nothing(choice: Choice) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(choice.left_out.items())[:4]]
    return "; ".join(shown) or "no floating-point tensors"


def _balanced(model: Source, request: Request, seed: int, device: str) -> float | None:
    """The balanced critical target for the coherence that an audit measures."""
    analysis = audit(
        model,
        num_steps=request.num_steps,
        data=request.data or None,
        inputs=request.values,
        input_shapes=request.shapes,
        states=request.states,
        seed=seed,
        device=device,
    )
    return analysis.verdict.recommended_target
