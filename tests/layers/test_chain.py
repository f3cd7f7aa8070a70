"""The chain of a feed-forward model: values that every path passes, one after each weighted block."""

from __future__ import annotations

import networkx as nx
import onnx
import onnx_ir as ir
import pytest
from lsc_graph.models import registry

from lsc_graph.canonical.normalize import normalize
from lsc_graph.layers.chain import find_chain
from lsc_graph.recurrence.dataflow import inputs_of


def model_of(name: str, **options: object) -> ir.Model:
    proto = registry.build(name, **options)
    width = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return normalize(proto, {proto.graph.input[0].name: (1, width)}, {})


@pytest.mark.parametrize(
    ("name", "count"), [("feed_forward_sin", 30), ("feed_forward_relu", 30), ("residual_mlp", 8)]
)
def test_every_layer_is_a_block_and_every_boundary_separates_inputs_from_outputs(
    name: str, count: int
) -> None:
    model = model_of(name)
    chain = find_chain(model)
    assert len(chain.boundaries) == count
    flow = nx.DiGraph()
    for node in model.graph:
        flow.add_edges_from((value.name, out.name) for value in inputs_of(node) for out in node.outputs)
    source, target = model.graph.inputs[0].name, model.graph.outputs[0].name
    assert nx.has_path(flow, source, target)
    for boundary in set(chain.boundaries) - {target}:
        rest = flow.copy()
        rest.remove_node(boundary)
        assert not nx.has_path(rest, source, target)


def test_branches_that_never_merge_leave_only_what_comes_before_them() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2] x) => (float[1, 2] a, float[1, 2] b)
    <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] u = {1, 0, 0, 1}>
    {
        h = MatMul(x, w)
        s = Tanh(h)
        a = MatMul(s, u)
        b = MatMul(s, w)
    }
    """
    chain = find_chain(normalize(onnx.parser.parse_model(text), {"x": (1, 2)}, {}))
    assert chain.boundaries == ("s",)


def test_a_model_without_weights_has_no_blocks() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2] x) => (float[1, 2] y) { y = Tanh(x) }'
    assert find_chain(normalize(onnx.parser.parse_model(text), {"x": (1, 2)}, {})).boundaries == ()
