"""Packed states come apart where the output is a concatenation and every reader takes one piece."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from lsc_graph.recurrence.packed import unpack

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
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    model = ir.from_proto(proto)
    import onnx_ir.passes.common as passes

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
    unpacked = unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1])
    assert unpacked is not None
    assert unpacked.axis == 0
    assert [value.name for value in model.graph.inputs] == ["x", *unpacked.before]
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    model.graph.outputs.extend(values[name] for name in unpacked.after)
    found = run(model, {"x": x, **{n: state[i : i + 1] for i, n in enumerate(unpacked.before)}})
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6)
    np.testing.assert_allclose(found["stateN"], expected["stateN"], rtol=1e-6)
    pieces = np.concatenate([found[name] for name in unpacked.after])
    np.testing.assert_allclose(pieces, expected["stateN"], rtol=1e-6)


def test_a_reader_of_the_whole_state_keeps_it_packed() -> None:
    whole = READERS["Gather"] + "norm = ReduceMax<keepdims = 0>(state)\n"
    model = model_of(whole, "shifted = Add(ha, norm)\n stateN = Concat<axis = 0>(shifted, ca)")
    before = ir.to_proto(model).SerializeToString()
    assert unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1]) is None
    assert ir.to_proto(model).SerializeToString() == before


def test_a_state_that_is_no_concatenation_stays_whole() -> None:
    model = model_of(READERS["Gather"], "both = Concat<axis = 0>(ha, ca)\n stateN = Softmax<axis = 0>(both)")
    assert unpack(model.graph, model.graph.inputs[1], model.graph.outputs[1]) is None
