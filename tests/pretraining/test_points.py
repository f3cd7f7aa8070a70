"""Fresh samples, synthetic and from given data."""

from __future__ import annotations

import numpy as np
import pytest
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.pretraining.points import Points


def points(data: dict[str, np.ndarray], name: str = "gru") -> Points:
    return Points(prepare(build(name), Request(8, {}, {}, (), data)), data)


def test_the_same_seed_gives_the_same_samples_and_another_one_others() -> None:
    source = points({})
    first, again, other = (source.draw(seed, 2)[1].inputs["x"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_given_data_are_chosen_from_without_repeats_until_there_are_no_more() -> None:
    data = {"x": np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((8, 1, 8), np.float32)}
    source = points(data)
    seen = [float(sample.inputs["x"].flat[0]) for sample in source.draw(3, 5)]
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert len(source.draw(3, 9)) == 9


def test_inputs_are_chosen_together() -> None:
    data = {
        "x": np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((8, 1, 8), np.float32),
        "h_0": np.zeros((4, 2, 1, 16), np.float32),
    }
    name = next(n for n in ("lstm",))
    with pytest.raises(UsageError, match="different number of samples"):
        points(data, name)


def test_the_digest_is_that_of_the_data() -> None:
    one, other = ({"x": np.full((3, 8, 1, 8), v, np.float32)} for v in (1.0, 2.0))
    assert points(one).digest(0) == points(one).digest(7) != points(other).digest(0)
    assert points({}).digest(0) == points({}).digest(0) != points({}).digest(1)
