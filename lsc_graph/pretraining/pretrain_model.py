"""Pre-training of a model: prepare, measure, fit, measure again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import onnx

from lsc_graph.audit_model import Source
from lsc_graph.canonical.origins import Origin
from lsc_graph.errors import UsageError
from lsc_graph.memory import memory_errors_named
from lsc_graph.prepare import is_streaming
from lsc_graph.pretrain_results import PretrainReport
from lsc_graph.pretraining.checkpoint import Checkpoint, check_place, remove
from lsc_graph.pretraining.fit import Progress
from lsc_graph.pretraining.job import Job, prepare_job
from lsc_graph.pretraining.methods import MAX_ITERATIONS, check_method, fit
from lsc_graph.pretraining.problem import silent
from lsc_graph.pretraining.reporting import report_of
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.running.reference import Array
from lsc_graph.running.sampling import num_given
from lsc_graph.to_torch.device import whole_single_precision
from lsc_graph.to_torch.surrogates import parse_surrogate

_BEFORE, _AFTER = 1_000_003, 2_000_003
# Other seeds are made from it by adding, and torch takes 64 bits of them.
_SEEDS = 2**62


@dataclass(frozen=True)
class Pretrained:
    """New values of the trained tensors by their place in the file, and what was done.

    Each array has the shape and the type of the tensor that it replaces (see `lsc_graph.origins`).
    `check_written` compares a model that has these values, in ONNX Runtime, with what was fitted. Of samples,
    `num_given` are all that there are; None where there is no limit.
    """

    values: Mapping[Origin, Array]
    report: PretrainReport
    check_written: Callable[[onnx.ModelProto], None] = field(repr=False, compare=False)
    num_given: int | None = None

    @property
    def named(self) -> dict[str, Array]:
        """The values by name: an initializer's own, with its place before it inside an inner graph."""
        return {"/".join(origin): array for origin, array in self.values.items()}


@whole_single_precision()
@memory_errors_named()
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
    surrogate: str | None = None,
    surrogate_dampening: float | None = None,
    surrogate_sharpness: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    keep_checkpoint: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> Pretrained:
    """Move a model's weights until every mean radius is at its target: the paper's condition (section 3).

    Args:
        model: path, bytes or ModelProto of an ONNX model; it is not changed.
        target: "half", "one", "sqrt", "auto" (from the measured coherence) or "unbalanced" (for this number
            of steps and layers); by default "half", and "one" for feed-forward models.
        target_time, target_depth: go before `target` for radii in time and in depth.
        overrides: (pattern of layer names or ids, "time", "depth" or None for both, radius).
        method: "rescale" (few unknowns, by Gauss-Newton), "gradient" (every element, by Adam), "both", or
            "paper" (the paper's procedure; needs the extra `paper`).
        tolerance: how far a mean radius may be from its target.
        max_iterations: at most so many; by default what the method needs (`methods.MAX_ITERATIONS`).
        train, freeze: patterns of tensor names: nothing but these is trained, and not these.
        num_steps: T; radii depend on it, so use the length that will be trained on.
        data, inputs, input_shapes, states, device, surrogate, surrogate_dampening, surrogate_sharpness: as in
            `audit`.
        seed: of samples and probes; the same seed gives the same weights.
        checkpoint, resume: a file for the fit's state; go on from it, the same but for processes' rounding.
        keep_checkpoint: leave it at the end, for a caller that has yet to write what was fitted.
        progress, stage: called after every iteration; and with what is being done before and between them.

    Returns:
        New values, and a report with the reason for every radius that was not reached.

    Raises:
        UsageError: the request is wrong.
        AnalysisError: the model cannot be analysed or trained; `ParityError` if the torch view disagrees.
    """
    _check_options(method, tolerance, max_iterations, seed, checkpoint, resume=resume)
    started = time.perf_counter()
    wish = Wish(target, target_time, target_depth, overrides)
    job = prepare_job(
        model,
        wish,
        tolerance=tolerance,
        train=train,
        freeze=freeze,
        num_steps=num_steps,
        data=data,
        inputs=inputs,
        input_shapes=input_shapes,
        states=states,
        seed=seed,
        device=device,
        surrogate=parse_surrogate(surrogate, surrogate_dampening, surrogate_sharpness),
    )
    job = replace(job, problem=replace(job.problem, say=stage or silent))
    kept = None if checkpoint is None else Checkpoint(checkpoint, job.request(method))
    found = _fitted(job, wish, method, max_iterations, kept, progress, is_resumed=resume, started=started)
    if checkpoint is not None and not keep_checkpoint:
        remove(checkpoint)
    return found


def _fitted(
    job: Job,
    wish: Wish,
    method: str,
    max_iterations: int | None,
    kept: Checkpoint | None,
    progress: Callable[[Progress], None] | None,
    *,
    is_resumed: bool,
    started: float,
) -> Pretrained:
    """Measure, fit, and measure again what the file will hold."""
    values = as_trained(job.choice.weights)
    limit = MAX_ITERATIONS[method] if max_iterations is None else max_iterations
    say = progress or (lambda _: None)
    before = job.measure(values, _BEFORE, job.problem.tolerance)
    resumed = kept.load() if kept is not None and is_resumed else None
    save = kept.save if kept is not None else None
    fit_found = fit(job.problem, method, values, limit, say, save, resumed)
    stored = job.stored(fit_found.values)
    after = job.measure(job.as_stored(stored), _AFTER, job.problem.tolerance / 4)
    report = report_of(job, wish, method, before, after, fit_found, time.perf_counter() - started)
    prepared = job.prepared
    most = num_given(prepared.plan, prepared.request.data, is_streaming=is_streaming(prepared))
    return Pretrained(stored, report, partial(job.check_written, stored), most)


def _check_options(
    method: str,
    tolerance: float,
    max_iterations: int | None,
    seed: int,
    checkpoint: str | os.PathLike[str] | None,
    *,
    resume: bool,
) -> None:
    check_method(method)
    if resume and checkpoint is None:
        raise UsageError("--resume needs the file to go on from", do="give it with --checkpoint")
    if checkpoint is not None:
        check_place(checkpoint)
    if not 0 <= seed < _SEEDS:
        raise UsageError("There is no such seed", got=str(seed), expected=f"0 to {_SEEDS - 1}")
    if not 0 < tolerance < 1 or (max_iterations is not None and max_iterations < 0):
        raise UsageError(
            "The tolerance must be between 0 and 1, and iterations cannot be negative",
            got=f"{tolerance}, {max_iterations}",
        )
