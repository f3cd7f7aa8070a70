"""Gated cells: the Jacobians that unitwise pieces and shared weights stand for are the true ones."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from lsc_graph.models import registry
from single_runs import top_cell

from lsc_graph.jacobians.cell import cell_points
from lsc_graph.jacobians.gated import GatedJacobians, gated_jacobians
from lsc_graph.results import Form
from lsc_graph.to_torch.loop import CellModule, Trajectory

STEPS = 5
Given = tuple[CellModule, Trajectory]


def cell_of(model: onnx.ModelProto) -> Given:
    return top_cell(model, STEPS)


def found_in(module: CellModule, trajectory: Trajectory) -> GatedJacobians | None:
    points = cell_points(module, trajectory)
    own = [module.reads.index(("before", state.name)) for state in module.cell.layer.states]
    with torch.no_grad():
        return gated_jacobians(module, points, own, torch.Generator().manual_seed(0))


def true_jacobians(module: CellModule, trajectory: Trajectory) -> torch.Tensor:
    """By autograd, point by point."""
    points = cell_points(module, trajectory)
    names = [("before", state.name) for state in module.cell.layer.states]
    own = [module.reads.index(name) for name in names]
    found = []
    for number in range(points[0].shape[0]):
        values = [point[number].detach() for point in points]

        def step(*states: torch.Tensor, values: list[torch.Tensor] = values) -> torch.Tensor:
            given = list(values)
            for index, state in zip(own, states, strict=True):
                given[index] = state
            return torch.cat([value.reshape(-1) for value in module(*given)])

        blocks = torch.autograd.functional.jacobian(step, tuple(values[index] for index in own))
        found.append(torch.cat([block.flatten(1) for block in blocks], 1))
    return torch.stack(found).detach()


def concatenated() -> onnx.ModelProto:
    """A gated cell whose one product reads input and state side by side, its gates after one another."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.4 * torch.randn(3 + 6, 12, generator=generator)
    nodes = [
        onnx.helper.make_node("Concat", ["x", "h_in"], ["xh"], axis=1),
        onnx.helper.make_node("MatMul", ["xh", "w"], ["g"]),
        onnx.helper.make_node("Split", ["g"], ["a", "b"], axis=1, num_outputs=2),
        onnx.helper.make_node("Sigmoid", ["a"], ["f"]),
        onnx.helper.make_node("Tanh", ["b"], ["n"]),
        onnx.helper.make_node("Mul", ["f", "h_in"], ["kept"]),
        onnx.helper.make_node("Add", ["kept", "n"], ["h_out"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "step",
        [
            onnx.helper.make_tensor_value_info("x", floats, [1, 3]),
            onnx.helper.make_tensor_value_info("h_in", floats, [1, 6]),
        ],
        [onnx.helper.make_tensor_value_info("h_out", floats, [1, 6])],
        [onnx.numpy_helper.from_array(weight.numpy(), "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def convolved(places: int = 1) -> onnx.ModelProto:
    """A gated cell whose state [1, 6, places] is multiplied by a convolution of one tap, with a bias."""
    floats, generator = onnx.TensorProto.FLOAT, torch.Generator().manual_seed(0)
    arrays = {
        "w": 0.4 * torch.randn(12, 6, 1, generator=generator),
        "b": torch.randn(12, generator=generator),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["h_in", "w", "b"], ["g"]),
        onnx.helper.make_node("Split", ["g"], ["a", "c"], axis=1, num_outputs=2),
        onnx.helper.make_node("Sigmoid", ["a"], ["f"]),
        onnx.helper.make_node("Add", ["c", "x"], ["read"]),
        onnx.helper.make_node("Tanh", ["read"], ["n"]),
        onnx.helper.make_node("Mul", ["f", "h_in"], ["kept"]),
        onnx.helper.make_node("Add", ["kept", "n"], ["h_out"]),
    ]
    inputs = [onnx.helper.make_tensor_value_info(name, floats, [1, 6, places]) for name in ("x", "h_in")]
    outputs = [onnx.helper.make_tensor_value_info("h_out", floats, [1, 6, places])]
    weights = [onnx.numpy_helper.from_array(array.numpy(), name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "step", inputs, outputs, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def scan(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: registry.build(name, hidden_size=7, form=Form.SCAN)


GATED: dict[str, Callable[[], onnx.ModelProto]] = {
    "rnn": lambda: registry.build("tanh_rnn", hidden_size=7),
    "gru": lambda: registry.build("gru", hidden_size=7),
    "lstm": lambda: registry.build("lstm", hidden_size=7),
    "streaming gru": lambda: registry.build("streaming_gru", hidden_size=7),
    "alif": scan("alif_smooth"),
    "slstm": scan("slstm"),
    "input and state side by side": concatenated,
    "a convolution of one tap": convolved,
}


@pytest.mark.parametrize("name", GATED)
def test_the_matrices_are_the_true_jacobians(name: str) -> None:
    module, trajectory = cell_of(GATED[name]())
    found = found_in(module, trajectory)
    assert found is not None
    expected = true_jacobians(module, trajectory)
    torch.testing.assert_close(found.dense(), expected, rtol=1e-4, atol=1e-5)
    numbers = torch.tensor([3, 1])
    torch.testing.assert_close(found.at(numbers).dense(), expected[numbers], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GATED)
def test_the_operator_is_the_transposed_jacobian(name: str) -> None:
    module, trajectory = cell_of(GATED[name]())
    found = found_in(module, trajectory)
    assert found is not None
    operator = found.operator().at(torch.tensor([0, 4]))
    vectors = torch.randn(2, operator.size, generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("pi,pij->pj", vectors, true_jacobians(module, trajectory)[[0, 4]])
    torch.testing.assert_close(operator.apply(vectors), expected, rtol=1e-4, atol=1e-5)


def test_one_product_after_another_is_followed() -> None:
    """A GRU whose reset gate acts before the product."""
    model = GATED["gru"]()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "linear_before_reset":
                attribute.i = 0
    module, trajectory = cell_of(model)
    found = found_in(module, trajectory)
    assert found is not None
    assert len(found.weights) > 1
    torch.testing.assert_close(found.dense(), true_jacobians(module, trajectory), rtol=1e-4, atol=1e-5)


def test_points_that_do_not_fit_at_once_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    module, trajectory = cell_of(GATED["lstm"]())
    found = found_in(module, trajectory)
    assert found is not None
    whole = found.dense()
    monkeypatch.setattr("lsc_graph.jacobians.gated._MAX_BYTES", 1)
    assert bool((found.dense() == whole).all())


def mixing() -> onnx.ModelProto:
    """A state that is normalised over its units: these meet outside of any product."""
    model = concatenated()
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["sum"], ["h_out"], axis=1))
    return model


@pytest.mark.parametrize(
    "build",
    [mixing, scan("lru"), lambda: convolved(places=3)],
    ids=["normalised", "no product of the state", "a product at every place"],
)
def test_other_cells_have_no_such_form(build: Callable[[], onnx.ModelProto]) -> None:
    assert found_in(*cell_of(build())) is None
