"""Names, options and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from lsc_graph import models
from lsc_graph.errors import UsageError


@pytest.mark.parametrize("call", [models.build, models.card, models.options_of])
def test_an_unknown_name_is_answered_with_the_one_that_was_meant(call: Callable[[str], object]) -> None:
    with pytest.raises(UsageError) as caught:
        call("bidirectional_lstn")
    assert "'bidirectional_lstn'" in str(caught.value)
    assert "did you mean bidirectional_lstm?" in str(caught.value)


def test_a_name_like_no_other_gets_the_whole_list() -> None:
    with pytest.raises(UsageError) as caught:
        models.build("qqq")
    assert ", ".join(models.names()) in str(caught.value)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gru", {"hiden_size": 3}, "did you mean hidden_size?"),
        ("lru", {"form": "streming"}, "did you mean streaming?"),
        ("lru", {"form": "fused_op"}, "one of streaming, scan, loop, unrolled"),
        ("tanh_rnn", {"initial_state": "zeroes"}, "did you mean zeros?"),
        ("tanh_rnn", {"activation": "Relu"}, "no such option"),
        ("gru", {"num_layers": 0}, "at least 1"),
        ("gru", {"num_layers": True}, "whole number"),
        ("gru", {"hidden_size": 2.5}, "whole number"),
        ("feed_forward_sin", {"output_size": -1}, "at least 0"),
        ("pascal_rnn", {"radius": float("nan")}, "finite number"),
        ("pascal_rnn", {"radius": "big"}, "finite number"),
        ("pascal_rnn", {"radius": -0.5}, "at least 0"),
        ("linear_orthogonal_rnn", {"depth_radius": -1}, "at least 0"),
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "r_min < r_max"),
        ("alif", {"voltage_decay": 1.0}, "below 1"),
        ("alif", {"sharpness": 3.0}, "no such option"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_do(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        models.build(name, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        models.build("gru", seed)


@pytest.mark.parametrize("name", models.names())
def test_listed_options_with_their_defaults_build_the_default_model(name: str) -> None:
    options = models.options_of(name)
    assert models.build(name, **options) == models.build(name)
    assert models.card(name, **options) == models.card(name)


def test_the_zoo_is_written_one_valid_file_per_name(tmp_path: Path) -> None:
    paths = models.write_zoo(tmp_path / "new" / "zoo")
    assert [path.name for path in paths] == [f"{name}.onnx" for name in models.names()]
    assert sorted((tmp_path / "new" / "zoo").iterdir()) == sorted(paths)
    for name, path in zip(models.names(), paths, strict=True):
        onnx.checker.check_model(str(path))
        assert onnx.load(path) == models.build(name)


def test_writing_again_replaces_with_the_same_bytes_and_another_seed_with_others(tmp_path: Path) -> None:
    (path,) = models.write_zoo(str(tmp_path), ["lru", "lru"], seed=3)
    first = path.read_bytes()
    models.write_zoo(tmp_path, ["lru"], seed=3)
    assert path.read_bytes() == first
    models.write_zoo(tmp_path, ["lru"], seed=4)
    assert path.read_bytes() != first


def test_one_wrong_name_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model"):
        models.write_zoo(tmp_path / "zoo", ["gru", "grru"])
    assert not (tmp_path / "zoo").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = models.write_zoo(tmp_path, ["gru"])
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="cannot be written") as caught:
        models.write_zoo(tmp_path, ["gru"], seed=1)
    assert "No space left on device" in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_the_folder_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "zoo").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        models.write_zoo(tmp_path / "zoo", ["gru"])
