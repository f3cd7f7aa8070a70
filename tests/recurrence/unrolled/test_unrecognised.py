"""What may be steps and was not recognised is named, with the reason; what is none is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from delayed_models import qrnn
from lsc_graph.models.forms import in_form
from onnx import helper
from torch import Tensor, nn
from unrolled_models import Network, Unroller, at, stacked
from written_as import as_dynamo_writes

from lsc_graph.audit_model import audit, inspect
from lsc_graph.errors import NoLayersError
from lsc_graph.results import Form

H = 4


def from_zeros(num_steps: int, *, is_hoisted: bool) -> Network:
    """h' = tanh(x W + h U) with the first product left out; x W for all steps at once, or step by step."""
    net = Network(is_given=False, num_steps=num_steps)
    w, u, h, rows = net.weight(H, H), net.weight(H, H), "", list[str]()
    for time in range(num_steps):
        drive = at(net, net.drives, time)
        drive = drive if is_hoisted else net.op("MatMul", drive, w)
        h = net.op("Tanh", net.sum(drive, h and net.op("MatMul", h, u)))
        rows.append(h)
    net.output(stacked(net, rows))
    return net


@pytest.mark.parametrize("is_hoisted", [False, True])
def test_two_steps_of_which_the_first_was_folded_are_named(*, is_hoisted: bool) -> None:
    proto = from_zeros(2, is_hoisted=is_hoisted).model()
    found = inspect(proto)
    assert found.recurrences == ()
    (reason,) = [r.reason for r in found.refusals if "side by side" in r.reason]
    assert f"its 2 {'slices' if is_hoisted else 'uses'} are side by side" in reason
    assert "export it with more steps" in reason
    (warning,) = [text for text in audit(proto, num_samples=1).warnings if "not recognised" in text]
    assert reason in warning


def rotating(num_steps: int) -> Network:
    """(a, b)' = (c a - d b, d a + c b) + x (W, V) from zeros, of which exporters fold the first products."""
    net = Network(is_given=False, num_steps=num_steps)
    c, d, out = net.weight(H), net.weight(H), net.weight(H, H)
    other = net.op("MatMul", "x", net.weight(3, H))
    a, b, rows = "", "", list[str]()
    for time in range(num_steps):
        drives = at(net, net.drives, time), at(net, other, time)
        if a:
            turned = [net.op("Mul", own, factor) for own, factor in ((a, c), (b, d), (a, d), (b, c))]
            a = net.sum(net.op("Sub", *turned[:2]), drives[0])
            b = net.sum(net.sum(*turned[2:]), drives[1])
        else:
            a, b = drives
        rows.append(net.op("Tanh", net.op("MatMul", net.sum(a, b), out)))
    net.output(stacked(net, rows))
    return net


def test_factors_of_each_unit_are_named_where_too_few_steps_are_left_to_tell() -> None:
    few, enough = (inspect(rotating(count).model()) for count in (4, 7))
    assert [recurrence.num_steps for recurrence in enough.recurrences] == [7]
    assert not [text for text in enough.warnings if "not recognised" in text]
    assert few.recurrences == ()
    (warning,) = [text for text in few.warnings if "not recognised" in text]
    assert "its 3 uses are a chain, but at least 3 steps are needed to tell" in warning


def test_steps_that_are_recognised_are_not_named() -> None:
    found = inspect(from_zeros(4, is_hoisted=False).model())
    assert [recurrence.num_steps for recurrence in found.recurrences] == [4]
    assert not [text for text in found.warnings if "not recognised" in text]


def test_uses_that_follow_each_other_are_named_first() -> None:
    net = Network(is_given=True, num_steps=2)
    w, u, h = net.weight(H, H), net.weight(H, H), net.start("h", H)
    for time in range(2):
        drive = net.op("MatMul", at(net, net.drives, time), w)
        h = net.op("Tanh", net.sum(drive, net.op("MatMul", h, u)))
    net.output(h)
    (warning,) = [text for text in inspect(net.model()).warnings if "not recognised" in text]
    assert warning.startswith("w2, w1: ")
    assert "w2: its 2 uses follow each other" in warning


