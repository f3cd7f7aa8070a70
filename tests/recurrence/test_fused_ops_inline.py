"""Scans of a single step, replaced by the step."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from oracles_fused import lowered, op_types, random_case, run_ort, run_torch

from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.recurrence.fused_ops import inline_single_step_scans

HEADER = '<ir_version: 10, opset_import: ["" : 17]>'

# Two states, three scanned values on different axes and in different directions, a body initializer,
# a captured value, states that the body swaps, and a scan output that is a slice passed on unchanged.
TWO_STATES = f"""{HEADER}
main (float[2,3] p, float[2,3] q, float[2,%T,3] x, float[%T,2,3] u, float[2,3,%T] v, float[3] w)
  => (float[2,3] p_last, float[2,3] q_last, float[2,3,%T] sums, float[2,%T,3] kept, float[2,%T,3] swapped)
{{
  p_last, q_last, sums, kept, swapped = Scan <
    num_scan_inputs = 3,
    scan_input_axes = [1, 0, -1], scan_input_directions = [0, 1, 0],
    scan_output_axes = [-1, 1, -2], scan_output_directions = [0, 1, 0],
    body = step (float[2,3] a, float[2,3] b, float[2,3] x_t, float[2,3] u_t, float[2,3] v_t)
      => (float[2,3] a_next, float[2,3] b_next, float[2,3] total, float[2,3] x_t_out, float[2,3] a_out)
      <float[3] scale = {{1.5, -0.5, 2.0}}>
      {{
        ax = Mul(a, scale)
        b_next = Add(ax, x_t)
        bw = Mul(b, w)
        uv = Mul(u_t, v_t)
        a_next = Add(bw, uv)
        total = Add(a_next, b_next)
        x_t_out = Identity(x_t)
        a_out = Identity(a)
      }}
  > (p, q, x, u, v)
}}"""


def two_states(steps: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = onnx.parser.parse_model(TWO_STATES.replace("%T", str(steps)))
    model.graph.node[0].name = "loop"
    generator = np.random.default_rng(0)
    feeds = {
        value.name: generator.normal(size=[d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in model.graph.input
    }
    return model, {name: array.astype(np.float32) for name, array in feeds.items()}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    rewritten = ir.from_proto(model)
    inline_single_step_scans(rewritten)
    proto = ir.to_proto(rewritten)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def all_names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return names + [name for node in graph.node for name in node.output if name]


def assert_same(model: onnx.ModelProto, rewritten: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    expected = run_ort(model, feeds)
    for run in (run_ort, run_torch):
        got = run(rewritten, feeds)
        assert list(got) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lens", [None, (1, 0)])
def test_a_fused_operator_of_one_step_becomes_plain_operators(
    op_type: str, direction: str, lens: tuple[int, ...] | None
) -> None:
    case = random_case(op_type, direction=direction, steps=1, lens=lens)
    model = case.model()
    rewritten, ops = lowered(model, inline=True)
    assert op_types(rewritten).isdisjoint({"Scan", op_type})
    assert all(scan.graph is None for op in ops for scan in op.scans)
    assert_same(model, rewritten, case.feeds(model))


def test_a_scan_with_several_states_and_other_axes_is_inlined_exactly() -> None:
    model, feeds = two_states(1)
    rewritten = inlined(model)
    assert "Scan" not in op_types(rewritten)
    assert_same(model, rewritten, feeds)


def test_a_scan_of_two_steps_is_left_as_it_is() -> None:
    model, feeds = two_states(2)
    rewritten = inlined(model)
    assert op_types(rewritten) == {"Scan"}
    assert_same(model, rewritten, feeds)


def test_bodies_that_use_the_same_names_are_kept_apart() -> None:
    model, feeds = two_states(1)
    again = onnx.NodeProto()
    again.CopyFrom(model.graph.node[0])
    again.name = "loop_again"
    again.input[:2] = ["p_last", "q_last"]
    again.output[:] = ["p2", "q2", "sums2", "kept2", "swapped2"]
    body = next(attribute for attribute in again.attribute if attribute.name == "body").g
    body.initializer[0].CopyFrom(numpy_helper.from_array(np.array([7.0, 8.0, 9.0], np.float32), "scale"))
    model.graph.node.append(again)
    model.graph.output.append(onnx.helper.make_tensor_value_info("p2", onnx.TensorProto.FLOAT, [2, 3]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("q2", onnx.TensorProto.FLOAT, [2, 3]))
    untouched = model.SerializeToString(deterministic=True)
    rewritten = inlined(model)
    assert model.SerializeToString(deterministic=True) == untouched
    names = all_names(rewritten)
    assert len(names) == len(set(names))
    assert_same(model, rewritten, feeds)


def test_shapes_of_the_new_values_are_known() -> None:
    rewritten = inlined(two_states(1)[0])
    declared = {value.name: value.type for value in rewritten.graph.value_info}
    del rewritten.graph.value_info[:]
    for value in onnx.shape_inference.infer_shapes(rewritten, data_prop=True).graph.value_info:
        if value.name in declared:
            assert value.type == declared[value.name], value.name


NESTED = f"""{HEADER}
main (float[2,3] h, float[1,2,3] x, bool flag) => (float[2,3] last, float[1,2,3] seen)
{{
  last, seen = Scan <
    num_scan_inputs = 1,
    body = outer (float[2,3] s, float[2,3] x_t) => (float[2,3] s2, float[2,3] o)
    {{
      inner, all = Scan <
        num_scan_inputs = 1,
        body = in (float[2,3] s_in, float[2,3] y_t) => (float[2,3] r, float[2,3] e)
        {{
          r = Add(s_in, y_t)
          e = Mul(r, x_t)
        }}
      > (s, x)
      s2 = If (flag) <
        then_branch = t () => (float[2,3] s3) {{ s3 = Mul(inner, x_t) }},
        else_branch = e () => (float[2,3] s4) {{ s4 = Neg(s) }}
      >
      o = Squeeze(all, zero)
    }}
  > (h, x)
}}"""


@pytest.mark.parametrize("flag", [True, False])
def test_scans_inside_scans_and_branches_that_read_states_are_inlined(flag: bool) -> None:
    model = onnx.parser.parse_model(NESTED)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    rewritten = inlined(model)
    assert "Scan" not in op_types(rewritten)
    generator = np.random.default_rng(0)
    feeds = {
        "h": generator.normal(size=(2, 3)).astype(np.float32),
        "x": generator.normal(size=(1, 2, 3)).astype(np.float32),
        "flag": np.array(flag),
    }
    expected = run_ort(model, feeds)
    got = run_ort(rewritten, feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6)


def test_an_operator_set_below_13_is_refused() -> None:
    model, _ = two_states(1)
    model.opset_import[0].version = 11
    with pytest.raises(UnsupportedOpsetError, match="loop"):
        inline_single_step_scans(ir.from_proto(model))
