"""Words that several messages are made of."""

from __future__ import annotations

from collections.abc import Iterable


def few(words: Iterable[object], most: int = 3, separator: str = ", ") -> str:
    """The first of many words, and dots for the others."""
    every = [str(word) for word in words]
    return separator.join([*every[:most], *(["..."] if len(every) > most else [])])
