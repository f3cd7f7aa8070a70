"""First steps from learned starts, which exporters multiply by the weights beforehand, are steps."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.func import jacrev
from unrolled_models import Network, at

from lsc_graph.audit_model import audit, inspect
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.rerolling import reroll
from lsc_graph.results import Analysis

T, D, H = 7, 3, 4
APART = "computed in another way"
FOUND, ASSUMED = "one that gives these constants was found", "no start is known"


def told(found: Analysis, words: str) -> int:
    return sum(words in text for text in found.warnings)


class Cell(nn.Module):
    """A cell in a Python loop, from learned states; `step` gives the new ones."""

    shapes: tuple[tuple[int, ...], ...] = ((1, H),)

    def __init__(self) -> None:
        super().__init__()
        self.starts = nn.ParameterList([0.5 * torch.randn(shape) for shape in self.shapes])
        self.into, self.back, self.gate = nn.Linear(D, H), nn.Linear(H, H), nn.Linear(H, H)

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (torch.tanh(self.into(x) + self.back(states[0])),)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([states[0] for states in self.run(x)])

    def run(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        states, found = tuple(self.starts), []
        for time in range(x.shape[0]):
            states = self.step(x[time], *states)
            found.append(states)
        return found


class Gated(Cell):
    """The start is read as it is, too, and through a nonlinearity of nothing but the state."""

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        z = torch.sigmoid(self.gate(states[0]))
        return (z * states[0] + (1 - z) * torch.tanh(self.into(x) + self.back(states[0])),)


class WithMemory(Cell):
    """Two states; each is only multiplied."""

    shapes = ((1, H), (1, H))

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        c = 0.8 * states[1] + torch.sigmoid(self.gate(states[0])) * self.into(x)
        return torch.tanh(c + self.back(states[0])), c


class Potential(Cell):
    """The state is before the nonlinearity, and decays."""

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (0.9 * states[0] + self.into(x) + self.back(torch.tanh(states[0])),)


class HalfDelayed(Cell):
    """Two steps are read; the nearer one is zeros at first, which the second step reads, too."""

    shapes = ((1, H), (1, H))

    def run(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        states, found = (torch.zeros(1, H), self.starts[1]), []
        for time in range(x.shape[0]):
            states = self.step(x[time], *states)
            found.append(states)
        return found

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return torch.tanh(self.into(x) + self.back(states[0]) + self.gate(states[1])), states[0]


class Convolved(Cell):
    """A state with channels."""

    shapes = ((1, 2, H),)

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.into = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(D, 2 * H)

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (torch.tanh(self.into(x).reshape(1, 2, H) + self.mix(states[0])),)


class Delayed(Cell):
    """Two steps are read, so that two first steps are folded."""

    shapes = ((1, H), (1, H))

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return torch.tanh(self.into(x) + self.back(states[0]) + self.gate(states[1])), states[0]


def exported(cell: Cell) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(cell.eval(), (torch.randn(T, 1, D),), file, dynamo=True, verbose=False)
    return onnx.load_from_string(file.getvalue())


def expected_radius(cell: Cell, x: Tensor) -> float:
    """The mean over the transitions between the states of a run, by autograd."""
    runs, radii = cell.run(x), []
    for time in range(1, T):
        sizes = [state.numel() for state in runs[0]]
        shapes = [state.shape for state in runs[0]]

        def moved(
            flat: Tensor, time: int = time, sizes: list[int] = sizes, shapes: list[torch.Size] = shapes
        ) -> Tensor:
            parts = [part.reshape(s) for part, s in zip(flat.split(sizes), shapes, strict=True)]
            return torch.cat([state.ravel() for state in cell.step(x[time], *parts)])

        before = torch.cat([state.detach().ravel() for state in runs[time - 1]])
        radii.append(torch.linalg.eigvals(jacrev(moved)(before)).abs().max().item())
    return float(np.mean(radii))


@pytest.mark.parametrize(
    ("kind", "is_told"),
    [
        (Cell, True),
        (Gated, False),
        (WithMemory, False),
        (Potential, False),
        (Convolved, True),
        (Delayed, True),
        (HalfDelayed, False),
    ],
)
def test_a_network_from_learned_states_has_all_its_steps_and_the_radius_that_autograd_gives(
    kind: Callable[[], Cell], *, is_told: bool
) -> None:
    torch.manual_seed(0)
    cell, x = kind(), torch.randn(T, 1, D)
    proto = exported(cell)
    found = audit(proto, data={"x": x.numpy()}, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T]
    (layer,) = found.layers
    assert layer.state_size == sum(start.numel() for start in cell.starts)
    assert layer.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(expected_radius(cell, x), abs=1e-5)
    assert (told(found, APART), told(found, FOUND), told(found, ASSUMED)) == (0, is_told, 0)
    named = {name for name, _ in cell.named_parameters() if not name.startswith("starts")}
    assert set(found.recurrences[0].weights) <= named


def test_a_folded_start_is_part_of_the_loop_that_steps_are_rewritten_as() -> None:
    torch.manual_seed(0)
    proto, x = exported(Gated()), np.random.default_rng(0).standard_normal((T, 1, D)).astype(np.float32)
    rolled = reroll(proto)
    assert [own.op_type for own in rolled.model.graph.node].count("Scan") == 1
    before, after = (audit(own, data={"x": x}, num_samples=1) for own in (proto, rolled.model))
    assert [own.num_steps for own in after.recurrences] == [T]
    assert before.grid == after.grid


def begun_with(first: object, cell: Callable[[Network, str, str], str]) -> onnx.ModelProto:
    """Steps of a cell, which gets a drive and its state; the first gets a constant in place of it."""
    net = Network(is_given=False, num_steps=T)
    h, rows = net.constant(first), list[str]()
    for time in range(T):
        h = cell(net, at(net, net.drives, time), h)
        rows.append(h)
    return net.done(rows, rows)


def multiplied(*, is_known: bool, factor: float = 1.0) -> onnx.ModelProto:
    """h' = tanh(x + h U) + h / 2, of which h U of the first step is a constant, and h may be one."""
    generator = np.random.default_rng(5)
    start, u = generator.standard_normal((1, H)), 0.3 * generator.standard_normal((H, H))
    names = dict[str, str]()

    def cell(net: Network, drive: str, h: str) -> str:
        names.setdefault("u", net.constant(u, "u"))
        is_first = "start" not in names
        product = net.constant(factor * start @ u) if is_first else net.op("MatMul", h, "u")
        names["start"] = h
        kept = net.op("Mul", h, net.constant(0.5))
        return (
            net.op("Add", net.op("Tanh", net.op("Add", drive, product)), kept)
            if is_known
            else net.op("Tanh", net.op("Add", drive, product))
        )

    return begun_with(start, cell)


