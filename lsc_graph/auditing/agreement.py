"""Agreement with ONNX Runtime, also of models that make rounding errors so large that no two runs agree.

What cannot be seen in one whole run is seen in two steps: every part of the torch view computes what ONNX
Runtime's operators do from what the part was given in the run; and the parts are put together as in the file,
since every step of the file leads from states of the run to those after them (`taken_over`), or since whole
runs agree where the same file has weights so small that rounding does not grow.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace

import onnx
import torch

from lsc_graph.auditing.autograd_check import attached_run
from lsc_graph.auditing.measure import HALF_TOLERANCE, FeedForward, Sequences, Streaming, measured_model
from lsc_graph.auditing.taken_over import agrees_taken_over
from lsc_graph.canonical.origins import Origin, indices_of, origin_of, place_of, tensors_by_origin
from lsc_graph.errors import LscGraphError, ParityError, RoundingError
from lsc_graph.prepare import Prepared, initializers_of, prepare
from lsc_graph.recurrence.not_weights import why_not_a_weight
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.parity import ParityCheck, Tolerance
from lsc_graph.to_torch.program import Run
from lsc_graph.to_torch.segment import BlackBoxUse
from lsc_graph.writeback.tensors import Array, is_writable, values_of
from lsc_graph.writeback.weights import with_values

Model = Sequences | Streaming | FeedForward
# What weights are multiplied by, until rounding does not grow; no less than that takes, so that no value is
# too small to tell. Matrices, or all of them: exporters fold sums of vectors into constants, which would no
# longer fit vectors that are smaller.
_FACTORS = (0.5, 0.25, 0.125, 0.0625, 0.03125)
_MIN_AXES = (2, 1)
# Values of such runs may be small.
_SMALL = 1e-2


def tolerance_of(prepared: Prepared) -> Tolerance:
    """How far the torch view of a model may be from ONNX Runtime."""
    return HALF_TOLERANCE if prepared.is_half else Tolerance()


class Agreement:
    """Compares runs of a torch view with ONNX Runtime, and keeps in `check` what was compared."""

    def __init__(self, model: Model) -> None:
        self.check = ParityCheck(tolerance_of(model.prepared))
        self._model = model
        self._kernels: Model | None = None
        self._is_joined_well = False

    def run(self, sample: Sample) -> Run:
        """A run that agrees, with errors as of `compare`.

        Where rounding grows, it is one of those that gradients are taken of: others may go elsewhere.
        """
        run = self._model.run(sample)
        self.compare(sample, run)
        if self.check.rounding is not None:
            run = attached_run(self._model, sample).detached()
            self.compare(sample, run)
        return run

    def compare(self, sample: Sample, run: Run) -> None:
        """Compare one run.

        Raises:
            ParityError: they differ.
            RoundingError: they do, but so would two runs of ONNX Runtime, and it is not sure that nothing
                else is the reason.
        """
        try:
            self._model.compare(sample, run, self.check)
        except RoundingError as error:
            parts = self._parts(sample, run)
            if not parts.failures and not self._is_joined_well:
                self._is_joined_well = self._is_joined(sample, run)
            if parts.failures or not self._is_joined_well:
                raise
            self.check.settle(parts, error.rounding)

    def _parts(self, sample: Sample, run: Run) -> ParityCheck:
        """Every part beside the operators of ONNX Runtime, both given what the run had there."""
        model, check = self._model, ParityCheck(self.check.tolerance)
        if self._kernels is None:
            # Prepared anew: ONNX Runtime does not know what stands in for thresholds.
            prepared = prepare(model.prepared.proto, model.prepared.request)
            self._kernels = measured_model(prepared, "cpu", torch.Generator(), BlackBoxUse.ALWAYS)
        for call in model.program.calls(run, model.feed(sample)[0]):
            ours = model.program.get_submodule(call.path)(*call.given)
            theirs = self._kernels.program.get_submodule(call.path)(*(value.cpu() for value in call.given))
            for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
                check.compare(f"{call.path}.{number}", own, other.numpy(), is_inner=True)
        return check

    def _is_joined(self, sample: Sample, run: Run) -> bool:
        """Whether the parts are put together as in the file."""
        is_seen = agrees_taken_over(self._model, sample, run, self.check.tolerance)
        return is_seen or self._agrees_calm(sample)

    def _agrees_calm(self, sample: Sample) -> bool:
        """Whether whole runs agree where weights are smaller, and the same was found in the file."""
        for factor, min_axes in itertools.product(_FACTORS, _MIN_AXES):
            with suppress(LscGraphError):
                is_same = self._is_same_with(factor, min_axes, sample)
                if is_same is not None:
                    return is_same
        return False

    def _is_same_with(self, factor: float, min_axes: int, sample: Sample) -> bool | None:
        """Whether whole runs agree; None if something else was found in the file.

        Raises:
            RoundingError: even so, that cannot be said.
        """
        model, prepared = self._model, self._model.prepared
        calm = prepare(_with_smaller_weights(model, factor, min_axes), prepared.request)
        if calm.cell_graph != prepared.cell_graph:
            return None
        generator = torch.Generator().manual_seed(0)
        view = measured_model(calm, model.device, generator, model.parameters.black_box)
        tolerance = self.check.tolerance
        check = ParityCheck(tolerance if prepared.is_half else replace(tolerance, unit=_SMALL))
        try:
            view.compare(sample, view.run(sample), check)
        except RoundingError:
            raise
        except ParityError:
            return False
        return True


def _with_smaller_weights(model: Model, factor: float, min_axes: int) -> onnx.ModelProto:
    """The file with every weight of so many axes times a factor; settings, statistics and tables stay."""
    proto = model.prepared.proto
    tensors = dict(tensors_by_origin(proto))
    smaller: dict[Origin, Array] = {}
    for value in initializers_of(model.prepared).values():
        origin = origin_of(value)
        tensor = tensors.get(origin) if origin is not None else None
        if origin is None or tensor is None or not is_writable(tensor):
            continue
        stored = values_of(tensor)
        part = stored[indices_of(place_of(value))]
        if sum(length > 1 for length in part.shape) < min_axes:
            continue
        if why_not_a_weight(value, part, model.parameters.fixed) is None:
            smaller[origin] = (stored * factor).astype(stored.dtype)
    return with_values(proto, smaller)
