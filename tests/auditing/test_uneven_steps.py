"""A layer that is a step short of the one that it reads is named, whatever the reason is."""

from __future__ import annotations

import pytest
import torch

from lsc_graph import audit

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