@pytest.mark.parametrize(("factor", "num_apart"), [(1.0, 0), (1.1, 1)])
def test_a_constant_that_a_known_start_does_not_give_is_no_step(factor: float, num_apart: int) -> None:
    found = inspect(multiplied(is_known=True, factor=factor))
    assert [own.num_steps for own in found.recurrences] == [T - num_apart]
    assert (told(found, APART), told(found, FOUND), told(found, ASSUMED)) == (num_apart, 0, 0)


def test_weights_that_were_pre_trained_need_not_give_the_constants_any_more() -> None:
    proto = multiplied(is_known=True, factor=1.1)
    proto.metadata_props.add(key=PROVENANCE, value="{}")
    found = inspect(proto)
    assert [own.num_steps for own in found.recurrences] == [T]
    assert (told(found, APART), told(found, ASSUMED)) == (0, 1)


def test_constants_that_are_products_with_two_weights_need_not_come_from_one_start() -> None:
    """h' = tanh(x + h U) sigmoid(h V): as where a quantiser has rounded the products."""
    net = Network(is_given=False, num_steps=T)
    u, v, h, rows = net.weight(H, H), net.weight(H, H), "", list[str]()
    for time in range(T):
        products = [net.op("MatMul", h, w) if h else net.weight(1, H) for w in (u, v)]
        gates = [net.op("Add", at(net, net.drives, time), product) for product in products]
        h = net.op("Mul", net.op("Tanh", gates[0]), net.op("Sigmoid", gates[1]))
        rows.append(h)
    found = inspect(net.done(rows, rows))
    assert [own.num_steps for own in found.recurrences] == [T]
    assert (told(found, APART), told(found, ASSUMED)) == (0, 1)


