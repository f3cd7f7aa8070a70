"""Models that make rounding errors large are compared by parts; what is wrong is still refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models import registry
from onnx import numpy_helper

from lsc_graph import audit
from lsc_graph.auditing.agreement import Agreement
from lsc_graph.auditing.measure import measured_model
from lsc_graph.errors import RoundingError
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.results import Parity
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch import loop, program
from lsc_graph.to_torch.black_parts import Parts
from lsc_graph.to_torch.segment import Segment
from tests.scaled_models import with_scaled_weights

NUM_STEPS = 30
FORMS = ["gru", "streaming_gru", "scan_gru", "loop_gru", "unrolled_gru"]


def chaotic_gru(name: str = "gru") -> onnx.ModelProto:
    options: dict[str, object] = {"num_steps": NUM_STEPS} if name == "unrolled_gru" else {}
    return with_scaled_weights(name, 60, hidden_size=12, **options)


def parity_of(proto: onnx.ModelProto, num_steps: int | None = NUM_STEPS) -> Parity:
    return audit(proto, num_steps=num_steps, num_samples=1, black_box="never").parity


@pytest.mark.parametrize("name", FORMS)
def test_a_chaotic_model_is_compared_by_parts_in_every_form(name: str) -> None:
    parity = parity_of(chaotic_gru(name), None if name == "unrolled_gru" else NUM_STEPS)
    assert parity.rounding is not None
    assert parity.max_abs_error < 1e-3
    assert parity.num_values > NUM_STEPS


@pytest.mark.parametrize(("scale", "seed"), [(30, 1), (40, 2), (60, 1)])
def test_a_model_at_the_edge_of_chaos_is_audited(scale: float, seed: int) -> None:
    """Where rounding of the inputs dies away, but not that of the steps; and where it moves the gradient."""
    proto = with_scaled_weights("gru", scale, hidden_size=10)
    found = audit(proto, num_steps=40, num_samples=1, seed=seed, black_box="never")
    assert found.layers[0].time_radius is not None


def test_a_chaotic_model_of_half_precision_is_compared_by_parts() -> None:
    """Its weights are rounded to fewer digits than those of others."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float16[1, 16] x, float16[1, 16] h) => (float16[1, 16] h_out)
        { p = MatMul(h, w) q = Add(p, x) h_out = Tanh(q) }"""
    )
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float16)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    assert parity_of(proto, 60).rounding is not None


def test_a_calm_model_is_compared_in_whole_runs() -> None:
    assert parity_of(registry.build("gru")).rounding is None


def test_an_operator_that_torch_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where values are large: with smaller weights it would not show."""
    real = Segment._computed

    def wrong(self: Segment, *values: torch.Tensor) -> object:
        found = real(self, *values)
        if isinstance(self.module, Parts):
            return found
        values = found if isinstance(found, tuple) else (found,)
        return tuple(torch.where(own.abs() > 0.9, own * 0.99, own) for own in values)

    monkeypatch.setattr(Segment, "_computed", wrong)
    with pytest.raises(RoundingError):
        parity_of(chaotic_gru("scan_gru"))


def test_parts_that_are_put_together_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them still computes what it should from what it is given."""
    real = loop.slices_of

    def backwards(*given: object, is_reverse: bool) -> torch.Tensor:
        return real(*given, is_reverse=not is_reverse)

    monkeypatch.setattr(program, "slices_of", backwards)
    with pytest.raises(RoundingError):
        parity_of(chaotic_gru("scan_gru"))


def deep_sines(gain: float, num_layers: int, size: int = 24) -> onnx.ModelProto:
    """Layers without biases: weights that are much smaller leave nothing of what goes in."""
    names = ["x", *(f"h{layer}" for layer in range(num_layers - 1)), "y"]
    steps = [f"p{i} = MatMul({names[i]}, w{i}) {names[i + 1]} = Sin(p{i})" for i in range(num_layers)]
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, {size}] x) => (float[1, {size}] y) {{ {" ".join(steps)} }}"""
    )
    random = np.random.default_rng(0)
    for layer in range(num_layers):
        weights = gain / size**0.5 * random.standard_normal((size, size))
        proto.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), f"w{layer}"))
    return proto


@pytest.mark.parametrize("gain", [4, 40])
def test_a_chaotic_deep_network_is_compared_by_blocks(gain: float) -> None:
    assert parity_of(deep_sines(gain, 20), None).rounding is not None


@pytest.mark.parametrize("layer", [5, 15])
def test_deep_blocks_that_are_put_together_otherwise_are_refused(
    layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where much smaller weights would leave nothing to be seen of it."""

    def otherwise(self: program.ChainProgram, inputs: dict[str, torch.Tensor]) -> program.Run:
        value, boundaries = inputs["x"], []
        for number, block in enumerate(self.blocks[:-1]):
            (value,) = block(value.flip(1) if number == layer else value)
            value = loop.own_tensor(value)
            boundaries.append(value)
        return program.Run({"y": self.blocks[-1](value)[0]}, boundaries=tuple(boundaries))

    model = measured_model(
        prepare(deep_sines(4, 20), Request(None, {}, {}, (), {})), "cpu", torch.Generator()
    )
    monkeypatch.setattr(program.ChainProgram, "forward", otherwise)
    sample = Sample({"x": np.random.default_rng(0).standard_normal((1, 24)).astype(np.float32)}, {})
    with torch.no_grad(), pytest.raises(RoundingError):
        Agreement(model).compare(sample, model.run(sample))
