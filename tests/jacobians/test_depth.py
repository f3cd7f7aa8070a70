"""Rounding connects no times: a convolution by Fourier transforms is as causal as when it is written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lsc_graph.audit_model import audit
from lsc_graph.jacobians.cell import MAX_BATCH_BYTES
from lsc_graph.jacobians.depth import Glue, Port, time_pairs
from lsc_graph.results import Analysis
from lsc_graph.to_torch.loop import SiteModule

T, H = 16, 6


class LongConvolution(nn.Module):
    """A causal convolution as long as the sequence [B, T, H], as in S4, with a residual connection."""

    def __init__(self, by_fourier: bool) -> None:
        super().__init__()
        decay = torch.rand(H, 1) * 0.5 + 0.1
        self.kernel = nn.Parameter(torch.randn(H, 1) * torch.exp(-decay * torch.arange(T)))
        self.by_fourier = by_fourier

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2)
        if self.by_fourier:
            spectrum = torch.fft.rfft(rows, n=2 * T) * torch.fft.rfft(self.kernel, n=2 * T)
            mixed = torch.fft.irfft(spectrum, n=2 * T)[..., :T]
        else:
            padded = functional.pad(rows, (T - 1, 0))
            mixed = functional.conv1d(padded, self.kernel.flip(-1)[:, None], groups=H)
        return x + torch.tanh(mixed.transpose(1, 2))


class Between(nn.Module):
    """The same between two recurrences, or between two linear maps."""

    def __init__(self, by_fourier: bool, recurrent: bool) -> None:
        super().__init__()
        first, last = (nn.GRU(H, H, batch_first=True) if recurrent else nn.Linear(H, H) for _ in range(2))
        self.first, self.mixed, self.last = first, LongConvolution(by_fourier), last

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        last = self.last(self.mixed(first if isinstance(first, Tensor) else first[0]))
        return last if isinstance(last, Tensor) else last[0]


def audited(by_fourier: bool, recurrent: bool) -> Analysis:
    torch.manual_seed(0)
    x = torch.randn(1, T, H)
    module = Between(by_fourier, recurrent).eval()
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, input_names=["x"])
    assert program is not None
    return audit(program.model_proto, data={"x": x.numpy()}, num_samples=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recurrent", [True, False])
def test_a_convolution_by_fourier_transforms_is_the_convolution(recurrent: bool) -> None:
    fourier, written = (audited(by_fourier, recurrent) for by_fourier in (True, False))
    assert fourier.black_box is None
    assert fourier.grid == written.grid
    assert fourier.grid.num_gradient_paths == (str(T * (T + 1) // 2) if recurrent else "1")
    (mine,), (its,) = fourier.time_parallel, written.time_parallel
    assert (mine.reach, mine.num_steps) == (its.reach, its.num_steps) == (T - 1, T)
    for name in ("equal_gain", "neighbour_gain"):
        assert getattr(mine, name).mean == pytest.approx(getattr(its, name).mean, abs=1e-5)
    for ours, theirs in zip(fourier.layers[1:], written.layers[1:], strict=True):
        assert ours.depth_gain is not None
        assert theirs.depth_gain is not None
        assert ours.depth_gain.mean == pytest.approx(theirs.depth_gain.mean, abs=1e-5)


LONG, WIDTH = 150, 5
GLUES = {
    "equal times": torch.eye(LONG),
    "the other way round": torch.eye(LONG).flip(0),
    "three before": torch.diag(torch.ones(LONG - 3), -3),
    "any order": torch.eye(LONG)[torch.randperm(LONG, generator=torch.Generator().manual_seed(0))],
    "every other one": torch.diag(torch.arange(LONG) % 2.0),
    "one for all": torch.zeros(LONG, LONG).index_fill(1, torch.tensor([7]), 1.0),
    "none": torch.zeros(LONG, LONG),
    "two taps": torch.eye(LONG) + torch.diag(torch.ones(LONG - 1), -1),
    "a block apart": torch.eye(LONG) + torch.diag(torch.ones(LONG - 13), -13),
    "all before": torch.ones(LONG, LONG).tril(),
}


def found_pairs(
    mixing: Tensor, width: int = WIDTH
) -> tuple[dict[str, frozenset[tuple[int, int]]], list[int]]:
    """What is found of a linear map over time from "s" to "y", and how many rows were pulled each time."""
    pulled: list[int] = []

    def pull_rows(glue: Glue, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
        pulled.append(len(cotangents["y"]))
        return {"s": torch.einsum("ts,rtw->rsw", mixing, cotangents["y"])}

    glue = Glue(SiteModule.__new__(SiteModule), {"y": torch.zeros(LONG, width)}, dict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsc_graph.jacobians.depth.pull_rows", pull_rows)
        port = Port("slice", "y", "y", 0, False)
        return time_pairs(glue, port, LONG, 0, torch.Generator().manual_seed(0)), pulled


@pytest.mark.parametrize("name", GLUES)
def test_all_pairs_of_many_times_are_found_and_no_others(name: str) -> None:
    pairs, _ = found_pairs(GLUES[name])
    expected = frozenset((source, target) for target, source in GLUES[name].nonzero().tolist())
    assert pairs.get("s", frozenset()) == expected


@pytest.mark.parametrize("name", ["equal times", "the other way round", "three before", "any order"])
def test_many_times_are_told_apart_by_few_derivatives(name: str) -> None:
    assert sum(found_pairs(GLUES[name])[1]) <= 26


@pytest.mark.parametrize("name", ["equal times", "all before"])
def test_derivatives_of_large_values_are_taken_few_at_a_time(name: str) -> None:
    width = 2000
    pairs, pulled = found_pairs(GLUES[name], width)
    assert pairs == found_pairs(GLUES[name])[0]
    assert max(pulled) * LONG * width * 4 * 16 <= MAX_BATCH_BYTES
