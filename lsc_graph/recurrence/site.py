"""The one form that every recurrence is brought to: a step body, looped over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.results import Direction, Form


@dataclass(frozen=True)
class StateVariable:
    """A state that the step body reads (`before`, at t-1) and writes (`after`, at t).

    `initial` and `final` name values of the main graph; None means zeros, or unused.
    `shape` is one sample's, as the body sees it.
    """

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    initial: str | None
    final: str | None


@dataclass(frozen=True)
class StepSequence:
    """A value of the main graph that the body reads or writes one slice of per step.

    `body` names the slice in the body, `main` the whole sequence, `axis` is time in it, and
    `reverse` says that step k handles slice T-1-k.
    """

    body: str
    main: str
    axis: int
    reverse: bool


@dataclass(frozen=True)
class RecurrentSite:
    """One recurrence: `body` is a self-contained model whose inputs are states, slices and captures.

    `captures` maps body inputs to main-graph values that stay the same at every step.
    A streaming site's body is the whole model, and its slices are model inputs and outputs (`axis` -1:
    a new leading axis). `recurrence` is shared by the two directions of one bidirectional operator.
    `over_depth` says that the steps are layers with tied weights, not times. `watched` holds, per state, what
    its values at the steps were called in the graph as it was found, in true time order, if they had names.
    `counters` are states that count the steps, by name. `chosen` is what a person said of its states,
    as after --state.
    """

    id: str
    recurrence: str
    form: Form
    node: str
    direction: Direction
    num_steps: int
    body: ir.Model
    states: tuple[StateVariable, ...]
    inputs: tuple[StepSequence, ...]
    outputs: tuple[StepSequence, ...]
    captures: dict[str, str]
    over_depth: bool = False
    watched: tuple[tuple[str | None, ...], ...] = ()
    counters: frozenset[str] = frozenset()
    chosen: tuple[str, ...] = ()

    @property
    def is_reverse(self) -> bool:
        """Whether the first step is at the last time."""
        types = {value.name: value.dtype for value in self.body.graph.inputs}
        return is_most_reverse((own.reverse, types.get(own.body)) for own in self.inputs)


def is_most_reverse(sequences: Iterable[tuple[bool, ir.DataType | None]]) -> bool:
    """Whether most sequences of numbers are read from their end, of some that are or not, with their types.

    A mask or an index that is read beside them tells nothing.
    """
    every = list(sequences)
    numbers = [own for own, dtype in every if dtype is None or dtype.is_floating_point()]
    counted = numbers or [own for own, _ in every]
    return 2 * sum(counted) > len(counted)


def is_differentiable(site: RecurrentSite, state: StateVariable) -> bool:
    """Whether a state is of a floating-point type; counters and masks are carried, but are no layers."""
    if state.name in site.counters:
        return False
    value = next(value for value in site.body.graph.inputs if value.name == state.before)
    return value.dtype is None or value.dtype.is_floating_point()
