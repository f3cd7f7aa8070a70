"""Audits and fits keep to the device that they are asked for: no operator takes tensors of two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fake_device import NAME, FakeDevice, Held
from lsc_graph.models.registry import build

from lsc_graph import audit_model
from lsc_graph.audit_model import audit
from lsc_graph.pretraining import job
from lsc_graph.pretraining.pretrain_model import pretrain

SIZES = {"feed_forward_relu": {"num_layers": 4}, "residual_mlp": {"num_layers": 3}}


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """A device that is none stands for every one that is asked for."""
    for module in (audit_model, job):
        monkeypatch.setattr(module, "device_of", lambda _: NAME)
    with FakeDevice() as device:
        yield device


@pytest.mark.parametrize("name", ["gru", "lstm", "feed_forward_relu", "residual_mlp"])
def test_audits(name: str, device: FakeDevice) -> None:
    num_steps = None if name in SIZES else 5
    audit(build(name, **SIZES.get(name, {})), num_steps=num_steps, num_samples=1, black_box="never")
    assert device.waits.total() > 0


@pytest.mark.parametrize("name", ["gru", "lru", "slstm", "feed_forward_relu"])
def test_fits(name: str, device: FakeDevice) -> None:
    num_steps = None if name in SIZES else 5
    pretrain(build(name, **SIZES.get(name, {})), num_steps=num_steps, max_iterations=2)
    assert device.waits.total() > 0


def test_tensors_of_two_devices_are_told_apart() -> None:
    with pytest.raises(RuntimeError, match="two devices"):
        Held(torch.ones(2)) + torch.ones(2)
