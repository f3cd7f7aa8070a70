"""Which steps are looked at."""

from __future__ import annotations

from lsc_graph.pretraining.spread_times import spread_times


def test_steps_are_spread_over_the_whole_sequence() -> None:
    for index in range(6):
        times = spread_times(100, 5, 0, index)
        assert [time // 20 for time in times] == [0, 1, 2, 3, 4]
        assert spread_times(3, 8, 0, index) == [0, 1, 2]
    pair = [spread_times(100, 5, 7, index) for index in (0, 1)]
    assert [99 - time for time in reversed(pair[0])] == pair[1]
    assert spread_times(100, 5, 7, 0) != spread_times(100, 5, 8, 0)