Back = Callable[[Network, str, str, str], str]


def begun_with_a_constant(back: Back) -> onnx.ModelProto:
    """h' = x + back(h), of which the second is some constant in the first step."""
    net = Network(is_given=False, num_steps=T)
    u, h, rows = net.weight(H, H), "", list[str]()
    for time in range(T):
        x = at(net, net.drives, time)
        h = net.op("Add", x, back(net, x, h, u) if h else net.weight(1, H))
        rows.append(h)
    return net.done(rows, rows)


NONLINEAR: dict[str, Back] = {
    "saturating": lambda net, _, h, u: net.op("MatMul", net.op("Tanh", h), u),
    "bilinear": lambda net, _, h, u: net.op("Mul", h, net.op("Sigmoid", net.op("MatMul", h, u))),
}


@pytest.mark.parametrize("back", NONLINEAR.values(), ids=NONLINEAR)
def test_a_constant_that_a_nonlinear_function_of_some_start_gave_is_in_a_step_like_the_others(
    back: Back,
) -> None:
    proto = begun_with_a_constant(back)
    found = audit(proto, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T]
    assert found.layers[0].time_radius is not None
    assert found.layers[0].time_radius.num_points == T - 1
    assert (told(found, APART), told(found, FOUND), told(found, ASSUMED)) == (0, 0, 1)


NEAR_MISSES: dict[str, Back] = {
    "a function that has no value at zeros": lambda net, _, h, u: net.op(
        "MatMul", net.op("Log", net.op("Abs", h)), u
    ),
    "what the input enters": lambda net, x, h, u: net.op("MatMul", net.op("Mul", net.op("Sigmoid", x), h), u),
}


@pytest.mark.parametrize("back", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_a_constant_that_no_start_is_known_to_give_stays_apart_and_is_named(back: Back) -> None:
    found = inspect(begun_with_a_constant(back))
    assert [own.num_steps for own in found.recurrences] == [T - 1]
    assert (told(found, APART), told(found, FOUND), told(found, ASSUMED)) == (1, 0, 0)


class Samples(CalibrationDataReader):
    """A few inputs by which a quantiser tells ranges."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.left = [{"x": generator.standard_normal((T, 1, D)).astype(np.float32)} for _ in range(8)]

    def get_next(self) -> dict[str, np.ndarray]:
        return self.left.pop() if self.left else {}


@pytest.mark.parametrize("starts_from_zeros", [True, False])
def test_constants_that_a_quantiser_has_rounded_by_themselves_are_those_of_a_first_step(
    tmp_path: Path, *, starts_from_zeros: bool
) -> None:
    """h' = tanh(x + (h U + b)), of which the bracket is a constant in the first step."""
    net = Network(is_given=False, num_steps=T)
    u, b, h, rows = net.weight(H, H), net.weight(1, H), "", list[str]()
    start = np.zeros((1, H)) if starts_from_zeros else 0.5 * net.generator.uniform(-1, 1, (1, H))
    folded = net.initializers[b] + start @ net.initializers[u]
    for time in range(T):
        back = net.op("Add", net.op("MatMul", h, u), b) if h else net.constant(folded)
        h = net.op("Tanh", net.op("Add", at(net, net.drives, time), back))
        rows.append(h)
    whole, better, rounded = (tmp_path / f"{name}.onnx" for name in ("whole", "better", "rounded"))
    onnx.save(net.done(rows, rows), whole)
    quant_pre_process(str(whole), str(better))
    quantize_static(str(better), str(rounded), Samples(), quant_format=QuantFormat.QDQ)
    found = audit(rounded, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T]
    assert (told(found, APART), told(found, ASSUMED)) == (0, 0)
