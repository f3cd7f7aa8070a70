"""A time after which a measurement is given up: what takes long asks for it now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lsc_graph.errors import TimeLimitError

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Give up what is done within after this time, by `time.perf_counter`; None: never."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def in_time() -> None:
    """Go on.

    Raises:
        TimeLimitError: the time is over.
    """
    deadline = _DEADLINE.get()
    if deadline is not None and time.perf_counter() > deadline:
        raise TimeLimitError(
            "No sample could be measured in the time that was allowed",
            got="a first sample that needs more",
            do="allow more time (--max-seconds), or fewer --steps",
        )
