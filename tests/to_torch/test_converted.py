"""Converted pieces can be copied and pickled: same numbers, same parameters, sizes on the host."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lsc_graph
from lsc_graph.to_torch.converted import Converted, NotConvertedError
from lsc_graph.to_torch.module import TorchModel

SCANNED = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[T, 2, 40] x, bool doubled) => (float[T, 2, 40] y)
<float two = {2.0}>
{
    last, states = Scan<num_scan_inputs = 1, body = step (float[2, 40] h, float[2, 40] now)
        => (float[2, 40] next, float[2, 40] out)
    {
        a = MatMul(h, u)
        s = Add(a, now)
        next = Tanh(s)
        out = Identity(next)
    }>(zero, x)
    y = If(doubled) <then_branch = g1 () => (float[T, 2, 40] z) { z = Mul(states, two) },
                     else_branch = g2 () => (float[T, 2, 40] z) { z = Identity(states) }>
}
"""
STEP = """
<ir_version: 10, opset_import: ["" : 18]>
step (float[1, 60] x) => (float[1, 60] y)
<int64[2] parts = {20, 40}>
{
    a, b = Split<axis = 1>(x, parts)
    c = MatMul(b, w)
    y = Concat<axis = 1>(a, c)
}
"""


def parsed(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model with initializers of these shapes, drawn."""
    proto, generator = onnx.parser.parse_model(text), torch.Generator().manual_seed(0)
    for name, shape in weights.items():
        drawn = torch.randn(shape, generator=generator) / shape[0] ** 0.5
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn.numpy(), name))
    return proto


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "copied": copy.deepcopy,
    "pickled": lambda module: pickle.loads(pickle.dumps(module)),
    "saved": saved,
    "averaged": lambda module: AveragedModel(module).module,
}


@pytest.mark.parametrize("made", COPIES)
def test_a_copy_of_a_model_computes_the_same_and_trains_by_itself(made: str) -> None:
    module = lsc_graph.to_torch(
        parsed(SCANNED, u=(40, 40), zero=(2, 40)), input_shapes={"x": (3, 2, 40), "doubled": ()}
    )
    with torch.no_grad():
        module.get_parameter("u").mul_(0.5)
    module.get_parameter("zero").requires_grad_(False)
    other = COPIES[made](module)
    assert isinstance(other, TorchModel)
    x = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(1))

    def output(of: TorchModel) -> Tensor:
        found = of(x, torch.tensor(True))
        assert isinstance(found, Tensor)
        return found

    before = output(module).detach()
    assert torch.equal(output(other), before)
    assert {n: p.requires_grad for n, p in other.named_parameters()} == {
        n: p.requires_grad for n, p in module.named_parameters()
    }
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1)
    output(other).square().sum().backward()
    optimizer.step()
    assert not torch.equal(output(other), before)
    assert torch.equal(output(module), before)
    other.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(output(other), before)


def test_a_copy_keeps_its_types_and_leaves_sizes_on_the_host() -> None:
    module = Converted(parsed(STEP, w=(40, 40)), ["parts"])
    module.replace("w", nn.Parameter(module.graph.w))
    other = copy.deepcopy(module.double())
    assert isinstance(other.graph.w, nn.Parameter)
    assert other.graph.w.dtype == torch.float64
    assert not dict(other.graph.named_buffers())
    moved = other.to("meta")
    assert moved.graph.w.is_meta
    assert moved.graph.parts.tolist() == [20, 40]


def test_pickles_hold_each_weight_once() -> None:
    module = Converted(parsed(STEP.replace("60", "420").replace("40}", "400}"), w=(400, 400)), [])
    assert len(pickle.dumps(module)) < 1.1 * module.graph.w.nbytes


def test_what_has_no_counterpart_is_named() -> None:
    text = STEP.replace("Concat<", "own.Op<").replace(": 18]", ': 18, "own" : 1]')
    with pytest.raises(NotConvertedError, match="Op"):
        Converted(parsed(text, w=(40, 40)), [])
