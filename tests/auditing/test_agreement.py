"""Models that make rounding errors large are compared by parts; what is wrong is still refused."""

from __future__ import annotations

import onnx
import pytest
import torch
from lsc_graph.models import registry

from lsc_graph import audit
from lsc_graph.errors import RoundingError
from lsc_graph.results import Parity
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


def test_chaos_that_is_not_in_the_weights_is_named() -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        ricker (float[1, 4] x, float[1, 4] h) => (float[1, 4] h_out)
        <float rate = {3.3}, float one = {1}, float small = {0.01}>
        {
            rest = Sub(one, h) scaled = Mul(rate, rest) factor = Exp(scaled) grown = Mul(h, factor)
            push = Tanh(x) some = Mul(push, small) moved = Add(grown, some) h_out = Abs(moved)
        }
        """
    )
    with pytest.raises(RoundingError, match="makes rounding errors so large"):
        parity_of(proto, 60)