def test_they_are_named_inside_the_step_of_a_streaming_model_too() -> None:
    net = from_zeros(2, is_hoisted=False)
    h = net.input("h_in", 1, H)
    last = net.op("Gather", str(net.outputs[0].name), net.constant(1), axis=0)
    net.output(net.op("Tanh", net.op("Add", last, net.op("MatMul", h, net.weight(H, H)))))
    net.nodes.append(helper.make_node("Identity", [net.outputs[1].name], ["h_out"]))
    net.outputs[1].name = "h_out"
    found = inspect(net.model())
    assert [own.form for own in found.recurrences] == [Form.STREAMING]
    assert [text for text in found.warnings if "not recognised" in text]


@pytest.mark.parametrize("is_hoisted", [False, True])
@pytest.mark.parametrize("taps", [2, 3])
def test_three_steps_that_only_gates_connect_are_named(taps: int, *, is_hoisted: bool) -> None:
    """Windows of quasi-recurrent layers: without a recurrent weight, four steps are needed to tell."""
    step = qrnn(taps)
    proto = as_dynamo_writes(step, 3) if is_hoisted else in_form(step, Form.UNROLLED, 3)
    try:
        texts = [refusal.reason for refusal in inspect(proto).refusals]
    except NoLayersError as error:
        texts = [str(error)]
    assert any("as gates of steps" in text for text in texts)


def siamese(net: Unroller) -> str:
    w, v = net.weight(3, H), net.weight(H, H)
    sides = [net.op("Tanh", net.op("MatMul", net.input(name, 1, 3), w)) for name in ("a", "b")]
    return net.op("Sub", *(net.op("MatMul", side, v) for side in sides))


def attention(net: Unroller) -> str:
    """Query, key and value are three slices of one tensor."""
    packed = net.op("MatMul", net.input("x", 3, 5, 3), net.weight(3, H))
    q, k, v = (at(net, packed, index) for index in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[1, 0])), axis=-1)
    return net.op("MatMul", net.op("MatMul", scores, v), net.weight(H, H))


def features(net: Unroller) -> str:
    """Two columns, one of which gates the other."""
    x = net.op("MatMul", net.input("x", 2, 1, 3), net.weight(3, H))
    gate = net.op("Sigmoid", at(net, x, 0))
    return net.op("MatMul", net.op("Mul", gate, net.op("Tanh", at(net, x, 1))), net.weight(H, H))


def factors(net: Unroller) -> str:
    """Three sides of one kind, multiplied, as scores of facts are."""
    w = net.weight(3, H)
    one, two, three = (net.op("Tanh", net.op("MatMul", net.input(name, 1, 3), w)) for name in "abc")
    return net.op("MatMul", net.op("Mul", net.op("Mul", one, two), three), net.weight(H, H))


def test_steps_that_each_add_a_matrix_of_their_own_are_named() -> None:
    """h' = tanh((x + a h) + P[t]), whose a is only multiplied, as scales that layers of a stack share."""
    net = Unroller()
    x, a, h, rows = net.input("x", 6, 2, H), net.weight(H), "", list[str]()
    for time in range(6):
        driven = net.sum(at(net, x, time), h and net.op("Mul", h, a))
        h = net.op("Tanh", net.op("Add", driven, net.weight(2, H)))
        rows.append(h)
    net.output(stacked(net, rows))
    found = inspect(net.model())
    assert found.recurrences == ()
    (warning,) = [text for text in found.warnings if "not recognised" in text]
    assert warning.startswith(a)


def masked_layers(net: Unroller, num_layers: int) -> str:
    """Layers of attention with one mask and one scale for each feature and time, and weights of their own."""
    x, scale = net.input("x", 5, H), net.weight(5, H)
    mask = net.constant(np.triu(np.full((5, 5), -9.0), 1))
    for _ in range(num_layers):
        q, k, v = (net.op("MatMul", x, net.weight(H, H)) for _ in range(3))
        scores = net.op("Add", net.op("MatMul", q, net.op("Transpose", k, perm=[1, 0])), mask)
        read = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        x = net.op("Add", x, net.op("Mul", net.op("MatMul", read, net.weight(H, H)), scale))
    return x


