"""Whole models as torch modules: names, shapes, gradients, agreement with ONNX Runtime at many sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cuda_only import needs_cuda
from onnx import ModelProto, TensorProto, helper, numpy_helper
from real_models import real_model
from torch import Tensor

import lsc_graph
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.to_torch.module import TorchModel

D, H = 3, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def fused(op: str, direction: str = "forward", *, layers: int = 2) -> ModelProto:
    """A stack of one operator with open time and batch, dotted names, a read-out whose bias is used twice."""
    generator = np.random.default_rng(0)
    nodes, tensors, below, width = [], [], "x", D
    sides = 2 if direction == "bidirectional" else 1
    for layer in range(layers):
        shapes = {
            "W": (sides, GATES[op] * H, width),
            "R": (sides, GATES[op] * H, H),
            "B": (sides, 2 * GATES[op] * H),
        }
        for name, shape in shapes.items():
            values = generator.normal(0, 0.4, shape).astype(np.float32)
            tensors.append(numpy_helper.from_array(values, f"rnn.{name}.{layer}"))
        names = [f"rnn.{name}.{layer}" for name in shapes]
        nodes.append(helper.make_node(op, [below, *names], [f"y{layer}"], hidden_size=H, direction=direction))
        nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{layer}", "shape"], [f"h{layer}"]))
        below, width = f"h{layer}", sides * H
    tensors.append(numpy_helper.from_array(np.array([0, 0, sides * H]), "shape"))
    tensors.append(numpy_helper.from_array(generator.normal(size=sides * H).astype(np.float32), "head.bias"))
    nodes.append(helper.make_node("Add", [below, "head.bias"], ["z"]))
    nodes.append(helper.make_node("Mul", ["z", "head.bias"], ["out"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", D])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, dict(feed))


def sample(steps: int, batch: int) -> np.ndarray:
    return np.random.default_rng(steps).normal(size=(steps, batch, D)).astype(np.float32)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_models_agree_at_any_length_and_batch(op: str, direction: str) -> None:
    proto = fused(op, direction)
    module = lsc_graph.to_torch(proto)
    for steps, batch in ((1, 1), (4, 3), (9, 2)):
        x = sample(steps, batch)
        (expected,) = run(proto, {"x": x})
        np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_the_state_dict_has_the_names_and_values_of_the_file() -> None:
    proto = fused("LSTM")
    module = lsc_graph.to_torch(proto)
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.name != "shape"}
    assert set(module.state_dict()) == set(stored) == set(dict(module.named_parameters()))
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), stored[name])
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_values_are_computed_with(assign: bool) -> None:
    proto, x = fused("GRU"), sample(5, 2)
    other = copy.deepcopy(proto)
    for tensor in other.graph.initializer:
        if tensor.name != "shape":
            tensor.CopyFrom(numpy_helper.from_array(0.5 * numpy_helper.to_array(tensor), tensor.name))
    module, target = lsc_graph.to_torch(proto), copy.deepcopy(lsc_graph.to_torch(proto))
    target.load_state_dict(lsc_graph.to_torch(other).state_dict(), assign=assign)
    found = target(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, run(other, {"x": x})[0], atol=1e-5)
    np.testing.assert_allclose(
        module(torch.from_numpy(x)).detach().numpy(), run(proto, {"x": x})[0], atol=1e-5
    )
    with pytest.raises(RuntimeError, match=r"rnn\.W\.0"):
        module.load_state_dict({})


def test_gradients_are_those_of_finite_differences_in_onnx_runtime() -> None:
    proto, x = fused("LSTM", layers=1), sample(4, 2)
    module = lsc_graph.to_torch(proto)
    module(x=torch.from_numpy(x)).square().sum().backward()
    generator = np.random.default_rng(5)
    for tensor in proto.graph.initializer:
        if tensor.name == "shape":
            continue
        value = numpy_helper.to_array(tensor)
        step = generator.normal(size=value.shape).astype(np.float32)
        sums = []
        for sign in (1, -1):
            moved = copy.deepcopy(proto)
            (place,) = (t for t in moved.graph.initializer if t.name == tensor.name)
            place.CopyFrom(numpy_helper.from_array(value + np.float32(sign * 1e-2) * step, tensor.name))
            sums.append(float((run(moved, {"x": x})[0].astype(np.float64) ** 2).sum()))
        gradient = dict(module.named_parameters())[tensor.name].grad
        assert gradient is not None
        expected = (sums[0] - sums[1]) / 2e-2
        assert float((gradient * torch.from_numpy(step)).sum()) == pytest.approx(expected, rel=5e-3, abs=1e-3)


def test_it_trains_and_compiles() -> None:
    module = lsc_graph.to_torch(fused("GRU"))
    x = torch.from_numpy(sample(4, 2))
    compiled = torch.compile(module, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    torch.testing.assert_close(compiled(x), module(x))


@needs_cuda
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_it_runs_trains_and_compiles_on_a_gpu(kind: str) -> None:
    module, x = lsc_graph.to_torch(fused(kind)), torch.from_numpy(sample(4, 2))
    expected = module(x)
    module, x = module.cuda(), x.cuda()
    for view in (module, torch.compile(module, backend="aot_eager")):
        found = view(x)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)
        module.zero_grad()
        found.square().sum().backward()
        assert all(p.grad is not None and p.grad.is_cuda for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("overwrite", [False, True])
def test_moving_keeps_parameters_and_graph_together(overwrite: bool) -> None:
    module, x = lsc_graph.to_torch(fused("RNN")), torch.from_numpy(sample(4, 2))
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    try:
        module.bfloat16().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    module.load_state_dict(lsc_graph.to_torch(fused("RNN")).state_dict())
    torch.testing.assert_close(module(x), lsc_graph.to_torch(fused("RNN"))(x))


@pytest.mark.parametrize(
    "call", [lambda m, x: m(), lambda m, x: m(x, x), lambda m, x: m(x, x=x), lambda m, x: m(y=x)]
)
def test_wrong_inputs_are_refused(call: object) -> None:
    module = lsc_graph.to_torch(fused("RNN", layers=1))
    with pytest.raises(UsageError, match="not those of the model"):
        call(module, torch.zeros(2, 1, D))


def check_real(name: str, shapes: Sequence[Mapping[str, tuple[int, ...]]], **fixed: np.ndarray) -> TorchModel:
    path = real_model(name)
    module = lsc_graph.to_torch(path, input_shapes=shapes[0])
    generator = np.random.default_rng(0)
    for sizes in shapes:
        feed = {n: generator.normal(0, 0.1, s).astype(np.float32) for n, s in sizes.items()} | fixed
        outputs: tuple[Tensor, ...] = module(**{n: torch.from_numpy(v) for n, v in feed.items()})
        expected = run(onnx.load(path), feed)
        for mine, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(mine.detach().numpy(), theirs, atol=1e-4, rtol=1e-3)
    return module


def test_a_real_streaming_model_at_two_batch_sizes() -> None:
    shapes = [{"input": (b, 576), "state": (2, b, 128)} for b in (1, 3)]
    module = check_real("silero_vad_16k_op15.onnx", shapes, sr=np.array(16000))
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert trained


def test_a_quantised_model_is_refused() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["v"]),
        helper.make_node("DequantizeLinear", ["v", "scale"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [scale])
    with pytest.raises(AnalysisError, match="quantised"):
        lsc_graph.to_torch(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        )
