"""Feed-forward chains with masks, held inputs, bypasses and several heads, beside the network as a whole."""

from __future__ import annotations

import onnx
import pytest
import torch
from chain_models import masked_chain
from torch.func import jacrev

from lsc_graph.audit_model import audit
from lsc_graph.auditing.measure import FeedForward
from lsc_graph.jacobians.chain import chain_blocks
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.to_torch.segment import Segment


@pytest.fixture
def model() -> onnx.ModelProto:
    return masked_chain()


def request() -> Request:
    return Request(None, {"low": "1"}, {}, (), {})


def test_the_product_of_the_blocks_is_the_derivative_of_the_whole_network(model: onnx.ModelProto) -> None:
    prepared = prepare(model, request())
    view = FeedForward(prepared, "cpu", torch.Generator())
    assert prepared.chain is not None
    assert prepared.chain.boundaries == ("s1", "m2", "s3", "y")
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "x": torch.randn(1, 4, generator=generator),
        "context": torch.randn(1, 4, generator=generator),
        "low": torch.tensor(1.0),
        "keep": torch.tensor([[1, 0, 2, 1]]),
    }
    run = view.program(inputs)
    first, last = prepared.chain.boundaries[0], prepared.chain.boundaries[-1]
    graph, opsets = prepared.findings.model.graph, dict(prepared.findings.model.opset_imports)
    names = [first, "context", "low", "keep"]
    whole = Segment(graph, names, [last, "z"], opsets=opsets, parameters=view.parameters)
    held = [inputs[name] for name in names[1:]]
    expected = jacrev(lambda state: whole(state, *held)[0])(run.boundaries[0]).reshape(4, 4)
    product = torch.eye(4)
    for block in chain_blocks(view.program, run, prepared.cell_graph):
        assert block.matrix is not None
        product = block.matrix @ product
    torch.testing.assert_close(product, expected)
    assert bool((expected.detach() != 0).any())
    torch.testing.assert_close(run.outputs["z"], whole(run.boundaries[0], *held)[1])


@pytest.mark.parametrize("black_box", ["never", "always"])
def test_an_audit_agrees_with_onnx_runtime_and_says_what_is_beside_the_layers(
    model: onnx.ModelProto, black_box: str
) -> None:
    found = audit(model, inputs={"low": "1"}, num_samples=2, black_box=black_box)
    assert [layer.name for layer in found.layers] == ["s1", "m2", "s3", "y"]
    said = "\n".join(found.warnings)
    assert "The layers are those on the way from x: context is read past the first layer and held" in said
    assert "Output z is computed from layer_0, layer_2, not from the last layer alone" in said
    assert (
        "2 operator(s) with weights stand beside the layers or behind the last (MatMul k, MatMul z)" in said
    )
