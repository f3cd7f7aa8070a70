"""Options of the builders, checked against their signatures; a wrong one is the caller's error."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lsc_graph.errors import UsageError


def require(condition: bool, option: str, got: object, expected: str) -> None:
    """Raise UsageError unless the condition on an option's value holds."""
    if not condition:
        raise UsageError(
            "An option of the model is out of range", where=option, got=repr(got), expected=expected
        )


def pick(word: str, known: Iterable[str], what: str) -> str:
    """The word itself, if it is known.

    Raises:
        UsageError: it is not; the message says which one was probably meant.
    """
    choices = list(known)
    if word in choices:
        return word
    near = get_close_matches(word, choices, n=1)
    raise UsageError(
        f"There is no such {what}",
        got=repr(word),
        expected="one of " + ", ".join(choices) if choices else "none",
        do=f"did you mean {near[0]}?" if near else None,
    )


def checked_options(
    builder: Callable[..., object], fixed: Mapping[str, object], given: Mapping[str, object]
) -> dict[str, object]:
    """All options of a builder: fixed ones, given ones (checked), and defaults.

    Raises:
        UsageError: an option is unknown, fixed by the model's name, or has no fitting value.
    """
    parameters = list(inspect.signature(builder).parameters.values())[1:]
    hints = get_type_hints(builder)
    defaults = {p.name: p.default for p in parameters if p.name not in fixed}
    for option in given:
        pick(option, defaults, "option of this model")
    values = {name: given.get(name, default) for name, default in defaults.items()}
    return {**{n: _checked(n, hints[n], v, defaults[n]) for n, v in values.items()}, **fixed}


def _checked(option: str, hint: Any, value: Any, default: Any) -> object:
    if get_origin(hint) is Literal:
        return pick(str(value), get_args(hint), f"value of {option}")
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(pick(str(value), [str(member) for member in hint], f"value of {option}"))
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number and math.isfinite(value), option, value, "a finite number")
        return float(value)
    least = min(default, 1)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(is_count, option, value, f"a whole number, at least {least}")
    return value
