"""Layers that outputs are computed from past the last one are named in whatever form; joined ones are not."""

from __future__ import annotations

import onnx
import pytest
import torch
from delayed_models import FORMS, D, H, Writer, asked
from lsc_graph.models import registry
from lsc_graph.models.forms import Step
from torch import Tensor, nn

from lsc_graph.audit_model import audit, inspect


def two_layers(way: str) -> Step:
    """Two Elman layers; y is what `way` says of them."""
    net = Writer()
    lower = net.gate("Tanh", ("x", D), ("h0", H))
    upper = net.gate("Tanh", (lower, H), ("h1", H))
    net.kept("h0", lower, H)
    net.kept("h1", upper, H)
    if way == "joined":
        return net.step(net.new("Concat", lower, upper, axis=1), 2 * H)
    if way == "residual":
        return net.step(net.sum_of(upper, net.new("Gemm", lower, net.drawn(H, H))))
    return net.step(net.new("Relu", upper))


def bypassed(warnings: tuple[str, ...]) -> list[str]:
    return [text for text in warnings if "past the last layer" in text]


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_behind_a_residual_way_is_named(form: str) -> None:
    found = inspect(FORMS[form](two_layers("residual")), **asked(form))
    (warning,) = bypassed(found.warnings)
    layer, output = found.layers[0], "all_y" if "dynamo" in form else "y"
    assert warning.startswith(f"{layer.id} ({layer.name}): also reached from {output} past the last layer")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["plain", "joined"])
def test_none_is_where_outputs_are_those_of_the_last_layer_or_of_each_by_itself(form: str, way: str) -> None:
    assert bypassed(inspect(FORMS[form](two_layers(way)), **asked(form)).warnings) == []


class Stack(nn.Module):
    """Recurrent layers under a head, whose states are outputs, too."""

    def __init__(self, *, is_residual: bool) -> None:
        super().__init__()
        self.lower, self.upper = (nn.LSTM(size, H, batch_first=True) for size in (D, H))
        self.head, self.is_residual = nn.Linear(H, 2), is_residual

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        below, (h, _) = self.lower(x)
        above, (g, _) = self.upper(below)
        return self.head(above + below if self.is_residual else above), torch.cat([h, g])


@pytest.mark.parametrize("is_residual", [False, True])
def test_the_same_holds_of_recurrent_operators_with_their_last_states(*, is_residual: bool) -> None:
    program = torch.onnx.export(
        Stack(is_residual=is_residual).eval(), (torch.randn(1, 5, D),), dynamo=True, verbose=False
    )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    assert len(bypassed(audit(proto, num_samples=1).warnings)) == is_residual


def test_feed_forward_blocks_hold_their_residual_ways_themselves() -> None:
    assert bypassed(inspect(registry.build("residual_mlp")).warnings) == []
