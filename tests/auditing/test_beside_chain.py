"""What a chain of blocks leaves out is named: held inputs, outputs that part, weights in no block."""

from __future__ import annotations

import onnx

from lsc_graph.auditing.beside_chain import beside_chain
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

HEAD = '<ir_version: 8, opset_import: ["" : 18]> '


def words_of(text: str) -> tuple[str, ...]:
    return beside_chain(prepare(onnx.parser.parse_model(HEAD + text), Request(None, {}, {}, (), {})))


def test_a_plain_chain_leaves_nothing_out() -> None:
    text = """g (float[1, 2] x) => (float[1, 2] y, float[1, 2] z) <float[2, 2] w = {1, 2, 3, 4}> {
        h = MatMul(x, w)
        s = Tanh(h)
        y = MatMul(s, w)
        z = Tanh(y)
    }"""
    assert words_of(text) == ()


def test_a_head_that_reads_an_earlier_layer_is_named_with_its_weights() -> None:
    text = """g (float[1, 2] x) => (float[1, 2] y, float[1, 2] z) <float[2, 2] w = {1, 2, 3, 4}> {
        h = MatMul(x, w)
        s = Tanh(h)
        m = MatMul(s, w)
        t = Relu(m)
        y = MatMul(t, w)
        b = Add(t, s)
        z = MatMul(b, w)
    }"""
    parting, weights = words_of(text)
    assert parting.startswith("Output z is computed from layer_0, layer_1, not from the last layer alone")
    assert "1 operator(s) with weights stand beside the layers or behind the last (MatMul z)" in weights


def test_an_input_that_is_read_past_the_first_layer_is_named() -> None:
    text = """g (float[1, 2] x, float[1, 2] c) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
        h = MatMul(x, w)
        s = Tanh(h)
        a = Add(s, c)
        m = MatMul(a, w)
        t = Tanh(m)
        y = Add(t, c)
    }"""
    (held,) = words_of(text)
    assert held.startswith("The layers are those on the way from x: c is read past the first layer and held")
