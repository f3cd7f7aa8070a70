"""Torch modules pre-trained in place; radii measured by autograd on the module's own cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

import lsc_graph
from lsc_graph.errors import AnalysisError, UsageError, VerificationError
from lsc_graph.pretraining.fit import Progress
from lsc_graph.writeback.parameter_map import ParameterMap, exported, exported_with_own, floats

D, H, T = 6, 12, 10
Cell = Callable[[Tensor, Tensor], Tensor]


class Stack(nn.Module):
    """Two layers of one of torch's recurrent modules, with dropout in training, and a read-out."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(D, H, 2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(H, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])

    def cells(self) -> list[Cell]:
        """torch's own cells with this module's parameters, states joined: (input, state) -> state."""
        return [self._cell(layer) for layer in range(2)]

    def _cell(self, layer: int) -> Cell:
        weights = self.rnn._all_weights[layer]
        parameters = [getattr(self.rnn, name) for name in weights]
        if isinstance(self.rnn, nn.LSTM):
            return lambda x, s: torch.cat(torch.lstm_cell(x, s.split(H, 1), *parameters), 1)
        cell = torch.gru_cell if isinstance(self.rnn, nn.GRU) else torch.rnn_tanh_cell
        return lambda x, s: cell(x, s, *parameters)


class Loop(nn.Module):
    """Two layers of different cells in a Python loop, one weight used transposed, one parameter frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, H)
        self.mix = nn.Parameter(torch.randn(H, H) / H**0.5)
        self.gate, self.up = nn.Linear(H, H), nn.Linear(H, H)
        self.scale = nn.Parameter(torch.full((H,), 0.9), requires_grad=False)

    def cells(self) -> list[Cell]:
        return [self._lower, self._upper]

    def _lower(self, x: Tensor, s: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + s @ self.mix)

    def _upper(self, x: Tensor, s: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(s))
        return self.scale * z * s + (1 - z) * torch.tanh(self.up(x) + s)

    def forward(self, x: Tensor) -> Tensor:
        low = high = x.new_zeros(x.shape[0], H)
        rows = []
        for time in range(x.shape[1]):
            low = self._lower(x[:, time], low)
            high = self._upper(low[:, :H], high)
            rows.append(high)
        return torch.stack(rows, 1)


def radii(cells: Sequence[Cell], samples: int, seed: int) -> dict[str, float]:
    """Mean spectral radii of d state / d state before, and of d h / d h below, over samples and steps."""
    x = torch.randn(samples, T, D, generator=torch.Generator().manual_seed(seed))
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        width = cells[0](x[:, 0], torch.zeros(samples, 2 * H)).shape[1] if _is_lstm(cells[0]) else H
        states = [torch.zeros(samples, width) for _ in cells]
        for time in range(T):
            below = x[:, time]
            for layer, cell in enumerate(cells):
                before = states[layer]
                for kind, matrix in _jacobians(cell, below, before):
                    if (kind == "time" and time) or (kind == "depth" and layer):
                        found.setdefault(f"{kind} {layer}", []).append(_radius(matrix))
                states[layer] = cell(below, before)
                below = states[layer][:, :H]
    return {key: float(torch.cat(values).mean()) for key, values in found.items()}


def _is_lstm(cell: Cell) -> bool:
    try:
        return cell(torch.zeros(1, D), torch.zeros(1, 2 * H)).shape[1] == 2 * H
    except RuntimeError:
        return False


def _jacobians(cell: Cell, x: Tensor, s: Tensor) -> Iterator[tuple[str, Tensor]]:
    def one(a: Tensor, b: Tensor) -> Tensor:
        return cell(a[None], b[None])[0]

    yield "time", vmap(jacrev(one, 1))(x, s)
    depth = vmap(jacrev(one, 0))(x, s)
    if depth.shape[2] == H:
        yield "depth", depth[:, :H]


def _radius(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Stack(nn.LSTM),
    "gru": lambda: Stack(nn.GRU),
    "rnn": lambda: Stack(nn.RNN),
    "loop": Loop,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "radius"),
    [("lstm", "half", 0.5), ("gru", "half", 0.5), ("rnn", "one", 1.0), ("loop", "half", 0.5)],
)
def test_the_modules_own_cells_have_the_target_radii(name: str, target: str, radius: float) -> None:
    torch.manual_seed(0)
    module = MODULES[name]()
    before = radii(module.cells(), 64, 1)
    report = lsc_graph.stabilize(module, torch.randn(1, T, D), target)
    after = radii(module.cells(), 512, 2)
    assert report.is_reached
    assert max(abs(value - radius) for value in before.values()) > 0.1
    assert len(after) == len(report.radii) == 3
    for value in after.values():
        assert value == pytest.approx(radius, abs=0.03)


class BothWays(nn.Module):
    """One layer that reads the sequence forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(D, H, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]

    def cells(self) -> list[Cell]:
        directions = [[getattr(self.rnn, name) for name in names] for names in self.rnn._all_weights]
        return [lambda x, s, own=own: torch.gru_cell(x, s, *own) for own in directions]


