"""What unrolled steps start from, told by what an exporter has computed from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError
from lsc_graph.model_file.provenance import PROVENANCE, UNROUNDED
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.affine import is_affine_way
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.first_step import is_close, values_on_sample
from lsc_graph.recurrence.unrolled.reads import Reads
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter

VERIFIED, SOLVED, ASSUMED = "verified", "solved", "assumed"
_MOST_COEFFICIENTS = 2**23
_RANK_TOLERANCE = 1e-5
_SATURATING = frozenset(("Max", "Min", "Clip"))
_MOST_ROUNDED = 4 / 127
_SMALL = 2**-4

Array = np.ndarray


@dataclass(frozen=True)
class Folded:
    """A value of the step, and the constant that stands for it in the step before the first."""

    value: ir.Value
    constant: ir.Value


@dataclass(frozen=True)
class Start:
    """What each state starts from, and how well that is known.

    VERIFIED: more constants than it takes to tell agree with it. SOLVED: just as many as it takes. ASSUMED:
    they do not agree, but the step's derivative is the same for every start; or the weights were pre-trained
    since the constants were computed.
    """

    given: Mapping[ir.Value, ir.Value]
    found: Mapping[ir.Value, Array]
    evidence: str = VERIFIED

    def states(self, writer: GraphWriter) -> dict[ir.Value, ir.Value]:
        """By what the step takes over; what was found is written as constants."""
        return dict(self.given) | {
            key: writer.constant(array, f"{key.name}.start") for key, array in self.found.items()
        }


class StartSearch:
    """Finds the start of steps of which some values are known.

    Args:
        model, steps, reads: the recurrence.
        between: the nodes, in order, that lead from the states to the values.
        folded: the values.
        constants: of the graph.
        trial: runs parts of the model.
    """

    def __init__(
        self,
        model: ir.Model,
        steps: Steps,
        reads: Reads,
        between: Sequence[ir.Node],
        folded: Sequence[Folded],
        constants: Constants,
        trial: Trial,
    ) -> None:
        self.model, self.steps, self.reads, self.trial = model, steps, reads, trial
        self.between, self.folded, self.constants = between, folded, constants
        self.read = {value for node in between for value in node.inputs if value in steps.states}
        self.given = {key: own for key in steps.states if (own := next(iter(steps.earlier[key]), None))}
        self.unknown = [key for key in steps.states if key in self.read and key not in self.given]
        self.is_rounded = UNROUNDED in model.metadata_props
        self.writer = GraphWriter("lsc_graph.start", next(iter(steps.states)).dtype)

    def find(self, *, is_zero: bool = False) -> Start | None:
        """None, if there is none that is sure enough, or if it is zeros: these are put back otherwise.

        With `is_zero`, zeros alone are looked for.
        """
        is_open = any(key in self.given and self.given[key] not in self.constants for key in self.read)
        if is_open or any(static_shape(key) is None for key in self.steps.states):
            return None
        start = self._zeros() if is_zero else self._found()
        self.writer.discard()
        return start

    def _zeros(self) -> Start | None:
        zeros = self._started({})
        return zeros if all(self._agreeing(zeros) or [False]) and self._is_zero(zeros) else None

    def _found(self) -> Start | None:
        zeros = self._started({})
        agreeing = self._agreeing(zeros)
        if agreeing is None:
            return None
        if all(agreeing):
            return None if self._is_zero(zeros) or self._is_unchanged(zeros) else zeros
        if self._is_unchanged(unchanged := self._started(self._uniform())) and all(
            self._agreeing(unchanged) or [False]
        ):
            return None
        if self.is_rounded and all(self._agreeing(zeros, _is_rounded) or [False]):
            return zeros
        is_affine = self._is_affine_way(self.between, self.read)
        solved = self._solved(is_affine=is_affine)
        if solved is not None:
            return solved
        of_given = (not self._depends(own.value, self.unknown) for own in self.folded)
        is_refuted = any(own and not agrees for own, agrees in zip(of_given, agreeing, strict=True))
        is_moved = PROVENANCE in self.model.metadata_props
        is_possible = not is_refuted or (is_moved and (is_affine or not self.unknown))
        if not is_possible or not (is_affine or self._is_finite(zeros)):
            return None
        return replace(zeros, evidence=ASSUMED)

    def _is_finite(self, start: Start) -> bool:
        """Whether all that the step computes from a start are numbers."""
        known = dict(self.reads.captures) | start.states(self.writer)
        self.writer.repeat(self.between, known)
        values = [known[value] for node in self.between for value in node.outputs]
        return all(bool(np.isfinite(array).all()) for array in self._values(values))

    def _started(self, solved: Mapping[ir.Value, Array]) -> Start:
        """From given states, solved ones, and zeros."""
        found = {}
        for key in (key for key in self.steps.states if key not in self.given):
            dtype = (key.dtype or ir.DataType.FLOAT).numpy()
            found[key] = solved.get(key, np.zeros(static_shape(key) or (), dtype)).astype(dtype)
        return Start(self.given, found)

    def _is_zero(self, start: Start) -> bool:
        arrays = [self.constants.array(own) for key, own in start.given.items() if key in self.read]
        return all(array is not None and not array.any() for array in (*arrays, *start.found.values()))

    def _uniform(self) -> dict[ir.Value, Array]:
        """For unknown states, constants that stand for what is made of them, if these are one number each."""
        return {
            value: array
            for own in self.folded
            for value in self._read(own)
            if value in self.unknown and (array := self._uniform_array(own, value)) is not None
        }

    def _is_unchanged(self, start: Start) -> bool:
        """Whether the step has found all constants and left them, one number each: -1e30 - 1 is -1e30."""
        given = {key: self.constants.array(own) for key, own in start.given.items()} | dict(start.found)
        return all(
            any(_are_equal(self._uniform_array(own, value), given[value]) for value in self._read(own))
            for own in self.folded
        )

    def _read(self, own: Folded) -> list[ir.Value]:
        node = own.value.producer()
        return [value for value in node.inputs if value in self.read] if node is not None else []

    def _uniform_array(self, own: Folded, value: ir.Value) -> Array | None:
        array = self.constants.array(own.constant)
        is_like = array is not None and array.shape == static_shape(value)
        return array if is_like and self.constants.is_uniform(own.constant) else None

    def _agreeing(
        self, start: Start, is_equal: Callable[[Array, Array], bool] = is_close
    ) -> list[bool] | None:
        """Which constants are what the step computes from a start; None if nothing can be computed."""
        known = dict(self.reads.captures) | start.states(self.writer)
        self.writer.repeat(self.between, known)
        values = [known[own.value] for own in self.folded]
        try:
            found = self._values([own.constant for own in self.folded] + values)
        except AnalysisError:
            return None
        pairs = zip(found[: len(values)], found[len(values) :], strict=True)
        return [is_equal(np.broadcast_to(constant, own.shape), own) for constant, own in pairs]

    def _values(self, wanted: Sequence[ir.Value]) -> list[Array]:
        return values_on_sample(self.model, wanted, self.trial)

    def _solved(self, *, is_affine: bool) -> Start | None:
        """A start that gives all constants, told by those that are affine functions of it."""
        known = [own for own in self.folded if self._is_affine(own.value)]
        sizes = [math.prod(static_shape(key) or ()) for key in self.unknown]
        num_equations = sum(math.prod(static_shape(own.value) or ()) for own in known)
        if not known or not sizes or sum(sizes) * num_equations > _MOST_COEFFICIENTS:
            return None
        matrix, target = self._equations(known)
        solution, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=_RANK_TOLERANCE)
        parts = np.split(solution, np.cumsum(sizes)[:-1])
        arrays = {k: part.reshape(static_shape(k)) for k, part in zip(self.unknown, parts, strict=True)}
        start = self._started(arrays)
        is_told = rank == len(solution) or is_affine
        is_equal = _is_rounded if self.is_rounded else is_close
        if not is_told or not all(self._agreeing(start, is_equal) or [False]):
            return None
        is_verified = len(target) > rank or len(known) < len(self.folded)
        return replace(start, evidence=VERIFIED if is_verified else SOLVED)

    def _is_affine(self, value: ir.Value) -> bool:
        """Whether a value is an affine function of the unknown states, and depends on them."""
        return self._depends(value, self.unknown) and self._is_affine_way(self._way(value), self.unknown)

    def _is_affine_way(self, nodes: Iterable[ir.Node], states: Collection[ir.Value]) -> bool:
        """Of quantised models, where nothing saturates: what was rounded is kept within its range."""
        return is_affine_way(nodes, states, also=_SATURATING if self.is_rounded else frozenset())

    def _depends(self, value: ir.Value, states: Sequence[ir.Value]) -> bool:
        return value in states or any(v in states for node in self._way(value) for v in node.inputs)

    def _way(self, value: ir.Value) -> list[ir.Node]:
        """Those of the nodes, in order, that lead to a value."""
        needed, wanted = list[ir.Node](), {value}
        for node in reversed(self.between):
            if wanted.intersection(node.outputs):
                needed.append(node)
                wanted.update(own for own in node.inputs if own is not None)
        return needed[::-1]

    def _equations(self, known: Sequence[Folded]) -> tuple[Array, Array]:
        """The matrix that gives the values from the unknown states, and what it has to give."""
        rows = self._responses(known)
        shapes = [static_shape(own.value) or () for own in known]
        constants = self._values([own.constant for own in known])
        wanted = [np.broadcast_to(c, shape).ravel() for c, shape in zip(constants, shapes, strict=True)]
        flat = np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1).astype(np.float64)
        return (flat[1:] - flat[0]).T / _SMALL, np.concatenate(wanted) - flat[0]

    def _responses(self, known: Sequence[Folded]) -> list[Array]:
        """The values for unknown states of zeros, and for small unit vectors of them, by one Scan."""
        sizes = [math.prod(static_shape(key) or ()) for key in self.unknown]
        dtype = self.unknown[0].dtype or ir.DataType.FLOAT
        body = self.writer.child("response")
        body.nodes = []
        row = body.value("row", [sum(sizes)], dtype)
        states = self._started({}).states(self.writer)
        parts = body.split(row, sizes, 0, [f"{key.name}.part" for key in self.unknown])
        for key, part in zip(self.unknown, parts, strict=True):
            shape = static_shape(key) or ()
            states[key] = body.op("Reshape", [part, body.integers(shape)], str(key.name), shape, dtype)
        inner = dict(self.reads.captures) | states
        body.repeat(self.between, inner)
        outputs = [body.op("Identity", [inner[o.value]], "out", o.value.shape, dtype) for o in known]
        units = np.concatenate([np.zeros((1, sum(sizes))), _SMALL * np.eye(sum(sizes))]).astype(dtype.numpy())
        graph = ir.Graph([row], outputs, nodes=body.nodes, name=body.prefix)
        results = [self.writer.value("responses", [len(units), *(o.value.shape or ())], dtype) for o in known]
        source = self.writer.constant(units, "units")
        self.writer.append("Scan", [source], results, body=graph, num_scan_inputs=1)
        return self._values(results)


def _is_rounded(constant: Array, value: Array) -> bool:
    """Whether a constant is a value, where it and what it was computed from were rounded to 8 bits each."""
    largest = np.abs(constant).max(initial=0)
    return bool(np.abs(constant - value).max(initial=0) <= _MOST_ROUNDED * largest)


def _are_equal(one: Array | None, two: Array | None) -> bool:
    return one is not None and two is not None and np.array_equal(one, two)
