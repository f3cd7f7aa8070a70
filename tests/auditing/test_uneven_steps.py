"""A layer that is a step short of the one that it reads is named, whatever the reason is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from lsc_graph import audit
from lsc_graph.auditing.uneven_steps import uneven_steps
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer
from lsc_graph.prepare import Prepared
from lsc_graph.recurrence.site import StateVariable
from lsc_graph.results import Form

SIZE, T = 4, 6


class Late(torch.nn.Module):
    """Two layers, the upper one of which begins so many steps later."""

    def __init__(self, late: int) -> None:
        super().__init__()
        self.lower, self.upper, self.late = torch.nn.RNNCell(SIZE, SIZE), torch.nn.RNNCell(SIZE, SIZE), late

    def forward(self, x: torch.Tensor, h: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        for time in range(T):
            h = self.lower(x[time], h)
            if time >= self.late:
                g = self.upper(h, g)
        return g


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("late", [0, 1, 3])
def test_layers_with_a_step_fewer_are_named_and_much_shorter_ones_are_not(late: int) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(T, 1, SIZE), torch.randn(1, SIZE), torch.randn(1, SIZE))
    program = torch.onnx.export(Late(late), inputs, dynamo=True, verbose=False)
    assert program is not None
    found = audit(program.model_proto, num_samples=1)
    assert [recurrence.num_steps for recurrence in found.recurrences] == [T, T - late]
    named = [words for words in found.warnings if "that one is in none of its numbers" in words]
    assert len(named) == (late == 1)
    assert all(
        words.startswith("layer_1 ") and "takes 5 steps beside the 6 of layer_0" in words for words in named
    )


@pytest.mark.parametrize(
    ("words", "is_said"),
    [("b.u: its first step stands apart", True), ("b.u.weight: so", False), ("a.u, b.u2: so", False)],
)
def test_a_shorter_layer_that_a_warning_names_is_not_named_again(words: str, is_said: bool) -> None:
    site = SimpleNamespace(form=Form.UNROLLED)
    state = (StateVariable("h", (1, SIZE), "h", "h", None, None),)
    lower = Layer("layer_0", "a.u", None, state, SIZE, 1)
    upper = Layer("layer_1", "b.u", None, state, SIZE, 1, num_steps=5)
    cells = CellGraph((lower, upper), (DepthEdge("layer_0", "layer_1"),), T)
    own = [(SimpleNamespace(layer=layer),) for layer in (lower, upper)]
    findings = SimpleNamespace(sites=[site, site], warnings=(words,))
    found = uneven_steps(cast(Prepared, SimpleNamespace(findings=findings, cells=own)), cells)
    assert (found == ()) is is_said