@pytest.mark.slow
def test_each_direction_has_the_target_radius() -> None:
    """Independent samples of white noise look the same backwards."""
    torch.manual_seed(0)
    module = BothWays()
    assert min(radii([cell], 64, 1)["time 0"] for cell in module.cells()) > 0.6
    report = lsc_graph.stabilize(module, torch.randn(T, 1, D), "half")
    assert report.is_reached
    for cell in module.cells():
        assert radii([cell], 64, 2)["time 0"] == pytest.approx(0.5, abs=0.03)


def test_parameters_are_changed_in_place_and_frozen_ones_are_not() -> None:
    torch.manual_seed(1)
    module = Loop()
    module.train()
    before = {name: (id(p), p.detach().clone()) for name, p in module.named_parameters()}
    lsc_graph.stabilize(module, torch.randn(1, T, D), "half", freeze=["up.*"], max_iterations=6)
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name][1])}
    assert all(id(p) == before[name][0] for name, p in module.named_parameters())
    assert {"mix", "inner.weight", "gate.weight"} <= changed
    assert not changed & {"scale", "up.weight", "up.bias"}
    assert module.training


class Moved(nn.Module):
    """Parameters that are transposed, split, stacked, shared and computed with before they are used."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 4, dtype=dtype))
        self.b = nn.Parameter(torch.randn(8, 4, dtype=dtype))
        self.g = nn.Parameter(torch.rand(4, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        top, low = self.b.split(4)
        return torch.tanh(torch.tanh(x @ self.a.T) @ torch.stack([top, low])[0] * self.g.exp()) @ self.a


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_map_says_where_every_element_stands(dtype: torch.dtype) -> None:
    module, x = Moved(dtype), torch.zeros(1, 4, dtype=dtype)
    proto = exported(module, (x,))
    found = ParameterMap(module, (x,), None, proto).of_initializer
    flat = np.concatenate([p.detach().double().numpy().ravel() for p in module.parameters()])
    assert sorted({int(i) for indices in found.values() for i in indices.ravel()}) == list(range(52))
    for name, values in floats(proto).items():
        np.testing.assert_array_equal(values, flat[found[name]])


class Computed(nn.Module):
    """A buffer made from a parameter's number at export, which no parameter is a copy of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("fixed", torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x) @ self.fixed))


@pytest.mark.parametrize("kind", [Loop, Computed])
def test_parameters_that_an_export_holds_itself_are_where_the_shuffled_exports_say(
    kind: Callable[[], nn.Module],
) -> None:
    module, x = kind(), torch.zeros((1, 4) if kind is Computed else (1, T, D))
    proto, own = exported_with_own(module, (x,))
    assert own is not None
    asked = ParameterMap(module, (x,), None, proto).of_initializer
    assert own.keys() == asked.keys()
    for name, numbers in own.items():
        np.testing.assert_array_equal(numbers, asked[name])


