"""What is read of a buffer is what was written there: recurrences through buffers, and equal values."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from unrolled_models import Unroller

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.written import places, reads
from lsc_graph.recurrence.written.reads import read_what_was_written
from lsc_graph.rerolling import reroll
from lsc_graph.running.reference import Reference

T, B, D, H = 6, 1, 3, 4


class Written(nn.Module):
    """A GRU cell (two for some ways to write) whose states go through buffers, as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.lower, self.upper = nn.GRUCell(D, H), nn.GRUCell(H, H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WAYS[self.how](self.lower, self.upper, x)


Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def separate(lower: Step, _: Step, x: torch.Tensor) -> torch.Tensor:
    h, out = torch.zeros(B, H), torch.zeros(T, B, H)
    for t in range(T):
        h = lower(x[:, t], h)
        out[t] = h
    return out


def read_back(lower: Step, _: Step, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(B, T + 1, H)
    for t in range(T):
        out[:, t + 1] = lower(x[:, t], out[:, t])
    return out[:, 1:]


def backwards(lower: Step, _: Step, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(B, T + 1, H)
    for t in reversed(range(T)):
        out[:, t] = lower(x[:, t], out[:, t + 1])
    return out[:, :T]


def grown(lower: Step, _: Step, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(B, 1, H)
    for t in range(T):
        out = torch.cat([out, lower(x[:, t], out[:, -1])[:, None]], 1)
    return out[:, 1:]


def in_place(lower: Step, upper: Step, x: torch.Tensor) -> torch.Tensor:
    """Both layers' states in one buffer, which is overwritten."""
    h, rows = torch.zeros(2, B, H), []
    for t in range(T):
        h[0] = lower(x[:, t], h[0])
        h[1] = upper(h[0], h[1])
        rows.append(h[1].clone())
    return torch.stack(rows)


def layer_by_layer(lower: Step, upper: Step, x: torch.Tensor) -> torch.Tensor:
    below, above = torch.zeros(T + 1, B, H), torch.zeros(T + 1, B, H)
    for t in range(T):
        below[t + 1] = lower(x[:, t], below[t])
    for t in range(T):
        above[t + 1] = upper(below[t + 1], above[t])
    return above[1:]


WAYS = {f.__name__: f for f in (separate, read_back, backwards, grown, in_place, layer_by_layer)}


def exported(how: str) -> onnx.ModelProto:
    program = torch.onnx.export(
        Written(how).eval(), (torch.randn(B, T, D),), dynamo=True, verbose=False, input_names=["x"]
    )
    assert program is not None
    return program.model_proto


@pytest.mark.parametrize("how", WAYS)
def test_states_that_go_through_buffers_are_states_and_buffers_are_none(how: str) -> None:
    proto, num_layers = exported(how), 2 if how in ("in_place", "layer_by_layer") else 1
    found = audit(proto, num_samples=1)
    assert [la.state_size for la in found.layers] == [H] * num_layers
    assert {own.num_steps for own in found.recurrences} == {T}
    written = reroll(proto)
    assert [own.num_steps for own in written.recurrences] == [T] * num_layers
    assert 4 * written.num_nodes_after < written.num_nodes_before


def test_a_buffer_gives_the_radii_of_the_list_that_it_stands_for() -> None:
    radii = [
        layer.time_radius.mean
        for how in ("in_place", "layer_by_layer")
        for layer in audit(exported(how), num_samples=1).layers
        if layer.time_radius is not None
    ]
    np.testing.assert_allclose(radii[:2], radii[2:], rtol=1e-6)


def random_moves(seed: int) -> onnx.ModelProto:
    """A buffer that rows, columns and single elements are written into, and that is read in between."""
    net, generator = Unroller(seed=seed), np.random.default_rng(seed)
    net.input("x", 3, 4)
    buffer, found = net.weight(4, 3, 4), []
    for number in range(12):
        update = net.op("Tanh", net.op("Mul", "x", net.constant(float(number + 1))))
        kind = generator.integers(5)
        if kind == 0:
            buffer = net.op("ScatterND", buffer, net.constant([[generator.integers(4)]]),
                            net.op("Unsqueeze", update, net.constant([0])))  # fmt: skip
        elif kind == 1:
            places = np.stack([np.full(3, generator.integers(-4, 4)), generator.permutation(3)], -1)
            buffer = net.op("ScatterND", buffer, net.constant(places), update)
        elif kind == 2:
            column = net.op("Transpose", net.op("Unsqueeze", update, net.constant([0])), perm=[0, 1, 2])
            places = np.full((1, 3, 4), generator.integers(4))
            buffer = net.op("ScatterElements", buffer, net.constant(places), column, axis=0)
        elif kind == 3:
            turned = net.op("Transpose", buffer, perm=[1, 0, 2])
            taken = net.op("Gather", turned, net.constant(int(generator.integers(3))), axis=0)
            found.append(net.op("Sin", taken))
        else:
            start = int(generator.integers(3))
            bounds = [net.constant([k]) for k in (start, start + 2, 0)]
            flat = net.op("Reshape", net.op("Slice", buffer, *bounds), net.constant([2, 12]))
            found.append(net.op("Cos", flat))
    for value in (*found, net.op("Neg", buffer)):
        net.output(value)
    return net.model()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_written_and_read_stays_equal_and_no_write_is_left(seed: int) -> None:
    proto = random_moves(seed)
    model = normalize(proto, {"x": (3, 4)}, {})
    assert read_what_was_written(model)
    assert not any(node.op_type.startswith("Scatter") for node in model.graph)
    feed = {"x": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)}
    after = Reference(ir.to_proto(model)).run(feed)
    for name, value in Reference(proto).run(feed).items():
        np.testing.assert_array_equal(after[name], value)


def scattered(places: str | list[list[int]], **attributes: str) -> ir.Model:
    net = Unroller()
    net.input("x", 2, 4)
    if isinstance(places, str):
        net.inputs.append(onnx.helper.make_tensor_value_info(places, onnx.TensorProto.INT64, [2, 1]))
    where = places if isinstance(places, str) else net.constant(places)
    buffer = net.op("ScatterND", net.weight(3, 4), where, net.op("Tanh", "x"), **attributes)
    net.output(net.op("Neg", net.op("Gather", buffer, net.constant(1), axis=0)))
    shapes = {value.name: (2, 1) if value.name == places else (2, 4) for value in net.inputs}
    return normalize(net.model(), shapes, {})


@pytest.mark.parametrize(
    "model",
    [scattered("where"), scattered([[1], [1]]), scattered([[0], [1]], reduction="add")],
    ids=["the data say where", "one place twice", "added"],
)
def test_nothing_is_said_of_writes_whose_outcome_is_not_known(model: ir.Model) -> None:
    assert not read_what_was_written(model)
    assert any(node.op_type == "ScatterND" for node in model.graph)


@pytest.mark.parametrize("module", [reads, places])
def test_what_would_take_too_much_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.setattr(module, "MAX_ELEMENTS", 3)
    assert not read_what_was_written(scattered([[0], [1]]))


class Attends(nn.Module):
    """Reads all that was written so far: no state of a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(D, H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(B, T + 1, H)
        for t in range(T):
            query = self.cell(x[:, t], out[:, t])
            past = out[:, : t + 1]
            weight = torch.softmax((past * query[:, None]).sum(-1), -1)
            out[:, t + 1] = query + (weight[:, :, None] * past).sum(1)
        return out[:, 1:]


def test_a_cell_that_reads_its_whole_past_is_refused_by_name() -> None:
    program = torch.onnx.export(Attends().eval(), (torch.randn(B, T, D),), dynamo=True, verbose=False)
    assert program is not None
    found = inspect(program.model_proto)
    assert not found.recurrences
    assert any("has no counterpart there" in refusal.reason for refusal in found.refusals)


def triangular_solve(size: int) -> ir.Model:
    """Forward substitution, row by row in place: each row is computed from all rows before it."""
    net = Unroller()
    rows = net.op("Tanh", net.input("x", size, size))
    for k in range(1, size):
        row, part = net.constant([k]), [net.constant([0, 0]), net.constant([k, k])]
        own = net.op(
            "Slice",
            net.op("Gather", rows, row, axis=0),
            net.constant([0]),
            net.constant([k]),
            net.constant([1]),
        )
        new = net.op("Add", own, net.op("MatMul", own, net.op("Slice", rows, *part)))
        rows = net.op("ScatterND", rows, net.constant([[[k, j] for j in range(k)]]), new)
    net.output(net.op("Neg", rows))
    return normalize(net.model(), {"x": (size, size)}, {})


def test_what_reads_all_rows_at_every_step_stays_as_it_was_once_that_takes_too_many_pieces() -> None:
    small, large = triangular_solve(8), triangular_solve(48)
    assert read_what_was_written(small)
    before = [node.op_type for node in large.graph]
    assert not read_what_was_written(large)
    assert [node.op_type for node in large.graph] == before
    proto = ir.to_proto(large)
    x = {"x": np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32) / 48}
    (found,) = Reference(proto).run(x).values()
    rows = np.tanh(x["x"])
    for k in range(1, 48):
        rows[k, :k] += rows[k, :k] @ rows[:k, :k]
    np.testing.assert_allclose(found, -rows, atol=1e-5)


class InHalves(nn.Module):
    """Two layers of which each keeps two halves, apart from the pre-activation of what it shows."""

    def __init__(self, *, through_buffers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.through_buffers = through_buffers
        self.inputs = nn.ModuleList(nn.Linear(n, H) for n in (D, H))
        self.cells = nn.ModuleList(nn.Linear(H, H, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor, *starts: torch.Tensor) -> torch.Tensor:
        halves = list(starts)
        buffers = [torch.zeros(T + 1, B, H // 2) for _ in starts]
        for buffer, start in zip(buffers, starts, strict=True):
            buffer[0] = start
        rows = []
        for t in range(T):
            row = x[:, t]
            for number, (read, cell) in enumerate(zip(self.inputs, self.cells, strict=True)):
                own = slice(2 * number, 2 * number + 2)
                before = [b[t] for b in buffers[own]] if self.through_buffers else halves[own]
                new = torch.tanh(read(row) + cell(torch.tanh(torch.cat(before, 1))))
                halves[own] = [new[:, : H // 2], 0.5 * before[1] + new[:, H // 2 :]]
                for buffer, half in zip(buffers[own], halves[own], strict=True):
                    buffer[t + 1] = half
                row = torch.tanh(torch.cat(halves[own], 1))
            rows.append(row)
        return torch.stack(rows)


def test_what_is_computed_again_from_a_buffer_is_the_same_value() -> None:
    starts = [torch.randn(B, H // 2) for _ in range(4)]
    found = []
    for through_buffers in (False, True):
        net = InHalves(through_buffers=through_buffers).eval()
        program = torch.onnx.export(net, (torch.randn(B, T, D), *starts), dynamo=True, verbose=False)
        assert program is not None
        found.append(audit(program.model_proto, num_samples=1))
    plain, buffered = found
    assert buffered.grid.num_gradient_paths == plain.grid.num_gradient_paths
    assert [la.state_size for la in buffered.layers] == [la.state_size for la in plain.layers] == [H, H]
    for one, other in zip(plain.layers, buffered.layers, strict=True):
        assert one.time_gain is not None
        assert other.time_gain is not None
        assert other.time_gain.mean == pytest.approx(one.time_gain.mean, rel=1e-5)
