"""Positions that are put together outside of the layers are seen in a run, whatever operators do it."""

from __future__ import annotations

import pytest
from parsed_models import parsed

from lsc_graph.auditing.outside import parts_outside
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.running.sampling import make_samples

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (%s) => (float%s y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1}, int64[1] low = {-9},
 int64[1] four = {4}, int64[6] back = {5, 0, 1, 2, 3, 4}, int64[2] flat = {6, 4},
 int64[3] folded = {6, 1, 4},
 int64[3] wide = {1, 1, 24}, int64[3] many = {6, 1, 1}, int64[4] image = {1, 1, 6, 4},
 int64[2] first = {1, 4}, int64[3] pixels = {24, 1, 1}, int64[3] doubled = {12, 1, 4},
 int64[4] pairs = {6, 2, 1, 4}, float[4] masked = {0.0, 0.0, 0.0, -1000000000.0},
 float far = {20.0}> {
    %s
}"""
INPUT = "float[6, 1, 4] x"
RNN = "y = RNN <hidden_size=4> (z, w, r)"
SHAPES = {
    "w": (1, 4, 4),
    "r": (1, 4, 4),
    "u": (4, 4),
    "k": (4, 4, 3),
    "nine": (4, 4, 9),
    "six": (4, 6),
    "other_w": (1, 4, 1),
    "across_time": (6, 6),
    "along_features": (1, 1, 1, 3),
    "along_time": (1, 1, 3, 1),
    "all": (24, 24),
    "table": (9, 4),
    "wide_w": (1, 4, 8),
}
MIXED = {
    "a matrix over time": """t = Transpose <perm = [1, 2, 0]> (x)
    m = MatMul(t, across_time)
    z = Transpose <perm = [2, 0, 1]> (m)""",
    "the mean over time": "m = ReduceMean(x, zero)\nz = Sub(x, m)",
    "a shift by Gather": "s = Gather <axis = 0> (x, back)\nz = Add(x, s)",
    "a flip": "s = Slice(x, last, low, zero, last)\nz = Mul(x, s)",
    "a Softmax over time": "z = Softmax <axis = 0> (x)",
    "a weight over time and features": "f = Reshape(x, wide)\nm = MatMul(f, all)\nz = Reshape(m, folded)",
    "a filter of an image over time": """i = Reshape(x, image)
    c = Conv <pads = [2, 0, 0, 0]> (i, along_time)
    z = Reshape(c, folded)""",
    "a window over a ReLU that lets nothing through": """h = Sub(x, far)
    d = Relu(h)
    t = Transpose <perm = [1, 2, 0]> (d)
    c = Conv <pads = [2, 0]> (t, k)
    b = Transpose <perm = [2, 0, 1]> (c)
    z = Add(x, b)""",
    "a mean over a limit that is reached": """d = Max(x, far)
    m = ReduceMean(d, zero)
    z = Sub(x, m)""",
}
APART = {
    "one matrix": "z = MatMul(x, u)",
    "reshaped": "f = Reshape(x, flat)\nm = MatMul(f, u)\nz = Reshape(m, folded)",
    "a ReLU that lets nothing through": "h = Sub(x, far)\nd = Relu(h)\nz = Add(x, d)",
    "a flip alone": "z = Slice(x, last, low, zero, last)",
    "a shift alone": "z = Gather <axis = 0> (x, back)",
    "a filter of an image over features": """i = Reshape(x, image)
    c = Conv <pads = [0, 1, 0, 1]> (i, along_features)
    z = Reshape(c, folded)""",
}


STRIDED = "t = Transpose <perm = [1, 2, 0]> (x)\nc = Conv <strides = [%d]> (t, %s)\n"


def said(body: str, given: str = INPUT, out: str = "[6, 1, 1, 4]") -> str:
    weights = {name: shape for name, shape in SHAPES.items() if name in body}
    prepared = prepare(parsed(TEXT % (given, out, body), **weights), Request(None, {}, {}, (), {}))
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=(),
        num_steps=None,
        num_samples=1,
        seed=0,
    )
    return "\n".join(parts_outside(prepared, sample))


@pytest.mark.parametrize("name", MIXED)
def test_whatever_puts_positions_together_before_the_first_layer_is_told(name: str) -> None:
    assert "before the first layer puts several positions together (changing" in said(f"{MIXED[name]}\n{RNN}")


@pytest.mark.parametrize("name", APART)
def test_what_works_on_each_position_alone_is_not(name: str) -> None:
    assert "several positions" not in said(f"{APART[name]}\n{RNN}")


@pytest.mark.parametrize("name", MIXED)
def test_so_it_is_behind_the_last_layer(name: str) -> None:
    body = f"o = RNN <hidden_size=4> (v, w, r)\nq = Squeeze(o, one)\n{MIXED[name]}\ny = Identity(z)"
    found = said(body.replace("(x", "(q").replace("Sub(x", "Sub(q"), "float[6, 1, 4] v", "[6, 1, 4]")
    assert "behind the last layer puts several positions together (changing" in found


@pytest.mark.parametrize("name", MIXED)
def test_and_beside_them(name: str) -> None:
    body = f"{MIXED[name]}\no = RNN <hidden_size=4> (x, w, r)\nq = Squeeze(o, one)\ny = Add(q, z)"
    assert "beside the layers puts several positions together (changing" in said(body, out="[6, 1, 4]")


def test_tokens_are_changed_for_other_tokens() -> None:
    before = "t = Transpose <perm = [1, 2, 0]> (e)\nc = Conv <pads = [2, 0]> (t, k)"
    body = f"e = Gather(table, x)\n{before}\nz = Transpose <perm = [2, 0, 1]> (c)\n{RNN}"
    assert "changing position" in said(body, "int64[6, 1] x")


def test_the_operators_that_do_it_are_named() -> None:
    mean = said(f"{MIXED['the mean over time']}\n{RNN}")
    assert "changes 6 of the 6 positions of z; ReduceMean" in mean
    assert "Sub" not in mean
    assert "3 of the 6 positions of z; Conv" in said(f"{MIXED['a filter of an image over time']}\n{RNN}")


def test_a_vector_for_all_times_puts_no_positions_together() -> None:
    body = f"z = Add(x, c)\n{RNN}"
    assert "several positions" not in said(body, f"{INPUT}, float[1, 1, 4] c")
    repeated = "z = Expand(c, many)\ny = RNN <hidden_size=4> (z, w, r)"
    assert "several positions" not in said(repeated, "float[1, 1, 4] c")


def test_the_last_step_alone_is_no_layer_over_time() -> None:
    body = "o, y = RNN <hidden_size=4> (x, w, r)"
    assert "several positions" not in said(body, out="[1, 1, 4]")
    pooled = "o = RNN <hidden_size=4> (x, w, r)\ny = ReduceMean(o, zero)"
    assert "several positions" not in said(pooled, out="[1, 1, 1, 4]")


def test_windows_that_overlap_only_at_some_positions_are_told() -> None:
    end = f"z = Transpose <perm = [2, 0, 1]> (c)\n{RNN}"
    few, many = "float[12, 1, 4] x", "float[73, 1, 4] x"
    assert "several positions together (changing" in said(STRIDED % (2, "k") + end, few, "[5, 1, 1, 4]")
    assert "several positions together (Conv" in said(STRIDED % (8, "nine") + end, many, "[9, 1, 1, 4]")


def test_a_position_that_several_read_alone_is_not_put_together_with_others() -> None:
    image = f"z = Reshape(x, pixels)\n{RNN.replace('w, r', 'other_w, r')}"
    assert "several positions" not in said(image, "float[6, 4] x", "[24, 1, 1, 4]")
    twice = f"o = Unsqueeze(x, one)\ne = Expand(o, pairs)\nz = Reshape(e, doubled)\n{RNN}"
    assert "several positions" not in said(twice, out="[12, 1, 1, 4]")


def test_as_many_classes_as_steps_are_no_times() -> None:
    step = "o = RNN <hidden_size=4> (x, w, r)\nl = Gather <axis = 0> (o, last)\nf = Reshape(l, first)"
    assert "several positions" not in said(f"{step}\ny = MatMul(f, six)", out="[1, 6]")


def test_numbers_that_a_mask_adds_hide_no_change() -> None:
    body = f"o = RNN <hidden_size=4> (v, w, r)\nx = Squeeze(o, one)\n{MIXED['the mean over time']}"
    assert "(changing" in said(f"{body}\ny = Add(z, masked)", "float[6, 1, 4] v", "[6, 1, 4]")


def test_the_mean_of_one_input_is_told_where_another_is_read_step_by_step() -> None:
    body = f"m = ReduceMean(c, zero)\nz = Add(x, m)\n{RNN}"
    assert "changes 6 of the 6 positions of z" in said(body, f"{INPUT}, float[6, 1, 4] c")


def test_where_no_change_can_be_made_operators_are_looked_for() -> None:
    numbers = "f = Cast <to = 1> (x)\nt = Transpose <perm = [1, 2, 0]> (f)\nc = Conv <pads = [2, 0]> (t, k)"
    body = f"{numbers}\nz = Transpose <perm = [2, 0, 1]> (c)\n{RNN}"
    assert "several positions together (Conv" in said(body, "bool[6, 1, 4] x")