def masked_pair(net: Unroller) -> str:
    return masked_layers(net, 2)


def masked_stack(net: Unroller) -> str:
    return masked_layers(net, 5)


@pytest.mark.parametrize("build", [siamese, attention, features, factors, masked_pair, masked_stack])
def test_sharing_and_slices_alone_are_not_named(build: object) -> None:
    assert callable(build)
    net = Unroller()
    net.output(net.op("Relu", net.op("Add", build(net), net.constant(np.ones(H)))))
    found = inspect(net.model())
    assert not [text for text in found.warnings if "not recognised" in text]
    assert not [refusal for refusal in found.refusals if "side by side" in refusal.reason]


@pytest.mark.parametrize("is_cut_out", [False, True])
def test_states_of_several_operators_in_one_tensor_are_no_steps(*, is_cut_out: bool) -> None:
    """Slices of a packed first state, one for each layer, each of which is computed from the one below."""
    net = Network(is_given=False, num_steps=5)
    h0, value, finals = net.input("h0", 2, 1, H), "x", list[str]()
    for layer in range(2):
        w = net.weight(1, 3 * H, H if layer else 3)
        bounds = [net.constant([number]) for number in (layer, layer + 1, 0)]
        first = net.op("Slice", h0, *bounds)
        if not is_cut_out:
            first = net.op("Unsqueeze", net.op("Gather", h0, net.constant(layer), axis=0), net.constant([0]))
        y, final = f"y_{layer}", f"final_{layer}"
        inputs = [value, w, net.weight(1, 3 * H, H), "", "", first]
        net.nodes.append(helper.make_node("GRU", inputs, [y, final], name=f"gru_{layer}", hidden_size=H))
        value = net.op("Squeeze", y, net.constant([1]))
        finals.append(final)
    net.output(value)
    net.output(net.op("Concat", *finals, axis=0))
    found = inspect(net.model())
    assert [own.form for own in found.recurrences] == [Form.FUSED_OP] * 2
    assert found.refusals == ()


class _Nested(nn.Module):
    """Two nested memories on top of each other, of which each step uses most weights twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        shapes = dict.fromkeys("uvywxz", (H, H)) | {"b": (H,)}
        self.layers = nn.ModuleList(
            nn.ParameterDict({name: nn.Parameter(torch.randn(shape) * 0.4) for name, shape in shapes.items()})
            for _ in range(2)
        )

    @staticmethod
    def step(own: nn.ParameterDict, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c, d = state
        gate = x @ own["w"] + h @ own["u"]
        kept = torch.sigmoid(gate + own["b"]) * c
        new = torch.sigmoid(gate) * torch.tanh(x @ own["z"] + h @ own["v"])
        inner = torch.sigmoid(new @ own["y"] + kept @ own["v"])
        d = inner * d + (1 - inner) * torch.tanh(new @ own["u"] + kept @ own["y"])
        c = torch.sigmoid(new @ own["v"]) * torch.tanh(d)
        return torch.sigmoid(x @ own["x"] + h @ own["y"]) * torch.tanh(c), c, d

    def forward(self, x: Tensor, *states: Tensor) -> Tensor:
        own, rows = [states[:3], states[3:]], []
        for value in x:
            for index, layer in enumerate(self.layers):
                own[index] = self.step(layer, value, own[index])
                value = own[index][0]
            rows.append(value)
        return torch.stack(rows)


def test_a_chain_that_is_part_of_the_steps_is_no_longer_refused_once_these_are_found(tmp_path: Path) -> None:
    given = (torch.randn(7, 1, H), *(torch.zeros(1, H) for _ in range(6)))
    torch.onnx.export(_Nested().eval(), given, tmp_path / "nested.onnx", dynamo=False, opset_version=17)
    found = inspect(tmp_path / "nested.onnx")
    assert [own.num_steps for own in found.recurrences] == [7, 7]
    assert [refusal for refusal in found.refusals if refusal.finder == "unrolled"] == []
