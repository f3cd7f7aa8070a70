"""Given data is used as it is laid out; the rest is synthetic and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lsc_graph.errors import UsageError
from lsc_graph.running.inputs import Domain, InputPlan, OpenInput
from lsc_graph.running.sampling import Sample, make_samples, read_data, shape_from_data

X = OpenInput("x", np.dtype(np.float32), (1, 3))
STATE = OpenInput("h", np.dtype(np.float32), (1, 2))
PLAN = InputPlan({"x": (1, 3), "h": (1, 2)}, {}, (X, STATE))


def samples(
    data: dict[str, np.ndarray], num_steps: int | None = 4, num_samples: int = 2
) -> tuple[Sample, ...]:
    return make_samples(
        PLAN,
        data=data,
        fixed={},
        domains={"x": Domain(None, ""), "h": Domain(None, "")},
        carried=["h"],
        num_steps=num_steps,
        num_samples=num_samples,
        seed=0,
    )


def test_synthetic_samples_differ_from_each_other_and_are_the_same_each_time() -> None:
    first, again = samples({}), samples({})
    assert first[0].inputs["x"].shape == (4, 1, 3)
    np.testing.assert_array_equal(first[0].inputs["x"], again[0].inputs["x"])
    assert not np.array_equal(first[0].inputs["x"], first[1].inputs["x"])
    assert not first[0].initial["h"].any()


@pytest.mark.parametrize("shape", [(2, 4, 1, 3), (4, 1, 3), (1, 3)])
def test_leading_axes_are_samples_then_time(shape: tuple[int, ...]) -> None:
    data = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    found = samples({"x": data})
    assert all(sample.inputs["x"].shape == (4, 1, 3) for sample in found)
    assert found[1].inputs["x"].dtype == np.float32
    expected = data[1] if len(shape) == 4 else np.broadcast_to(data, (4, 1, 3))
    np.testing.assert_array_equal(found[1].inputs["x"], expected)


def test_states_may_be_given_too() -> None:
    found = samples({"h": np.ones((1, 2))})
    np.testing.assert_array_equal(found[0].initial["h"], np.ones((1, 2)))


def test_too_few_samples_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer samples"):
        samples({"x": np.zeros((1, 4, 1, 3))}, num_samples=2)
    with pytest.raises(UsageError, match="fewer steps") as caught:
        samples({"x": np.zeros((2, 1, 3))})
    assert caught.value.do is not None
    assert "--steps 2" in caught.value.do
    with pytest.raises(UsageError, match="wrong shape"):
        samples({"x": np.zeros((4, 2, 3))})
    with pytest.raises(UsageError, match="wrong rank"):
        shape_from_data(X, np.zeros(3))


def test_archives_are_read_and_other_files_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    assert read_data(tmp_path / "data.npz")["x"].tolist() == [1, 1, 1]
    (tmp_path / "bad.npz").write_text("no archive")
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(UsageError, match="npz"):
            read_data(tmp_path / name)
