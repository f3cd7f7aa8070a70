"""Branches that data decide: both are computed where that can be, and else it is said why not."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from parsed_models import parsed

from lsc_graph.audit_model import audit
from lsc_graph.canonical.branches import why_not_selected
from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import NoLayersError

T, H = 5, 3
STATE = f"float[1, {H}]"
STEP = "x_t = Gather<axis = 0>(x, i) a = MatMul(x_t, W) b = MatMul(h, U) s = Add(a, b) h_out = Tanh(s)"
BODY = f"step (int64 i, bool c, {STATE} h) => (bool go, {STATE} h_out, {STATE} y)"
WHOLE = "go = Identity(c)"
ENDED = "one = Constant<value_int = 1>() j = Add(i, one) go = Less(j, trips)"


def loop(inputs: str, end: str = WHOLE) -> str:
    return f"last, ys = Loop<body = {BODY} {{{STEP} y = Identity(h_out) {end}}}> ({inputs}, start)"


def decided(then: str, otherwise: str = "zs = Identity(x)") -> str:
    """The condition is true of whatever is small."""
    return f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{T}, 1, {H}] x) => (float[A, 1, {H}] y) {{
        trips = Constant<value_int = {T}>() fewer = Constant<value_int = 4>()
        yes = Constant<value = bool {{1}}>() level = Constant<value_float = 1000.0>()
        start = Constant<value = float[1, {H}] {{0.1, 0.2, 0.3}}>()
        total = ReduceSum<keepdims = 0>(x) m = Less(total, level)
        y = If (m) <then_branch = then () => (float[B, 1, {H}] ys) {{{then}}},
                    else_branch = other () => (float[C, 1, {H}] zs) {{{otherwise}}}>
    }}"""


def test_a_loop_of_known_length_may_stand_in_a_branch() -> None:
    found = audit(parsed(decided(loop("trips, yes")), W=(H, H), U=(H, H)), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T]
    assert [layer.state_size for layer in found.layers] == [H]
    assert any("then branch" in own for own in found.warnings)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (loop("fewer, yes"), "they give ys of shape (4, 1, 3) or zs of (5, 1, 3)"),
        (loop("trips, yes", ENDED), "the size of their result ys is not known"),
        (loop('"", yes', ENDED), "how often Loop"),
    ],
)
def test_branches_that_cannot_both_be_computed_are_told_why(nodes: str, reason: str) -> None:
    proto = parsed(decided(nodes), W=(H, H), U=(H, H))
    model = normalize(proto, {"x": (T, 1, H)}, {})
    (holder,) = (node for node in model.graph if node.op_type == "If")
    assert reason in str(why_not_selected(holder))
    with pytest.raises(NoLayersError, match="both cannot be computed"):
        audit(proto, num_samples=1)


def test_results_of_different_types_are_told_apart() -> None:
    kinds = {"float": ir.DataType.FLOAT, "double": ir.DataType.DOUBLE}
    values = {name: ir.val(name, dtype=kind, shape=[2]) for name, kind in kinds.items()}
    graphs = {
        branch: ir.AttrGraph(branch, ir.Graph([], [value], nodes=[], name=branch))
        for branch, value in zip(("then_branch", "else_branch"), values.values(), strict=True)
    }
    node = ir.node("If", [ir.val("m", dtype=ir.DataType.BOOL, shape=[])], graphs)
    assert why_not_selected(node) == "they give float of FLOAT or double of DOUBLE"
