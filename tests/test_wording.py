"""Words that several messages are made of."""

from __future__ import annotations

from lsc_graph.wording import few


def test_the_first_of_many_words_stand_for_all() -> None:
    assert few("abc") == "a, b, c"
    assert few("abcd") == "a, b, c, ..."
    assert few([1, 2], most=1, separator="; ") == "1; ..."
    assert few([]) == ""
