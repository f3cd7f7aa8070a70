"""Layers that keep their states where a sequence has ended, written out step by step, are those of a loop."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from lsc_graph.audit_model import audit

T, B, H = 6, 2, 3
LENGTHS = np.array([1, 5])
STATE = f"float[{B}, {H}]"
ASKED = {
    "t < length": "m{t} = Less(at{t}, n)",
    "length > t": "m{t} = Greater(n, at{t})",
    "t + 1 <= length": "m{t} = LessOrEqual(next{t}, n)",
    "each step has a mask": "",
    "length - t > 0": "left{t} = Sub(n, at{t}) m{t} = Greater(left{t}, at0)",
}
KEPT = {
    "Where": "{h}{t} = Where(M{t}, {k}{t}, {before})",
    "arithmetic": "{h}n{t} = Cast<to = 1>(M{t}) {h}d{t} = Sub({k}{t}, {before}) "
    "{h}e{t} = Mul({h}n{t}, {h}d{t}) {h}{t} = Add({before}, {h}e{t})",
}


def steps_of(
    asked: str, kept: str, t: int, befores: tuple[str, str], reads: tuple[str, str], *, is_last: bool
) -> str:
    """One step; of a last one exporters write nothing that nobody reads, such as the last states."""
    cell = f"a{t} = MatMul(x{t}, W0) b{t} = MatMul({befores[0]}, U0) c{t} = Add(a{t}, b{t}) k{t} = Tanh(c{t})"
    mask = [f"{ASKED[asked]} M{{t}} = Unsqueeze(m{{t}}, one)".format(t=t)]
    below = KEPT[kept].format(h="h", k="k", before=befores[0], t=t)
    above = KEPT[kept].format(h="g", k="l", before=befores[1], t=t)
    upper = (
        f"d{t} = MatMul({reads[0]}{t}, W1) e{t} = MatMul({befores[1]}, U1) f{t} = Add(d{t}, e{t}) "
        f"l{t} = Tanh(f{t})"
    )
    lower = [] if is_last and reads[0] == "k" else [below]
    last = [] if is_last and reads[1] == "l" else [above]
    mask = mask if lower or last else []
    return " ".join([*mask, cell, *lower, upper, *last, f"y{t} = MatMul({reads[1]}{t}, V)"])


def unrolled(asked: str, kept: str, reads: tuple[str, str]) -> onnx.ModelProto:
    nodes, befores = [], ("z", "z")
    for t in range(T):
        own = steps_of(asked, kept, t, befores, reads, is_last=t == T - 1)
        nodes.append(f"x{t} = Gather<axis = 0>(x, at{t}) {own}")
        befores = (f"h{t}", f"g{t}")
    rows = ", ".join(f"y{t}" for t in range(T))
    masks = ", ".join(f"bool[{B}] m{t}" for t in range(T - 1))
    given = f"int64[{B}] n" if ASKED[asked] else masks
    return model_of(f"float[{T * B}, {H}] ys", f"{' '.join(nodes)} ys = Concat<axis = 0>({rows})", given)


def looped(asked: str, kept: str, reads: tuple[str, str]) -> onnx.ModelProto:
    step = steps_of(asked, kept, 9, ("h", "g"), reads, is_last=False)
    body = (
        f"step ({STATE} h, {STATE} g, {STATE} x9, int64 at9, int64 next9) => ({STATE} h9, {STATE} g9, "
        f"{STATE} y9) {{{step}}}"
    )
    text = f"a, b, ys = Scan<num_scan_inputs = 3, body = {body}>(z, z, x, times, nexts)"
    return model_of(f"float[{T}, {B}, {H}] ys", text)


def model_of(output: str, nodes: str, given: str = f"int64[{B}] n") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 18]> g (float[{T}, {B}, {H}] x, {given}) => ({output})'
    model = parser.parse_model(f"{text} {{{nodes}}}")
    draw = np.random.default_rng(0).standard_normal
    tensors = {name: draw((H, H)).astype(np.float32) for name in ("W0", "U0", "W1", "U1", "V")}
    tensors |= {"z": np.zeros((B, H), np.float32), "one": np.array([1])}
    tensors |= {f"at{t}": np.array(t) for t in range(T)} | {f"next{t}": np.array(t + 1) for t in range(T)}
    tensors |= {"times": np.arange(T), "nexts": np.arange(T) + 1}
    read = {name for node in model.graph.node for name in node.input}
    read |= {
        name for node in model.graph.node for own in node.attribute for n in own.g.node for name in n.input
    }
    tensors = {name: array for name, array in tensors.items() if name in read}
    model.graph.initializer.extend(numpy_helper.from_array(own, name) for name, own in tensors.items())
    return model


@pytest.mark.parametrize("reads", [("h", "g"), ("h", "l"), ("k", "g"), ("k", "l")])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("asked", [asked for asked in ASKED if ASKED[asked]])
def test_steps_that_are_written_out_ask_as_those_of_a_loop_do(
    asked: str, kept: str, reads: tuple[str, str]
) -> None:
    """Also at the last one, where nobody reads a state that is kept: the number of the step goes on there."""
    draw = np.random.default_rng(1).standard_normal((T, B, H)).astype(np.float32)
    given = {"x": draw, "n": LENGTHS}
    expected, found = (
        audit(build(asked, kept, reads), data=given, num_samples=1) for build in (looped, unrolled)
    )
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert found.grid.num_gradient_paths == expected.grid.num_gradient_paths
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert (one.state_size, one.depth_times) == (other.state_size, other.depth_times)
        assert one.time_radius
        assert other.time_radius
        assert one.time_radius.mean == pytest.approx(other.time_radius.mean, rel=1e-5)
        assert [edge.gain.mean for edge in one.depth_edges] == pytest.approx(
            [edge.gain.mean for edge in other.depth_edges], rel=1e-5
        )


def test_a_last_step_without_the_mask_that_nobody_reads_is_none_and_changes_no_other() -> None:
    """What it takes over as the others do is no state of its own."""
    draw = np.random.default_rng(1).standard_normal((T, B, H)).astype(np.float32)
    masks = {f"m{t}": t < LENGTHS for t in range(T - 1)}
    found = audit(
        unrolled("each step has a mask", "Where", ("k", "l")), data={"x": draw, **masks}, num_samples=1
    )
    expected = audit(
        unrolled("t < length", "Where", ("k", "l")), data={"x": draw, "n": LENGTHS}, num_samples=1
    )
    assert [own.num_steps for own in found.recurrences] == [T - 1, T - 1]
    assert [layer.state_size for layer in found.layers] == [B * H, B * H]
    assert [own.depth_times for own in found.layers] == [own.depth_times for own in expected.layers]
    assert any("behind its 5 steps another one lacks what nobody reads" in text for text in found.warnings)
