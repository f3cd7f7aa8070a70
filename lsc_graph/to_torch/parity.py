"""Agreement of the torch view with ONNX Runtime, without which nothing is reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lsc_graph.errors import ParityError, RoundingError
from lsc_graph.results import Parity
from lsc_graph.running.reference import Array

# Rounding enters at every operator, and is moved by at the inputs only: it may have grown to so much more.
_GROWN = 100.0


@dataclass(frozen=True)
class Tolerance:
    """Agreement means |torch - reference| <= atol + rtol |reference|, elementwise."""

    rtol: float = 1e-3
    atol: float = 1e-4
    unit: float | None = None

    def bound(self, reference: Array, *, is_inner: bool) -> Array:
        """Allowed differences.

        Inside a model an element may be the small difference of large ones: there atol counts in units
        of the largest finite value of the tensor, if that is more than 1. With a `unit`, it counts so
        everywhere, if that is more than this.
        """
        scale = 1.0
        if is_inner or self.unit is not None:
            least = 1.0 if self.unit is None else self.unit
            scale = float(np.abs(reference).max(initial=least, where=np.isfinite(reference)))
        return self.atol * scale + self.rtol * np.abs(reference)


@dataclass
class ParityCheck:
    """Collects comparisons; `failures` are (value name, largest error) in the order of comparison.

    `rounding` is how far rounding moves what differed in whole runs, if these were compared by parts.
    `overflows` are values of which the reference has elements that are not finite where ours has others.
    """

    tolerance: Tolerance
    max_abs_error: float = 0.0
    num_values: int = 0
    failures: list[tuple[str, float]] = field(default_factory=list)
    rounding: float | None = None
    overflows: list[str] = field(default_factory=list)

    def settle(self, parts: ParityCheck, rounding: float) -> None:
        """What failed was rounding, so large, and all parts agree: theirs are the comparisons that count."""
        assert not parts.failures
        self.failures.clear()
        self.num_values += parts.num_values
        self.max_abs_error = max(self.max_abs_error, parts.max_abs_error)
        self.rounding = max(self.rounding or 0.0, rounding)

    def compare(self, name: str, ours: Tensor, reference: Array, *, is_inner: bool = False) -> bool:
        """Compare one value; the difference is kept, and counted as a failure beyond tolerance."""
        return self._compare(name, on_host([ours])[0], reference, is_inner=is_inner)

    def _compare(self, name: str, mine: Array, reference: Array, *, is_inner: bool) -> bool:
        theirs = np.asarray(reference, dtype=np.float64)
        self.num_values += 1
        if mine.shape != theirs.shape:
            self.failures.append((f"{name} (shape {mine.shape}, not {theirs.shape})", float("inf")))
            return False
        with np.errstate(invalid="ignore"):  # infinite on both sides
            error = np.abs(mine - theirs)
        same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
        error = np.where(same, 0.0, error)
        largest = float(error.max(initial=0.0))
        lost = ~np.isfinite(theirs) & ~same  # the bound of what is infinite would be, too
        if np.all(same | (~lost & (error <= self.tolerance.bound(theirs, is_inner=is_inner)))):
            self.max_abs_error = max(self.max_abs_error, largest)
            return True
        self.failures.append((name, largest))
        if lost.any():
            self.overflows.append(name)
        return False

    def compare_all(
        self, ours: Mapping[str, Tensor], reference: Mapping[str, Array], *, is_inner: bool = False
    ) -> bool:
        """Compare every value that the reference has; `is_inner` if they are no outputs of the model."""
        arrays = on_host([ours[name] for name in reference])
        pairs = zip(reference.items(), arrays, strict=True)
        results = [self._compare(name, mine, v, is_inner=is_inner) for (name, v), mine in pairs]
        return all(results)

    def result(self, provider: str) -> Parity:
        """The record for the report; to be called only when nothing failed."""
        assert not self.failures
        return Parity(
            max_abs_error=self.max_abs_error,
            provider=provider,
            rtol=self.tolerance.rtol,
            atol=self.tolerance.atol,
            num_values=self.num_values,
            rounding=self.rounding,
        )

    def refusal(self, first_difference: str | None, rounding: float = 0.0) -> ParityError:
        """The error that says what differs, and where in the graph the difference begins.

        Args:
            first_difference: where that is, if it is known.
            rounding: how far the first value that differs moves in ONNX Runtime itself, where inputs do by
                as little as they are rounded by.
        """
        name, error = self.failures[0]
        if self.overflows:
            return ParityError(
                "Values of the model leave the range of its floating-point numbers, so nothing is reported",
                where=self.overflows[0],
                got="infinite elements, or some that are not a number, in ONNX Runtime, where the torch view "
                "has others",
                expected="finite values",
                do="audit fewer steps (--steps), or give smaller inputs with --data FILE.npz",
            )
        if rounding >= error / _GROWN:
            return RoundingError(
                "The model makes rounding errors so large that the torch view of it cannot be compared",
                rounding=rounding,
                where=name,
                got=f"a largest difference of {error:.3g} from ONNX Runtime, where that value moves by "
                f"{rounding:.3g} if the inputs are rounded otherwise",
                expected=self._expected(),
                do="audit fewer steps (--steps), or give smaller inputs with --data FILE.npz",
            )
        return ParityError(
            "The torch view of the model disagrees with ONNX Runtime, so nothing is reported",
            where=name,
            got=f"a largest difference of {error:.3g}"
            + (
                f"; the first value in the graph that differs is {first_difference}"
                if first_difference
                else ""
            ),
            expected=self._expected(),
            do="please report this model; the operator that computes that value is converted wrongly",
        )

    def _expected(self) -> str:
        return f"at most {self.tolerance.atol:g} + {self.tolerance.rtol:g} |reference|"


def on_host(values: Sequence[Tensor]) -> list[Array]:
    """Tensors as arrays of doubles; for those of one device the host waits once."""
    if not values:
        return []
    flat = torch.cat([value.detach().double().flatten() for value in values]).cpu()
    parts = torch.split(flat, [value.numel() for value in values])
    return [part.reshape(value.shape).numpy() for part, value in zip(parts, values, strict=True)]


def first_difference(
    names: Iterable[str], ours: Mapping[str, Tensor], reference: Mapping[str, Array], tolerance: Tolerance
) -> str | None:
    """The first of `names` (in graph order) that differs beyond tolerance."""
    for name in names:
        if name in ours and name in reference:
            check = ParityCheck(tolerance)
            if not check.compare(name, ours[name], reference[name], is_inner=True):
                return name
    return None
