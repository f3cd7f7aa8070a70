from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from lsc_graph.models import registry
from torch import Tensor, nn

from lsc_graph import audit_model
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.black_parts import Parts, apart, moves_only, outputs_of
from lsc_graph.to_torch.segment import BlackBoxUse, Parameters, Segment


def piece(body: str) -> ir.Graph:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2, 2] x, float[2, 2] y, bool c)
    => (float[2, 2] a, float[2, 2] b, float[2, 2] k) <float[2, 2] w = {{1.0, 2.0, 3.0, 4.0}}> {{ {body} }}"""
    return ir.from_proto(onnx.parser.parse_model(text)).graph


def test_outputs_are_in_groups_that_share_no_input() -> None:
    found = apart(piece("a = Tanh(x) b = Neg(y) k = Transpose(w)"))
    assert [(own.outputs, set(own.inputs)) for own in found] == [((0,), {0}), ((1,), {1}), ((2,), set())]


def test_outputs_that_share_an_input_are_one_group() -> None:
    found = apart(piece("a = Tanh(x) b = Neg(y) k = Add(x, y)"))
    assert [(own.outputs, set(own.inputs)) for own in found] == [((0, 1, 2), {0, 1})]


def test_what_a_branch_reads_from_outside_is_read() -> None:
    then, other = (f"{n} () => (float[2, 2] {n}) {{ {n} = Neg({of}) }}" for n, of in (("t", "y"), ("e", "x")))
    branches = f"then_branch = {then}, else_branch = {other}"
    found = apart(piece(f"a = If (c) <{branches}> b = Neg(w) k = Transpose(w)"))
    assert [(own.outputs, set(own.inputs)) for own in found] == [((0,), {0, 1, 2}), ((1, 2), set())]


def test_parts_have_their_outputs_and_all_inputs() -> None:
    part = outputs_of(piece("a = Tanh(x) b = Neg(y) k = Transpose(w)"), [1])
    assert [value.name for value in part.inputs] == ["x", "y", "c"]
    assert [value.name for value in part.outputs] == ["b"]
    assert [node.op_type for node in part] == ["Neg"]


def test_arithmetic_moves_nothing_only() -> None:
    assert moves_only(piece("a = Transpose(x) b = Identity(y) k = Transpose(w)"))
    assert not moves_only(piece("a = Transpose(x) b = Neg(y) k = Transpose(w)"))


def test_outputs_of_parts_come_in_the_order_of_the_whole() -> None:
    class Times(nn.Module):
        def __init__(self, *factors: float) -> None:
            super().__init__()
            self.factors = factors

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(factor * x for factor in self.factors)

    found = Parts([Times(2.0, 5.0), Times(3.0)], [(0, 2), (1,)])(torch.ones(()))
    assert [float(value) for value in found] == [2.0, 3.0, 5.0]


@pytest.mark.parametrize(("body", "num_boxes"), [("b = Neg(y)", 3), ("b = Transpose(y)", 2)])
def test_weights_that_are_handed_on_need_no_derivative(body: str, num_boxes: int) -> None:
    graph = piece(f"a = Tanh(x) {body} k = Transpose(w)")
    parameters = Parameters(BlackBoxUse.ALWAYS)
    segment = Segment(graph, ["x", "y", "c"], ["a", "b", "k"], opsets={"": 17}, parameters=parameters)
    assert sum(isinstance(module, BlackBox) for module in segment.modules()) == num_boxes
    x, y = (torch.randn(2, 2, requires_grad=True) for _ in range(2))
    a, b, k = segment(x, y, torch.tensor(True))
    assert (a.requires_grad, b.requires_grad, k.requires_grad) == (True, True, False)
    torch.testing.assert_close(k, torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    torch.testing.assert_close(torch.autograd.grad(a.sum(), x)[0], 1 - x.tanh() ** 2, rtol=1e-4, atol=1e-5)


def test_a_layer_above_another_costs_four_runs_for_each_of_what_it_reads() -> None:
    """The weights that are transposed beside what comes from below are not differentiated by."""
    width, steps = 16, 4
    found = audit_model.audit(registry.build("gru"), num_steps=steps, num_samples=1, black_box="always")
    assert found.black_box is not None
    # Each layer by its state and by its input, at all steps twice: along the run, and from changed bars.
    assert found.black_box.num_runs <= 2 * 3 * steps * (4 * width + 1)
