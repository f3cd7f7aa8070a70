"""Interrupted fits go on as if nothing had happened."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError
from lsc_graph.pretraining import methods
from lsc_graph.pretraining.checkpoint import Checkpoint, code_version
from lsc_graph.pretraining.fit import Fit, Progress
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.methods import State
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained

OPTIONS = {"num_steps": 8, "tolerance": 0.002, "max_iterations": 4}


@pytest.mark.parametrize("method", ["rescale", "gradient", "paper", "both"])
def test_a_fit_that_was_interrupted_ends_with_the_same_weights(method: str, tmp_path: Path) -> None:
    if method == "paper":
        pytest.importorskip("pytorch_optimizer")
    model, file = build("gru"), tmp_path / "fit.ckpt"
    whole = pretrain(model, method=method, **OPTIONS)

    def interrupt(progress: Progress) -> None:
        if progress.iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(model, method=method, checkpoint=file, progress=interrupt, **OPTIONS)
    assert file.exists()
    seen: list[int] = []
    resumed = pretrain(
        model,
        method=method,
        checkpoint=file,
        resume=True,
        progress=lambda progress: seen.append(progress.iteration),
        **OPTIONS,
    )
    assert seen[0] == 3
    assert resumed.report.iterations == whole.report.iterations
    for name, value in whole.named.items():
        np.testing.assert_array_equal(resumed.named[name], value)
    assert not file.exists()


def test_what_readings_know_of_matrices_is_kept() -> None:
    """Ranges that are found anew are rounded otherwise, and so are the weights."""
    model = build("lru", num_layers=3, hidden_size=32)
    files: list[bytes] = []

    def keep(state: State) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        files.append(file.getvalue())

    def fitted(state: State | None) -> list[torch.Tensor]:
        problem = prepare_job(model, Wish("half"), num_steps=8).problem
        values = as_trained(problem.weights)
        return list(methods.fit(problem, "rescale", values, 4, lambda _: None, keep, state).values)

    whole = fitted(None)
    again = fitted(torch.load(io.BytesIO(files[-1]), weights_only=True))
    assert all(map(torch.equal, again, whole))


def test_a_polish_that_was_interrupted_knows_what_the_fit_before_it_did_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = prepare_job(build("gru"), Wish("half"), tolerance=1e-4, num_steps=4).problem
    values, reasons = as_trained(problem.weights), dict.fromkeys(problem.targets, "held")
    stuck = Fit(values, 2, False, 50.0, "stuck", reasons)
    monkeypatch.setattr(methods, "rescale_with_restarts", lambda *_: stuck)
    states: list[State] = []
    methods.fit(problem, "both", values, 3, lambda _: None, states.append)
    resumed = methods.fit(problem, "both", values, 4, lambda _: None, None, states[0])
    assert (resumed.iterations, resumed.reasons) == (4, reasons)
    assert resumed.seconds > 50


def test_a_checkpoint_of_another_request_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fit.ckpt"
    Checkpoint(file, {"seed": 1}).save({"iterations": 2})
    assert Checkpoint(file, {"seed": 1}).load() == {"iterations": 2}
    with pytest.raises(UsageError, match="another request"):
        Checkpoint(file, {"seed": 2}).load()


def test_a_checkpoint_of_another_model_with_the_same_weights_is_refused(tmp_path: Path) -> None:
    model, file = build("tanh_rnn"), tmp_path / "fit.ckpt"
    exactly = OPTIONS | {"tolerance": 1e-4}
    pretrain(model, checkpoint=file, keep_checkpoint=True, **exactly)
    assert file.exists()
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for attribute in (a for node in other.graph.node for a in node.attribute if a.name == "activations"):
        attribute.strings[0] = b"Softsign"
    with pytest.raises(UsageError, match="another request"):
        pretrain(other, checkpoint=file, resume=True, **exactly)


@pytest.mark.parametrize("earlier", [1, "0.0.1, code 00000000"])
def test_a_checkpoint_of_another_version_is_refused_with_the_way_out(
    tmp_path: Path, earlier: int | str
) -> None:
    file = tmp_path / "fit.ckpt"
    Checkpoint(file, {}).save({"iterations": 2})
    torch.save(torch.load(file) | {"version": earlier}, file)
    with pytest.raises(UsageError, match="another version") as caught:
        Checkpoint(file, {}).load()
    assert f"version {earlier}" in str(caught.value)
    assert code_version() in str(caught.value)
    assert "remove the file" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "fit.ckpt"
    file.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read"):
        Checkpoint(file, {}).load()


@pytest.mark.parametrize("content", [torch.zeros(3), [1], {"state": 1}])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(UsageError, match="cannot be read"):
        Checkpoint(file, {}).load()


@pytest.mark.parametrize("is_resumed", [False, True])
def test_another_file_is_not_written_over_by_a_checkpoint(tmp_path: Path, is_resumed: bool) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="another file"):
        pretrain(build("gru"), checkpoint=file, resume=is_resumed, **OPTIONS)
    assert file.read_bytes() == b"not a checkpoint"


def test_a_folder_that_is_not_there_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder for the checkpoint"):
        pretrain(build("gru"), checkpoint=tmp_path / "no" / "fit.ckpt", **OPTIONS)


def test_a_checkpoint_can_be_kept_for_what_follows_the_fit(tmp_path: Path) -> None:
    file = tmp_path / "fit.ckpt"
    first = pretrain(build("gru"), checkpoint=file, keep_checkpoint=True, **OPTIONS)
    again = pretrain(build("gru"), checkpoint=file, resume=True, **OPTIONS)
    for name, value in first.named.items():
        np.testing.assert_array_equal(again.named[name], value)
    assert not file.exists()


def test_no_file_means_a_fresh_start(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "none", {}).load() is None
