"""Gradients of the rewritten model in torch against finite differences of the original."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx2fx
import onnx_ir as ir
import pytest
import torch
from oracles_fused import Case, lowered, random_case, run_oracle, run_ort, run_torch

WEIGHTS = ("W", "R", "B", "P")
VARIANTS = {
    "plain": {},
    "bidirectional with lengths": {"direction": "bidirectional", "lens": (4, 2)},
    "reverse, clipped": {"direction": "reverse", "clip": 0.5},
}
OPTIONS = {
    "RNN": [
        {},
        {"activations": ["Sigmoid"]},
        {"activations": ["Softsign"]},
        {"activations": ["HardSigmoid"]},
    ],
    "GRU": [{}, {"linear_before_reset": 1}],
    "LSTM": [{}, {"input_forget": 1}],
}


def make_case(op_type: str, option: dict, variant: str, dtype: type) -> Case:
    settings = VARIANTS[variant]
    option = dict(option)
    if settings.get("direction") == "bidirectional" and "activations" in option:
        option["activations"] = option["activations"] * 2
    inputs = ("B", "initial_h", *(("initial_c", "P") if op_type == "LSTM" else ()))
    return random_case(op_type, seed=3, dtype=dtype, with_inputs=inputs, **settings, **option)


def cotangents(case: Case) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    return {name: generator.normal(size=array.shape) for name, array in case.expected().items()}


def loss(outputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> float:
    return float(sum((outputs[name].astype(np.float64) * weights[name]).sum() for name in weights))


def torch_gradients(case: Case) -> dict[str, np.ndarray]:
    """Gradients of the loss in all floating-point inputs and weights, in float64."""
    double = Case(case.op_type, dict(case.inputs), case.attributes, case.outputs, case.opset)
    for name, array in case.inputs.items():
        double.inputs[name] = array if name == "sequence_lens" else array.astype(np.float64)
    rewritten, _ = lowered(double.model(fed=WEIGHTS))
    tensors = {n: torch.tensor(a, requires_grad=a.dtype == np.float64) for n, a in double.inputs.items()}
    outputs = run_torch(rewritten, tensors)
    sum((outputs[n] * torch.tensor(w)).sum() for n, w in cotangents(case).items()).backward()
    return {name: tensor.grad.numpy() for name, tensor in tensors.items() if tensor.grad is not None}


def moved(case: Case, name: str, change: np.ndarray) -> Case:
    inputs = {**case.inputs, name: (case.inputs[name] + change).astype(case.inputs[name].dtype)}
    return Case(case.op_type, inputs, case.attributes, case.outputs, case.opset)


def central_difference(function: Callable[[float], float], step: float) -> float:
    """Richardson-extrapolated: error O(step^4)."""
    coarse, fine = ((function(s) - function(-s)) / (2 * s) for s in (step, step / 2))
    return (4 * fine - coarse) / 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("op_type", "option"), [(op, option) for op in OPTIONS for option in OPTIONS[op]])
def test_every_partial_derivative_is_that_of_the_oracle_in_double(
    op_type: str, option: dict, variant: str
) -> None:
    case = make_case(op_type, option, variant, np.float64)
    gradients, weights = torch_gradients(case), cotangents(case)
    assert set(gradients) == set(case.inputs) - {"sequence_lens"}
    generator = np.random.default_rng(1)
    for name, gradient in gradients.items():
        for _ in range(6):
            direction = np.zeros(gradient.size)
            direction[generator.integers(gradient.size)] = 1.0
            direction = direction.reshape(gradient.shape)
            expected = central_difference(
                lambda s, d=direction, n=name: loss(run_oracle(moved(case, n, s * d)), weights), 1e-4
            )
            assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8), name


@pytest.mark.parametrize(
    ("op_type", "option"), [(op, option) for op in OPTIONS for option in OPTIONS[op][:2]]
)
@pytest.mark.parametrize("variant", ["plain", "bidirectional with lengths"])
def test_directional_derivatives_are_those_of_the_original_in_onnx_runtime(
    op_type: str, option: dict, variant: str
) -> None:
    case = make_case(op_type, option, variant, np.float32)
    gradients, weights = torch_gradients(case), cotangents(case)
    model = case.model(fed=WEIGHTS)
    for name, gradient in gradients.items():
        direction = np.random.default_rng(5).normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)

        def along(step: float, n: str = name, d: np.ndarray = direction) -> float:
            there = moved(case, n, step * d)
            return loss(run_ort(model, there.feeds(model)), weights)

        got = (gradient * direction).sum()
        scale = max(float(np.linalg.norm(gradient)), 1e-3)
        assert got == pytest.approx(central_difference(along, 0.1), abs=2e-4 * scale), name


@pytest.mark.parametrize(
    "name", ["LeakyRelu", "Relu", "Elu", "Softplus", "ThresholdedRelu", "ScaledTanh", "Affine"]
)
def test_activations_with_a_kink_or_parameters_have_the_right_slopes(name: str) -> None:
    parameters = {"activation_alpha": [0.3], "activation_beta": [0.8]}
    case = random_case("RNN", seed=11, dtype=np.float64, activations=[name], **parameters)
    gradients, weights = torch_gradients(case), cotangents(case)
    for index in range(9):
        direction = np.eye(9)[index].reshape(1, 3, 3)
        expected = central_difference(
            lambda s, d=direction: loss(run_oracle(moved(case, "R", s * d)), weights), 1e-5
        )
        assert gradients["R"].ravel()[index] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def body_as_model(scan: ir.Node) -> tuple[onnx.ModelProto, list[str]]:
    """The step on its own, and the names of the captured values, which are its last inputs."""
    body = scan.attributes["body"].as_graph()
    inner = {*body.inputs, *(value for node in body for value in node.outputs)}
    captured = list(
        dict.fromkeys(v for node in body for v in node.inputs if v is not None and v not in inner)
    )
    graph = ir.serde.serialize_graph(body)
    graph.input.extend(ir.serde.serialize_value(value) for value in captured)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model, [str(value.name) for value in captured]


@pytest.mark.parametrize(("op_type", "option"), [(op, option) for op in OPTIONS for option in OPTIONS[op]])
def test_the_step_alone_in_torch_has_the_jacobian_of_one_step_under_vmap(op_type: str, option: dict) -> None:
    case = make_case(op_type, option, "plain", np.float64)
    rewritten, (op,) = lowered(case.model())
    body, captured = body_as_model(op.scans[0])
    rewritten.graph.output.extend(onnx.helper.make_tensor_value_info(name, 11, None) for name in captured)
    outer = run_torch(rewritten, case.feeds(rewritten))
    module, states = onnx2fx.convert(body), [torch.as_tensor(case.inputs["initial_h"][0])]
    if op_type == "LSTM":
        states.append(torch.as_tensor(case.inputs["initial_c"][0]))

    def step(h: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        rows = [value[None] for value in (h, *others)]
        return module(*rows, *(outer[name] for name in captured))[0][0]

    x = torch.as_tensor(case.inputs["X"][0])
    jacobian = torch.vmap(torch.func.jacrev(step))(*states, x)
    for unit in range(case.hidden_size):
        change = np.zeros_like(case.inputs["initial_h"])
        change[..., unit] = 1e-6
        plus, minus = (run_oracle(moved(case, "initial_h", s * change))["Y"][0, 0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[..., unit], (plus - minus) / 2e-6, rtol=1e-6, atol=1e-8)


def test_beyond_the_clip_threshold_the_gradient_is_zero() -> None:
    case = random_case("RNN", with_inputs=("B",), dtype=np.float64, clip=1e-3)
    assert not torch_gradients(case)["W"].any()
