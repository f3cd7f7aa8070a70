"""The chain of a feed-forward model: values that every path passes, one after each weighted block."""

from __future__ import annotations

import networkx as nx
import onnx
import onnx_ir as ir
import pytest
from lsc_graph.models import registry
from parsed_models import parsed

from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import NoLayersError
from lsc_graph.layers.chain import Chain, find_chain, why_no_chain
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
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


def chain_of(text: str, shapes: dict[str, tuple[int, ...]]) -> Chain:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> ' + text)
    return find_chain(normalize(model, shapes, {}))


def test_where_heads_part_the_first_of_the_deepest_is_followed_and_the_others_are_computed_beside_it() -> (
    None
):
    chain = chain_of(
        """g (float[1, 2] x) => (float[1, 2] a, float[1, 2] b, float[1, 2] c)
        <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] u = {1, 0, 0, 1}> {
            h = MatMul(x, w)
            s = Tanh(h)
            a = MatMul(s, u)
            k = MatMul(s, w)
            t = Tanh(k)
            b = MatMul(t, w)
            c = MatMul(t, u)
        }""",
        {"x": (1, 2)},
    )
    assert (chain.boundaries, chain.output) == (("s", "t", "b"), "b")
    assert chain.sides == ((), (), (), ("s", "t"))


def test_an_output_inside_the_network_cuts_off_nothing() -> None:
    chain = chain_of(
        """g (float[1, 2] x) => (float[1, 2] s, float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            h = MatMul(x, w)
            s = Tanh(h)
            y = MatMul(s, w)
        }""",
        {"x": (1, 2)},
    )
    assert chain.boundaries == ("s", "y")


def test_masks_made_of_scalars_are_held_where_a_layer_reads_them() -> None:
    chain = chain_of(
        """g (float[1, 2] x, float low) => (float[1, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[1, 2] places = {0, 1}, float zero = {0}> {
            h = MatMul(x, w)
            s = Tanh(h)
            is_kept = GreaterOrEqual(places, low)
            k = Where(is_kept, s, zero)
            m = MatMul(k, w)
            y = Where(is_kept, m, zero)
        }""",
        {"x": (1, 2), "low": ()},
    )
    assert (chain.boundaries, chain.inputs) == (("k", "y"), ("x",))
    assert chain.sides == ((), ("is_kept",), ())


def test_a_mask_that_a_block_makes_of_what_it_computes_stays_inside() -> None:
    chain = chain_of(
        """g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float zero = {0}> {
            s = MatMul(x, w)
            h = MatMul(s, w)
            is_positive = Greater(h, zero)
            y = Where(is_positive, h, zero)
        }""",
        {"x": (1, 2)},
    )
    assert (chain.boundaries, chain.sides) == (("s", "y"), ((), (), ()))


def test_inputs_past_which_there_are_more_layers_are_held() -> None:
    chain = chain_of(
        """g (float[1, 2] x, float[1, 2] context) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            h = MatMul(x, w)
            k = MatMul(context, w)
            s = Add(h, k)
            m = MatMul(s, w)
            r = Tanh(m)
            y = Add(r, k)
        }""",
        {"x": (1, 2), "context": (1, 2)},
    )
    assert (chain.boundaries, chain.inputs) == (("s", "y"), ("x",))
    assert chain.sides[1] == ("k",)


def test_padding_masks_made_of_tokens_are_no_way_past_the_layers() -> None:
    chain = chain_of(
        """g (int64[3] tokens) => (float[3, 2] y)
        <float[5, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, float[2, 2] w = {1, 2, 3, 4}, int64 zero = {0}> {
            e = Gather(table, tokens)
            is_padding = Equal(tokens, zero)
            as_float = Cast<to=1>(is_padding)
            axis = Constant<value = int64[1] {1}>()
            column = Unsqueeze(as_float, axis)
            a = Mul(e, column)
            h = MatMul(a, w)
            s = Tanh(h)
            b = Mul(s, column)
            y = MatMul(b, w)
        }""",
        {"tokens": (3,)},
    )
    assert chain.boundaries == ("a", "b", "y")
    assert chain.sides[1] == ("column",)


def test_a_model_without_weights_has_no_blocks() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2] x) => (float[1, 2] y) { y = Tanh(x) }'
    assert find_chain(normalize(onnx.parser.parse_model(text), {"x": (1, 2)}, {})).boundaries == ()


def test_why_there_is_no_block_is_said() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2] x) => (float[1, 2] y) { y = Tanh(x) }'
    (words,) = why_no_chain(normalize(onnx.parser.parse_model(text), {"x": (1, 2)}, {}))
    assert words.startswith("no floating-point matrix or kernel of the file is read")


def test_a_held_input_that_may_be_a_state_is_asked_for() -> None:
    """A step h' = tanh(h U), z = tanh(x W) V + h V: on the way from x alone, h would be held."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[1, 3] x, float[1, 5] h) => (float[1, 2] z, float[1, 5] g) {
        a = MatMul(x, w)
        b = Tanh(a)
        c = MatMul(b, v)
        d = MatMul(h, v)
        z = Add(c, d)
        e = MatMul(h, u)
        g = Tanh(e)
    }"""
    proto = parsed(text, w=(3, 5), v=(5, 2), u=(5, 5))
    with pytest.raises(NoLayersError, match="--state h:g if it is one"):
        prepare(proto, Request(None, {}, {}, (), {}))
    stateless = prepare(proto, Request(None, {}, {}, (("none", ""),), {}))
    assert stateless.chain is not None
    assert stateless.chain.inputs == ("x",)


EMPTY = """g (float[1, 2] x) => (float[0, 2] y) <float[2, 2] w = {1, 2, 3, 4}, int64[1] none = {0}> {
    %s
    cut = Slice(h, none, none, none)
    k = MatMul(cut, w)
    y = Tanh(k)
}"""


def test_a_value_without_elements_ends_no_block() -> None:
    assert chain_of(EMPTY % "a = MatMul(x, w) h = Tanh(a)", {"x": (1, 2)}).boundaries == ("h",)


def test_weights_that_only_such_values_meet_are_told() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> ' + EMPTY % "h = Tanh(x)"
    model = normalize(onnx.parser.parse_model(text), {"x": (1, 2)}, {})
    assert find_chain(model).boundaries == ()
    assert list(why_no_chain(model)) == ["weights enter a value without any element: k"]
