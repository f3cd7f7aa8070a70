"""Everything that can go wrong, as one taxonomy.

Every error says what failed, where, what was got, what was expected and what to do next;
`str(error)` is the message for the person at the terminal.
"""

from __future__ import annotations


class LscGraphError(Exception):
    """Base of every error that lsc-graph raises on purpose.

    Args:
        what: what failed, as a short sentence without a full stop.
        where: the file, node, value or option concerned.
        got: what was found there.
        expected: what would have been accepted.
        do: what the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: str | None = None,
        expected: str | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.do = what, where, got, expected, do
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what if self.where is None else f"{self.what}: {self.where}"]
        labels = (("got", self.got), ("expected", self.expected), ("to do", self.do))
        lines += [f"  {label + ':':<10}{text}" for label, text in labels if text]
        return "\n".join(lines)


class UsageError(LscGraphError):
    """The request itself is wrong: an option, a shape, a name (exit code 2)."""


class AnalysisError(LscGraphError):
    """The model could not be analysed (exit code 3)."""


class TimeLimitError(LscGraphError):
    """Nothing was measured within the time that was allowed (exit code 3); no other way takes less."""


class LoadError(AnalysisError):
    """The file is not a usable ONNX model."""


class NotOnnxError(LoadError):
    """The bytes are not an ONNX model."""


class TruncatedModelError(LoadError):
    """The model ends before it should."""


class UnsupportedOpsetError(LoadError):
    """An operator set version that is not supported."""


class ExternalDataError(LoadError):
    """External tensor data is missing or outside the model's folder."""


class LimitExceededError(AnalysisError):
    """A cap on steps, nodes, nesting or bytes was hit before allocating."""


class OutOfMemoryError(AnalysisError):
    """The machine, or its GPU, has not as much memory as was asked for."""


class InputError(AnalysisError):
    """No inputs could be made, or were given, that the model accepts."""


class NoLayersError(AnalysisError):
    """Neither a recurrence nor a chain of blocks was found."""


class ConversionError(AnalysisError):
    """A part of the model has no torch counterpart."""


class ParityError(AnalysisError):
    """The torch view of the model disagrees with ONNX Runtime."""


class RoundingError(ParityError):
    """The model makes rounding errors so large that whole runs of it cannot be compared.

    `rounding` is how far what differs moves in ONNX Runtime itself if the inputs are rounded otherwise.
    """

    def __init__(self, what: str, *, rounding: float, **words: str | None) -> None:
        super().__init__(what, **words)
        self.rounding = rounding


class GradientError(AnalysisError):
    """The gradient over the grid of local Jacobians is not that of the whole model."""


class WriteBackError(AnalysisError):
    """New values do not fit the model that they should be written into."""


class VerificationError(AnalysisError):
    """A written model is not what it should be."""
