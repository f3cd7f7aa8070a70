"""Runs of ONNX Runtime that take over the states of a run of the torch view, step by step.

Where rounding grows from step to step, whole runs part, whatever they compute. A run is one of the file's
nevertheless if every step of the file leads from the states that the run had before it to those that it had
after it, as far as one step rounds. First states are the file's own, and so is what stands around the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming
from lsc_graph.errors import AnalysisError
from lsc_graph.recurrence.site import is_differentiable
from lsc_graph.results import Form
from lsc_graph.running.reference import Array, Reference
from lsc_graph.running.restarted import LoopState, restarted
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.loop import SiteModule, Trajectory
from lsc_graph.to_torch.parity import ParityCheck, Tolerance, on_host
from lsc_graph.to_torch.program import Run

_WITHIN = frozenset({Form.SCAN, Form.LOOP})


def agrees_taken_over(
    model: Sequences | Streaming | FeedForward, sample: Sample, run: Run, tolerance: Tolerance
) -> bool:
    """Whether a run is one of the file's; False also where that cannot be seen.

    Args:
        model, sample, run: what was run.
        tolerance: how far a step may be off.
    """
    check = ParityCheck(tolerance)
    try:
        if isinstance(model, Streaming):
            _compare_steps(model, sample, run, check)
        elif not _compare_whole(model, sample, run, check):
            return False
    except AnalysisError:
        return False
    return not check.failures


def _compare_steps(model: Streaming, sample: Sample, run: Run, check: ParityCheck) -> None:
    """The file itself is one step."""
    ours = {name: torch.from_numpy(own) for name, own in _on_host(run.outputs).items()}
    state = dict(sample.initial)
    for time in range(model.program.site.site.num_steps):
        inputs = {name: value[time] for name, value in sample.inputs.items()}
        check.compare_all(
            {name: value[time] for name, value in ours.items()},
            model.reference.run(inputs | state | model.constants),
        )
        carried = model.prepared.findings.carried
        state = {
            own.before: ours[own.after][time].numpy().astype(sample.initial[own.before].dtype)
            for own in carried
        }


def _compare_whole(model: Sequences | FeedForward, sample: Sample, run: Run, check: ParityCheck) -> bool:
    """The normalised file with its states given, and the file itself, which has to do what that one does."""
    normalized = model.prepared.normalized
    values, loops = _boundaries(model, run) if isinstance(model, FeedForward) else _recurrences(model, run)
    changed = restarted(normalized, _single(_on_host(values)), loops)
    if changed is None:
        return False
    feed = _single(sample.inputs | sample.initial)
    found = Reference(changed.proto).run(feed | changed.given)
    ours = run.outputs | {name: torch.from_numpy(value) for name, value in changed.expected.items()}
    check.compare_all({name: ours[name] for name in found}, found)
    whole = model.reference.run(sample.inputs | sample.initial | model.constants)
    same = {name: torch.from_numpy(own) for name, own in Reference(normalized).run(feed).items()}
    return check.compare_all(same, {name: whole[name] for name in same})


_Given = tuple[dict[str, Tensor], list[list[LoopState]]]
"""Values of the main graph that a run had, and what the states of loops were."""


def _boundaries(model: FeedForward, run: Run) -> _Given:
    known = dict(zip(model.boundaries, run.boundaries, strict=True))
    return {name: known[name] for name in model.compared}, []


def _recurrences(model: Sequences, run: Run) -> _Given:
    watched = {
        name: run.trajectories[site].after[state][time] for name, (site, state, time) in model.watched.items()
    }
    loops = []
    for module, trajectory in zip(model.program.sites, run.trajectories, strict=True):
        assert isinstance(module, SiteModule)
        if module.site.form in _WITHIN:
            loops.append(list(_states(module, trajectory)))
    return watched, loops


def _states(module: SiteModule, trajectory: Trajectory) -> Iterator[LoopState]:
    order = list(module.times())
    for state in module.site.states:
        if is_differentiable(module.site, state):
            values = _on_host({state.name: trajectory.after[state.name]})[state.name]
            yield LoopState(state.initial or "", state.final or "", values[order].astype("float32"))


def _on_host(values: Mapping[str, Tensor]) -> dict[str, Array]:
    return dict(zip(values, on_host(list(values.values())), strict=True))


def _single(values: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name: value.astype("float32") if value.dtype.kind == "f" else value for name, value in values.items()
    }