class Held(nn.Module):
    """h' = tanh(x + c U) with c = tanh(h U); torch exports a copy of U, which a dict holds, for each use."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, H)
        self.u = nn.Parameter(torch.randn(H, H) / H**0.5)
        self.held = {"u": self.u}

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + torch.tanh(h @ self.held["u"]) @ self.held["u"])

    def forward(self, x: Tensor) -> Tensor:
        states, h = list[Tensor](), torch.zeros(1, H)
        for time in range(T):
            h = self.step(x[:, time], h)
            states.append(h)
        return torch.stack(states, 1)


@pytest.mark.slow
def test_a_parameter_of_which_an_export_holds_several_copies_is_trained_as_one() -> None:
    torch.manual_seed(3)
    module, x = Held(), torch.randn(1, T, D)
    assert len(floats(exported(module, (x,)))) > len(floats(exported_with_own(module, (x,))[0]))
    before = module.u.detach().clone()
    report = lsc_graph.stabilize(module, x, "half")
    assert report.is_reached
    assert not torch.equal(module.u, before)
    assert radii([module.step], 64, 2)["time 0"] == pytest.approx(0.5, abs=0.03)


class WithConstant(nn.Module):
    """Adds numbers that happen to be those of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a + torch.tensor([3.0, 1.0])[:1]


def test_numbers_that_may_be_copies_of_parameters_are_asked_for() -> None:
    module, x = WithConstant(), torch.zeros(1, 3)
    proto, own = exported_with_own(module, (x,))
    assert own is None
    assert list(ParameterMap(module, (x,), None, proto, own).of_initializer) == ["a"]


def test_buffers_are_not_trained() -> None:
    torch.manual_seed(2)
    module = Computed()
    fixed = module.get_buffer("fixed").clone()
    report = lsc_graph.stabilize(module, torch.randn(1, 4), max_iterations=3)
    assert "fixed" not in report.trained
    assert torch.equal(module.get_buffer("fixed"), fixed)


def test_an_interrupted_fit_of_a_module_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def module() -> nn.Module:
        torch.manual_seed(2)
        return Computed()

    file, x = tmp_path / "fit.ckpt", torch.randn(1, 4)
    options = {"max_iterations": 4, "tolerance": 1e-3}
    whole = module()
    lsc_graph.stabilize(whole, x, **options)

    def interrupt(progress: Progress) -> None:
        if progress.iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lsc_graph.stabilize(module(), x, checkpoint=file, progress=interrupt, **options)
    assert file.exists()
    resumed, seen = module(), list[int]()
    say = lambda progress: seen.append(progress.iteration)  # noqa: E731
    lsc_graph.stabilize(resumed, x, checkpoint=file, resume=True, progress=say, **options)
    assert seen[0] == 2
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    assert not file.exists()


def test_values_that_are_no_copies_of_parameters_are_refused() -> None:
    module, x = Computed(), torch.zeros(1, 4)
    mapping = ParameterMap(module, (x,), None, exported(module, (x,)))
    with pytest.raises(VerificationError, match="fixed"):
        mapping.loaded(module, {("fixed",): np.ones((4, 4))})
    mapping.of_initializer["twice"] = np.zeros(2, dtype=np.int64)
    with pytest.raises(VerificationError, match="several places"):
        mapping.loaded(module, {("twice",): np.array([1.0, 2.0])})
    assert float(mapping.loaded(module, {("twice",): np.array([3.0, 3.0])})[0].ravel()[0]) == 3


def test_a_module_that_differs_afterwards_gets_its_parameters_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    module = Loop()
    before = [p.detach().clone() for p in module.parameters()]
    loaded = ParameterMap.loaded
    monkeypatch.setattr(ParameterMap, "loaded", lambda *a: [v * 1.01 for v in loaded(*a)])
    with pytest.raises(VerificationError, match="does not export"):
        lsc_graph.stabilize(module, torch.randn(1, 4, D), max_iterations=1)
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_cannot_be_exported_or_has_no_parameters_is_refused() -> None:
    with pytest.raises(AnalysisError, match="does not export"):
        lsc_graph.stabilize(Branching(), torch.randn(2))
    with pytest.raises(UsageError, match="no parameters"):
        lsc_graph.stabilize(nn.Tanh(), torch.randn(2))


class Projecting(nn.Module):
    """ONNX has no LSTM with projections; torch writes a plain one of the wrong sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(D, H, 2, proj_size=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


def test_what_torch_exports_wrongly_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(AnalysisError, match="not what the module computes"):
        lsc_graph.stabilize(Projecting(), torch.randn(T, 1, D))
