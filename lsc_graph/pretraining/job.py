"""What a request to pre-train comes down to: a checked model, weights, points, targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from lsc_graph.audit_model import Source, audit
from lsc_graph.auditing.agreement import Agreement, tolerance_of
from lsc_graph.auditing.batches import batch_entries
from lsc_graph.auditing.cuts import put_in
from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming, measured_model
from lsc_graph.canonical.origins import Origin, find_tensor, indices_of, origin_of
from lsc_graph.errors import AnalysisError, VerificationError
from lsc_graph.model_file.load import check_opsets
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, initializers_of, prepare
from lsc_graph.pretraining.copies import find_copies
from lsc_graph.pretraining.points import Points
from lsc_graph.pretraining.problem import Effort, Problem
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.shards import join_group
from lsc_graph.pretraining.targets import Targets, Wish, resolve
from lsc_graph.pretraining.trainable import Choice, by_name, choose
from lsc_graph.quantized.dequantize import is_quantized
from lsc_graph.results import SurrogateFacts
from lsc_graph.running.reference import Array, Reference
from lsc_graph.running.sampling import read_data
from lsc_graph.to_torch.device import device_of
from lsc_graph.to_torch.parity import ParityCheck
from lsc_graph.to_torch.segment import Parameters
from lsc_graph.to_torch.surrogates import Surrogate
from lsc_graph.writeback.tensors import values_of

_NUM_COMPARED = 2
_NUM_LOOKS = 4
_WRITTEN = 4_000_037


@dataclass(frozen=True)
class Job:
    """One request: what is trained, on which points, to which targets."""

    prepared: Prepared
    choice: Choice
    points: Points
    targets: Targets
    problem: Problem
    surrogate: SurrogateFacts | None
    copies: Mapping[Origin, tuple[int, tuple[int, ...]]]

    def measure(self, values: Sequence[Tensor], seed: int, max_std_error: float) -> dict[Edge, Reading]:
        """Radii at points that the fit never saw."""
        return self.problem.estimate(values, self.problem.seed + seed, max_std_error)

    def request(self, method: str) -> dict[str, Any]:
        """What a fit depends on: a checkpoint belongs to it alone."""
        weights = {w.label: sha256(w.value.cpu().numpy().tobytes()).hexdigest() for w in self.choice.weights}
        return {
            "model": self.prepared.loaded.sha256,
            "weights": weights,
            "targets": sorted((*edge, value) for edge, value in self.targets.of_edge.items()),
            "method": method,
            "tolerance": self.problem.tolerance,
            "surrogate": repr(self.surrogate),
            "num_steps": self.prepared.cell_graph.num_steps,
            "seed": self.problem.seed,
            "data": self.points.digest(self.problem.seed),
        }

    def stored(self, values: Sequence[Tensor]) -> dict[Origin, Array]:
        """Values as the file will hold them, those of copies included."""
        found: dict[Origin, Array] = {}
        for weight, value in zip(self.choice.weights, values, strict=True):
            tensor = find_tensor(self.prepared.loaded.proto, weight.origin)
            assert tensor is not None
            whole = found.setdefault(weight.origin, values_of(tensor).copy())
            whole[indices_of(weight.place)] = value.detach().cpu().numpy().astype(whole.dtype)
        for origin, (number, shape) in self.copies.items():
            found[origin] = found[self.choice.weights[number].origin].reshape(shape)
        return found

    def check_written(self, stored: Mapping[Origin, Array], proto: onnx.ModelProto) -> None:
        """Compare a written model in ONNX Runtime with the torch view that was fitted.

        Raises:
            VerificationError: they differ.
        """
        reader, reference = self.problem.reader, Reference(proto)
        view, check = reader.model, ParityCheck(tolerance_of(self.prepared))
        values = by_name(self.choice.weights, self.as_stored(stored))
        with torch.no_grad():
            for sample in self.points.draw(self.problem.seed + _WRITTEN, _NUM_COMPARED):
                run = reader.parametrised.call(values, partial(view.run, sample))
                view.compare_outputs(reference, sample, run, check)
        if check.failures:
            name, error = check.failures[0]
            raise VerificationError(
                "The written model does not compute what was fitted",
                where=name,
                got=f"a largest difference of {error:.3g}",
                expected=f"at most {check.tolerance.atol:g} + {check.tolerance.rtol:g} |reference|",
                do="please report this model: some of its tensors are copies of trained ones",
            )

    def as_stored(self, stored: Mapping[Origin, Array]) -> list[Tensor]:
        """The values that are read back from the file."""
        return [
            torch.from_numpy(stored[w.origin][indices_of(w.place)].astype(np.float32)).to(w.value)
            for w in self.choice.weights
        ]


def prepare_job(
    model: Source,
    wish: Wish,
    *,
    tolerance: float = 0.02,
    train: Sequence[str] = (),
    freeze: Sequence[str] = (),
    num_steps: int | None = None,
    data: Mapping[str, Array] | str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    device: str = "cpu",
    surrogate: Surrogate | None = None,
) -> Job:
    """Everything that a fit needs; arguments and errors are those of `pretrain`.

    Args:
        model: as in `pretrain`.
        wish: the targets asked for.
        tolerance, train, freeze, num_steps, data, inputs, input_shapes, states, seed, device: as there.
        surrogate: what stands in for the derivative of thresholds.
    """
    given = read_data(data) if data is not None else {}
    request = Request(num_steps, dict(inputs or {}), dict(input_shapes or {}), tuple(states), given)
    prepared = prepare(model, request)
    check_opsets(prepared.loaded.proto, prepared.loaded.facts.path)
    _refuse_quantized(prepared)
    _refuse_lengths(prepared)
    facts = put_in(prepared, surrogate) if surrogate is not None else None
    join_group(device_of(device))
    view = measured_model(prepared, device_of(device), torch.Generator().manual_seed(seed))
    points = Points(prepared, given)
    entries = _compared(view, points, seed)
    choice = choose(prepared, view.parameters, train, freeze)
    if not choice.weights:
        raise AnalysisError("The model has nothing to train", got=_why_nothing(choice))
    reader = Reader(view, torch.Generator().manual_seed(seed), entries)
    looks = list(enumerate(points.draw(seed, 1)))
    edges = [r.edge for r in reader.read({}, looks, _NUM_LOOKS, seed, with_derivative=False)]
    balanced = _balanced(model, request, seed, device, surrogate) if wish.name == "auto" else None
    targets = resolve(wish, prepared.cell_graph, edges, balanced)
    is_cut = facts is not None and bool(facts.nodes)
    problem = Problem(
        reader,
        choice.weights,
        targets.of_edge,
        points.draw,
        tolerance,
        seed,
        Effort(most_times=prepared.cell_graph.num_steps),
        has_surrogate=is_cut,
    )
    return Job(prepared, choice, points, targets, problem, facts, _copies(prepared, choice, view.parameters))


def _copies(
    prepared: Prepared, choice: Choice, parameters: Parameters
) -> dict[Origin, tuple[int, tuple[int, ...]]]:
    values = initializers_of(prepared)
    used = (origin_of(values[name]) for name in parameters.names() if name in values)
    return find_copies(
        prepared.loaded.proto, choice.weights, [origin for origin in used if origin is not None]
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


def _refuse_lengths(prepared: Prepared) -> None:
    cells = prepared.cell_graph
    if not cells.has_one_length:
        raise AnalysisError(
            "Recurrences of different lengths cannot be pre-trained together",
            got=", ".join(f"{layer.id}: {cells.steps_of(layer)} steps" for layer in cells.layers),
            expected="one number of steps for all of them",
            do="pre-train the parts as separate models",
        )


def _compared(view: Sequences | Streaming | FeedForward, points: Points, seed: int) -> dict[str, Tensor]:
    """Refuse to train a torch view that does not agree with ONNX Runtime; which states are batches."""
    agreement = Agreement(view)
    with torch.no_grad():
        samples = points.draw(seed, _NUM_COMPARED)
        runs = [view.run(sample) for sample in samples]
        for sample, run in zip(samples, runs, strict=True):
            agreement.compare(sample, run)
        return batch_entries(view.prepared, view, samples[0], runs[0])


def _why_nothing(choice: Choice) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(choice.left_out.items())[:4]]
    return "; ".join(shown) or "no floating-point tensors"


def _balanced(
    model: Source, request: Request, seed: int, device: str, surrogate: Surrogate | None
) -> float | None:
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
        surrogate=None if surrogate is None else surrogate.shape.value,
        surrogate_dampening=None if surrogate is None else surrogate.dampening,
        surrogate_sharpness=None if surrogate is None else surrogate.sharpness,
    )
    return analysis.verdict.recommended_target
