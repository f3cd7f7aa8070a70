"""Audits and fits keep to the device that they are asked for, and find there what they find on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import torch
from delayed_models import DELAYED, D
from fake_device import NAME, FakeDevice, Held
from lsc_graph.models.forms import in_form
from lsc_graph.models.registry import build
from parsed_models import saturated_softmax

from lsc_graph import audit_model
from lsc_graph.audit_model import audit
from lsc_graph.pretraining import job
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.results import Analysis, Form

Found = TypeVar("Found")
T = 5


def delayed(form: Form) -> onnx.ModelProto:
    return in_form(DELAYED["token shift"][0](), form, T)


X = np.random.default_rng(1).standard_normal((1, T, 1, D)).astype(np.float32)
SHAPED: dict[str, Any] = {"data": {"x": X}, "input_shapes": {"x": (T, 1, D)}}
STEPS: dict[str, Any] = {"num_steps": T}
# Models of every kind with what their audits are told.
AUDITED: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any]]] = {
    "lstm": (lambda: build("lstm"), STEPS),
    "bidirectional": (lambda: build("bidirectional_lstm", hidden_size=8), STEPS),
    "scan": (lambda: build("scan_gru"), STEPS),
    "unrolled": (lambda: build("unrolled_gru"), {}),
    "streaming": (lambda: build("streaming_gru"), STEPS),
    "diagonal": (lambda: build("lru"), STEPS),
    "delays in a scan": (lambda: delayed(Form.SCAN), SHAPED),
    "delays, unrolled": (lambda: delayed(Form.UNROLLED), SHAPED),
    "a surrogate": (lambda: build("alif"), {**STEPS, "surrogate": "triangle"}),
    "differences": (lambda: build("gru"), {"num_steps": 3, "black_box": "always"}),
    "a gated form": (lambda: build("lstm", hidden_size=48), {"num_steps": 3}),
    "wide": (lambda: build("tanh_rnn", hidden_size=200, num_layers=2), {"num_steps": 3}),
    "a chain": (lambda: build("feed_forward_relu", num_layers=4), {}),
    "a wide chain": (lambda: build("feed_forward_relu", num_layers=2, hidden_size=200), {}),
    "in double precision": (saturated_softmax, {"num_steps": 8}),
    "a residual chain": (lambda: build("residual_mlp", num_layers=3), {}),
}
FITTED: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any]]] = {
    "gru, rescale": (lambda: build("gru"), STEPS),
    "gru, gradient": (lambda: build("gru"), {**STEPS, "method": "gradient", "max_iterations": 2}),
    "lstm": (lambda: build("lstm", hidden_size=8), STEPS),
    "a scan": (lambda: build("slstm", hidden_size=8), STEPS),
    "delays": (lambda: delayed(Form.SCAN), SHAPED),
    "a surrogate": (lambda: build("alif", hidden_size=8), {**STEPS, "surrogate": "triangle"}),
    "a chain": (lambda: build("feed_forward_relu", num_layers=3, hidden_size=16), {}),
}


def on_device(function: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> tuple[Found, FakeDevice]:
    """With a device that is none in place of the one that is asked for."""
    with monkeypatch.context() as patch, FakeDevice() as device:
        for module in (audit_model, job):
            patch.setattr(module, "device_of", lambda _: NAME)
        return function(), device


def numbers(analysis: Analysis) -> list[float]:
    """Means of radii and gains of all layers and edges, and the measured growth."""
    owners = [*analysis.layers, *(edge for layer in analysis.layers for edge in layer.depth_edges)]
    names = ("time_radius", "time_gain", "radius", "gain", "norm")
    found = [getattr(owner, name, None) for owner in owners for name in names]
    growth = [point.measured_log10 for point in analysis.growth.table]
    return [own.mean for own in found if own is not None] + [own for own in growth if own is not None]


@pytest.mark.parametrize("name", AUDITED)
def test_audits_find_the_numbers_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, given = AUDITED[name]
    model = make()
    found, device = on_device(lambda: audit(model, num_samples=1, **given), monkeypatch)
    cpu = audit(model, num_samples=1, device="cpu", **given)
    assert device.waits.total() > 0
    assert found.verdict.label == cpu.verdict.label
    assert numbers(found) == pytest.approx(numbers(cpu), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("method", ["dense", "squaring", "powers", "arnoldi"])
def test_audits_by_every_estimator(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gru", hidden_size=24)
    found, _ = on_device(lambda: audit(model, num_steps=3, num_samples=1, radius_method=method), monkeypatch)
    cpu = audit(model, num_steps=3, num_samples=1, device="cpu")
    assert {name for own in found.radii if own.source == own.target for name in own.methods} == {method}
    assert numbers(found) == pytest.approx(numbers(cpu), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("name", FITTED)
def test_fits_go_as_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, given = FITTED[name]
    model = make()
    given = {"max_iterations": 1, **given}
    found, device = on_device(lambda: pretrain(model, **given), monkeypatch)
    cpu = pretrain(model, device="cpu", **given)
    assert device.waits.total() > 0
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert any((value != before[key]).any() for key, value in found.named.items() if key in before)
    for key, value in cpu.named.items():
        np.testing.assert_allclose(found.named[key], value, atol=2e-4, rtol=1e-3)


def test_tensors_of_two_devices_are_told_apart() -> None:
    with FakeDevice(), pytest.raises(RuntimeError, match="two devices"):
        Held(torch.ones(2)) + torch.ones(2)


def test_modules_that_share_a_parameter_share_it_on_the_device() -> None:
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.weight = kept = one.weight
    with FakeDevice():
        torch.nn.ModuleList([one, other]).to(NAME)
    assert one.weight is other.weight is kept
    assert isinstance(kept, Held)


@pytest.mark.parametrize("name", ["lstm", "streaming_gru", "scan_gru"])
def test_the_host_does_not_wait_more_often_for_more_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes stay on the host, and what is compared or judged comes over together."""
    counts = []
    for num_steps in (4, 11):
        _, device = on_device(
            lambda steps=num_steps: audit(build(name), num_steps=steps, num_samples=2), monkeypatch
        )
        counts.append(device.waits.total())
    assert counts[0] == counts[1] < 90, counts
