"""Packed states come apart where the output is a concatenation and every reader takes one piece."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import pytest

from lsc_graph.recurrence.packed import Piece, unpack

READERS = {
    "Gather": """
        zero = Constant<value = int64 {0}>()
        one = Constant<value = int64 {-1}>()
        h = Gather<axis = 0>(state, zero)
        c = Gather<axis = 0>(state, one)
    """,
    "Slice and Squeeze": """
        s0 = Constant<value = int64[1] {0}>()
        s1 = Constant<value = int64[1] {1}>()
        s2 = Constant<value = int64[1] {9223372036854775807}>()
        h1 = Slice(state, s0, s1, s0)
        h = Squeeze(h1, s0)
        c1 = Slice(state, s1, s2, s0)
        c = Squeeze(c1, s0)
    """,
    "Split": """
        sizes = Constant<value = int64[2] {1, 1}>()
        s0 = Constant<value = int64[1] {0}>()
        h1, c1 = Split<axis = 0>(state, sizes)
        h = Squeeze(h1, s0)
        c = Squeeze(c1, s0)
    """,
}
WRITERS = {
    "Concat": "stateN = Concat<axis = 0>(ha, ca)",
    "plus a constant": """
        tiny = Constant<value = float {0.0}>()
        both = Concat<axis = 0>(ha, ca)
        stateN = Add(both, tiny)
    """,
    "nested elementwise": """
        two = Constant<value = float {2.0}>()
        half = Constant<value = float {0.5}>()
        both = Concat<axis = 0>(ha, ca)
        doubled = Mul(two, both)
        stateN = Mul(doubled, half)
    """,
}


def model_of(reader: str, writer: str) -> ir.Model:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[1, 3] x, float[2, 1, 3] state) => (float[1, 3] y, float[2, 1, 3] stateN)
    {{
        {reader}
        ax = Constant<value = int64[1] {{0}}>()
        gated = Mul(c, x)
        cn = Tanh(gated)
        both0 = Add(h, cn)
        hn = Sigmoid(both0)
        y = Identity(hn)
        ha = Unsqueeze(hn, ax)
        ca = Unsqueeze(cn, ax)
        {writer}
    }}
    """
    return lifted(text)


def lifted(text: str) -> ir.Model:
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    model = ir.from_proto(proto)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("reader", READERS)
def test_pieces_become_inputs_and_the_step_computes_the_same(reader: str, writer: str) -> None:
    model = model_of(READERS[reader], WRITERS[writer])
    generator = np.random.default_rng(0)
    x, state = (generator.standard_normal(s).astype(np.float32) for s in ((1, 3), (2, 1, 3)))
    expected = run(model, {"x": x, "state": state})
    pieces = unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1])
    assert [piece.place for piece in pieces] == [((0, 0, 1),), ((0, 1, 2),)]
    found = run_in_pieces(model, {"x": x}, state, pieces)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6)
    np.testing.assert_allclose(found["stateN"], expected["stateN"], rtol=1e-6)
    written = np.concatenate([found[piece.after] for piece in pieces])
    np.testing.assert_allclose(written, expected["stateN"], rtol=1e-6)


def run_in_pieces(
    model: ir.Model, feed: dict[str, np.ndarray], state: np.ndarray, pieces: tuple[Piece, ...]
) -> dict[str, np.ndarray]:
    assert [value.name for value in model.graph.inputs] == [*feed, *(piece.before for piece in pieces)]
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    model.graph.outputs.extend(values[piece.after] for piece in pieces)
    return run(model, feed | {piece.before: piece.of(state) for piece in pieces})


def test_states_that_were_packed_twice_come_apart_twice() -> None:
    """Two layers of h and c as [1, 2, H, 2], stacked as tf2onnx writes it."""
    slices = "\n".join(
        f"s{i}{j} = Slice(state, from{i}{j}, to{i}{j}, axes)\n p{i}{j} = Squeeze(s{i}{j}, axes)"
        for i in range(2)
        for j in range(2)
    )
    bounds = "\n".join(
        f"from{i}{j} = Constant<value = int64[2] {{{i}, {j}}}>()\n"
        f"to{i}{j} = Constant<value = int64[2] {{{i + 1}, {j + 1}}}>()"
        for i in range(2)
        for j in range(2)
    )
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[1, 3] x, float[1, 2, 3, 2] state) => (float[1, 2, 3, 2] stateN)
    {{
        axes = Constant<value = int64[2] {{1, 3}}>()
        one = Constant<value = int64[1] {{1}}>()
        last = Constant<value = int64[1] {{3}}>()
        {bounds}
        {slices}
        n00 = Add(p00, x)
        n01 = Mul(p01, n00)
        n10 = Sub(p10, n00)
        n11 = Mul(p11, n10)
        u00 = Unsqueeze(n00, one)
        u01 = Unsqueeze(n01, one)
        u10 = Unsqueeze(n10, one)
        u11 = Unsqueeze(n11, one)
        h = Concat<axis = 1>(u00, u10)
        c = Concat<axis = 1>(u01, u11)
        hu = Unsqueeze(h, last)
        cu = Unsqueeze(c, last)
        stateN = Concat<axis = 3>(hu, cu)
    }}
    """
    model = lifted(text)
    generator = np.random.default_rng(0)
    x, state = (generator.standard_normal(s).astype(np.float32) for s in ((1, 3), (1, 2, 3, 2)))
    expected = run(model, {"x": x, "state": state})["stateN"]
    pieces = unpack(model.graph, model.graph.inputs[1], model.graph.outputs[0])
    assert [piece.place for piece in pieces] == [
        ((3, j, j + 1), (1, i, i + 1)) for j in range(2) for i in range(2)
    ]
    found = run_in_pieces(model, {"x": x}, state, pieces)
    np.testing.assert_allclose(found["stateN"], expected, rtol=1e-6)
    for piece in pieces:
        np.testing.assert_allclose(found[piece.after], piece.of(expected), rtol=1e-6)


def is_whole(pieces: tuple[Piece, ...]) -> bool:
    return pieces == (Piece("state", "stateN"),)


def test_a_reader_of_the_whole_state_keeps_it_packed() -> None:
    whole = READERS["Gather"] + "norm = ReduceMax<keepdims = 0>(state)\n"
    model = model_of(whole, "shifted = Add(ha, norm)\n stateN = Concat<axis = 0>(shifted, ca)")
    before = ir.to_proto(model).SerializeToString()
    assert is_whole(unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1]))
    assert ir.to_proto(model).SerializeToString() == before


def test_a_state_that_is_no_concatenation_stays_whole() -> None:
    model = model_of(READERS["Gather"], "both = Concat<axis = 0>(ha, ca)\n stateN = Softmax<axis = 0>(both)")
    assert is_whole(unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1]))
