"""What is said of steps that were written out: what their layer leaves out, and what no file tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lsc_graph.recurrence.unrolled.chosen import NO_STATE
from lsc_graph.recurrence.unrolled.phase import OpenChoice
from lsc_graph.recurrence.unrolled.roll import MAX_TRIMMED, RolledSteps
from lsc_graph.recurrence.unrolled.start_search import ASSUMED, SOLVED

_STARTED = {
    SOLVED: "{}: its first step reads constants where the others compute from their state: taken for a start "
    "that was multiplied by the weights beforehand, and one that gives these constants was found",
    ASSUMED: "{}: its first step reads constants where the others compute from their state, and no start is "
    "known that gives them with these weights, as behind a nonlinearity, or where weights were changed or "
    "rounded later: it is taken for a step like the others",
}
"""What is said of first steps, unless the constants of the file leave no doubt."""


def remarks_on(rolled: Sequence[RolledSteps]) -> Iterator[str]:
    """For users: sentences on all recurrences that were written out, one kind after another."""
    yield from (_apart(steps) for steps in rolled if steps.num_apart)
    yield from (_tied(steps) for steps in rolled if steps.over_depth)
    yield from (_left_out(steps) for steps in rolled if steps.num_left_out)
    yield from (_STARTED[steps.start].format(steps.name) for steps in rolled if steps.start in _STARTED)
    yield from _uneven(rolled)
    yield from (_of_several_times(steps.name, *steps.times) for steps in rolled if steps.times)
    yield from (_left_open(steps.name, choice) for steps in rolled for choice in steps.open)


def _apart(steps: RolledSteps) -> str:
    total = steps.num_steps + steps.num_apart
    return (
        f"{steps.name}: of {total} steps the first {steps.num_apart} are computed in another way, and are no "
        "part of the layer: the network begins so, or their constants were folded or rounded apart"
    )


def _tied(steps: RolledSteps) -> str:
    return (
        f"{steps.name}: {steps.num_steps} layers use tensors of equal values, and so are taken for the steps "
        "of one layer, a loop over depth; layers that are copies of one another until they are trained look "
        "the same, for exporters store equal tensors once: give each values of its own to audit them apart"
    )


def _left_out(steps: RolledSteps) -> str:
    return (
        f"{steps.name}: behind its {steps.num_steps} steps another one lacks what nobody reads, such as the "
        "condition that keeps a state: it is no part of the layer"
    )


def _of_several_times(name: str, sequence: str, count: int) -> str:
    return (
        f"{name}: each of its steps reads {count} times of {sequence}: what is computed at one of these "
        f"differs from the next, so {count} times are one step, and radii are those of {count} times together"
    )


def _uneven(rolled: Sequence[RolledSteps]) -> Iterator[str]:
    """Layers of one weight that have nearly as many steps as another: these are steps of one network."""
    for own in rolled:
        alike = [one for one in rolled if one.weight == own.weight and not one.over_depth]
        longest = max(alike, key=lambda one: one.num_steps, default=own)
        missing = longest.num_steps - own.num_steps - own.num_apart
        if not own.over_depth and 0 < missing <= MAX_TRIMMED:
            yield (
                f"{own.name} has {own.num_steps} steps, and {longest.name} of the same weight "
                f"{longest.num_steps}: its first or last ones are computed in another way or read by nothing,"
                " and are no part of the layer"
            )


def _left_open(name: str, choice: OpenChoice) -> str:
    values, other = ", ".join(choice.values), choice.other
    if choice.source is not None and other.after == NO_STATE:
        return (
            f"{name}: nothing in the file tells whether a step hands on {values}, as is assumed, or "
            f"{choice.source}, of which a weight makes it: radii and gains depend on it; "
            f"--state {other.before}:{other.after} takes the other reading"
        )
    if choice.source is not None:
        return (
            f"{name}: nothing in the file tells whether a step hands on {choice.source}, as is assumed, or "
            f"{values}, which is made of that: path counts, gains and radii depend on it; --state "
            f"{other.before}:{other.after} takes the other reading"
        )
    return (
        f"{name}: nothing in the file tells whether {values} is computed at the end of a step, as is "
        "assumed, or at the start of the next one: gains depend on it, and radii where steps differ; "
        f"--state {other.before}:{other.after} takes the other reading"
    )
