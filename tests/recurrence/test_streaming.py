"""State pairs of streaming models: taken where one reading is left, refused with its readings elsewhere."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from lsc_graph.errors import UsageError
from lsc_graph.recurrence.streaming import NO_STATE, StatePair, find_state_pairs


def step_model(inputs: dict[str, list[int]], outputs: dict[str, tuple[str, ...]]) -> ir.Model:
    """A step whose outputs are sums of the named inputs, in the shape of the first (`pooled*`: [1, 1])."""
    values = {name: ir.val(name, dtype=ir.DataType.FLOAT, shape=shape) for name, shape in inputs.items()}
    nodes, results = [], []
    for name, sources in outputs.items():
        total = values[sources[0]]
        for source in sources[1:]:
            extra = ir.node("ReduceSum", [values[source]], {"keepdims": 0})
            plus = ir.node("Add", [total, extra.outputs[0]])
            nodes += [extra, plus]
            total = plus.outputs[0]
        pooled = name.startswith("pooled")
        last = ir.node("ReduceSum" if pooled else "Tanh", [total])
        last.outputs[0].name, last.outputs[0].dtype = name, ir.DataType.FLOAT
        last.outputs[0].shape = ir.Shape([1, 1] if pooled else inputs[sources[0]])
        nodes.append(last)
        results.append(last.outputs[0])
    graph = ir.Graph(list(values.values()), results, nodes=nodes, opset_imports={"": 17}, name="step")
    return ir.Model(graph, ir_version=8)


def found(model: ir.Model) -> list[tuple[str, str]]:
    return [(pair.before, pair.after) for pair in find_state_pairs(model)[0]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("h0", "h0n"),
        ("h_in", "h_out"),
        ("past_0", "present_0"),
        ("past_key_values.0.key", "present.0.key"),
        ("hidden_state", "new_hidden_state"),
        ("cache", "cache_out"),
        ("onnx::state.1", "next_onnx::state.1"),
        ("hx", "hy"),
        ("att_cache", "r_att_cache"),
        ("recurrent_in", "recurrent_out"),
        ("state_in_0", "state_out_0"),
        ("hidden_state", "hidden"),
        ("cache_last_channel", "cache_last_channel_next"),
        ("in_cache0", "out_cache0"),
        ("initial_h", "final_h"),
        ("input_state_1", "output_state_1"),
    ],
)
def test_names_and_structure_together_make_a_state(before: str, after: str) -> None:
    # The other output has the same shape and depends on the state too.
    model = step_model({"x": [1, 8], before: [1, 4]}, {"y": (before, "x"), after: (before, "x")})
    assert found(model) == [(before, after)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("b", "q"),  # meaningless
        ("latent", "noise_pred"),  # a denoiser with its time step
        ("z", "z_hat"),  # a conditional autoencoder
        ("image", "next_image"),  # data, whatever its time
        ("low", "low_out"),  # a network from images to images
        ("in_image", "out_image"),  # the same
    ],
)
def test_structure_alone_never_makes_a_state(before: str, after: str) -> None:
    # One reading is left, with another input and another output: that of a conditional autoencoder, too.
    model = step_model({"a": [1, 8], before: [1, 4]}, {"pooled": ("a", before), after: (before, "a")})
    pairs, refusals = find_state_pairs(model)
    assert pairs == ()
    assert [r.candidate for r in refusals] == [f"{before} -> {after}"]
    assert f"--state {before}:{after}" in refusals[0].reason


@pytest.mark.parametrize(
    ("before", "after", "is_doubtful"),
    [
        ("latent", "latent_next", True),  # a step of an iteration, perhaps not of a stream
        ("cached_key_0", "new_cached_key_0", False),
        ("frames", "new_frames", True),
        ("hidden_in", "hidden_out", False),
        ("h", "hn", False),
    ],
)
def test_what_only_names_speak_for_is_doubtful(before: str, after: str, is_doubtful: bool) -> None:
    model = step_model({"a": [1, 8], before: [1, 4]}, {"pooled": ("a", before), after: (before, "a")})
    (pair,) = find_state_pairs(model)[0]
    assert (pair.before, pair.after, pair.is_doubtful) == (before, after, is_doubtful)


def test_a_block_of_a_stack_is_taken_with_a_doubt_where_nothing_else_comes_out() -> None:
    model = step_model({"mask": [1, 8], "hidden_in": [1, 4]}, {"hidden_out": ("hidden_in", "mask")})
    (pair,) = find_state_pairs(model)[0]
    assert pair.is_doubtful


def test_none_can_be_said_to_be_a_state() -> None:
    model = step_model({"x": [1, 8], "h": [1, 4]}, {"y": ("x", "h"), "hn": ("h", "x")})
    assert find_state_pairs(model, [NO_STATE]) == ((), ())


def test_a_denoiser_is_not_a_recurrence() -> None:
    model = step_model({"input": [1, 64]}, {"output": ("input",)})
    pairs, refusals = find_state_pairs(model)
    assert pairs == ()
    assert "nothing says that it is a state" in refusals[0].reason
    assert "--state input:output" in refusals[0].reason


def test_a_denoiser_with_a_mask_and_a_confidence_is_not_a_recurrence_either() -> None:
    model = step_model({"x": [1, 64], "m": [1, 8]}, {"y": ("x", "m"), "pooled": ("x", "m")})
    assert found(model) == []


def test_two_inputs_that_fit_one_output_are_refused_with_both_readings() -> None:
    model = step_model({"a": [1, 4], "b": [1, 4], "x": [1, 2]}, {"q": ("a", "b", "x"), "y": ("x", "a")})
    pairs, refusals = find_state_pairs(model)
    assert pairs == ()
    assert {refusal.candidate for refusal in refusals if "several" in refusal.reason} >= {"a -> q", "b -> q"}


def test_a_stack_of_unnamed_states_is_told_apart_by_who_depends_on_whom() -> None:
    model = step_model(
        {"x": [1, 8], "u": [1, 4], "v": [1, 4]},
        {"y": ("x", "v"), "p": ("u", "x"), "q": ("v", "u", "x")},
    )
    # p can only come from u, which leaves v for q; but y could be a state of x, so names must say more.
    pairs = found(model)
    assert ("u", "p") not in pairs or ("v", "q") in pairs


def test_an_output_that_does_not_depend_on_the_input_is_not_its_successor() -> None:
    model = step_model({"x": [1, 4], "h": [1, 4]}, {"y": ("x", "h"), "hn": ("x",)})
    assert ("h", "hn") not in found(model)


def test_a_value_that_passes_through_unchanged_is_no_state() -> None:
    model = step_model({"x": [1, 8], "h": [1, 4]}, {"y": ("x", "h"), "hn": ("h",)})
    h, hn = model.graph.inputs[1], model.graph.outputs[1]
    copy = ir.node("Identity", [h])
    copy.outputs[0].dtype, copy.outputs[0].shape = hn.dtype, hn.shape
    model.graph.append(copy)
    model.graph.outputs[1] = copy.outputs[0]
    hn.name, copy.outputs[0].name = "old", "hn"
    pairs, refusals = find_state_pairs(model)
    assert pairs == ()
    assert "passes through unchanged" in refusals[0].reason


def test_a_cache_that_grows_is_refused_with_its_shapes() -> None:
    model = step_model({"x": [1, 8], "cache": [1, 4]}, {"y": ("x", "cache"), "cache_out": ("cache", "x")})
    model.graph.outputs[1].shape = ir.Shape([1, 5])
    pairs, refusals = find_state_pairs(model)
    assert pairs == ()
    assert [refusal.candidate for refusal in refusals if "grows" in refusal.reason] == ["cache -> cache_out"]


def test_declared_pairs_are_taken_and_override_the_search() -> None:
    model = step_model(
        {"x": [1, 8], "s": [1, 4], "h": [1, 4]}, {"y": ("x", "s", "h"), "t": ("s", "x"), "hn": ("h", "x")}
    )
    pairs, _ = find_state_pairs(model, [("s", "t")])
    assert pairs == (StatePair("s", "t", "declared by hand"),)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("nope", "y"), "names no input"),
        (("x", "nope"), "names no output"),
        (("x", "hn"), "different type or shape"),
    ],
)
def test_declared_pairs_that_cannot_be_are_refused(pair: tuple[str, str], message: str) -> None:
    model = step_model({"x": [1, 8], "h": [1, 4]}, {"y": ("x", "h"), "hn": ("h", "x")})
    with pytest.raises(UsageError, match=message):
        find_state_pairs(model, [pair])


def test_a_name_that_is_part_of_another_goes_to_its_own_successor() -> None:
    model = step_model(
        {"x": [1, 8], "h": [1, 4], "h_att": [1, 4]},
        {"pooled": ("x", "h"), "h_out": ("h", "x", "h_att"), "h_att_out": ("h_att", "x", "h")},
    )
    assert sorted(found(model)) == [("h", "h_out"), ("h_att", "h_att_out")]


def delay_line(*names: str) -> ir.Model:
    """h[t] is computed from the last of the inputs, each of the others hands on the one before it."""
    inputs = {name: [1, 4] for name in names}
    computed = {"x": [1, 4], **inputs}, {f"{names[0]}_out": ("x", names[-1]), "y": ("x", *names)}
    model = step_model(*computed)
    for before, name in zip(model.graph.inputs[1:], names[1:], strict=False):
        copy = ir.node("Identity", [before])
        copy.outputs[0].name, copy.outputs[0].dtype = f"{name}_out", ir.DataType.FLOAT
        copy.outputs[0].shape = ir.Shape([1, 4])
        model.graph.append(copy)
        model.graph.outputs.append(copy.outputs[0])
    return model


def test_a_delay_line_is_a_state_in_every_part() -> None:
    pairs, refusals = find_state_pairs(delay_line("h0", "h1", "h2"))
    assert {(p.before, p.after) for p in pairs} == {(f"h{i}", f"h{i}_out") for i in range(3)}
    assert not any("passes through" in refusal.reason for refusal in refusals)


def test_what_only_its_names_connect_is_refused_by_name() -> None:
    model = step_model({"x": [1, 4], "h": [1, 4]}, {"y": ("x", "h"), "hn": ("x",)})
    assert any("not computed from it" in r.reason for r in find_state_pairs(model)[1])


def test_beside_a_state_names_tell_a_delay_of_what_a_step_reads() -> None:
    model = step_model(
        {"x": [1, 4], "h": [1, 4], "c": [1, 4]}, {"pooled": ("x", "h", "c"), "hn": ("x", "h"), "cn": ("x",)}
    )
    pairs, refusals = find_state_pairs(model)
    assert {(p.before, p.after) for p in pairs} == {("h", "hn"), ("c", "cn")}
    assert not any("not computed from it" in refusal.reason for refusal in refusals)


def test_beside_a_state_what_is_only_named_alike_is_refused_with_what_to_say() -> None:
    sources = {"h_out": ("h", "p0"), "p0_out": ("u",)}
    pairs, refusals = find_state_pairs(step_model({"h": [1, 3], "p0": [1, 3], "u": [1, 3]}, sources))
    assert [pair.before for pair in pairs] == ["h"]
    told = {refusal.candidate: refusal.reason for refusal in refusals}
    assert "named alike" in told["p0 -> p0_out"]
    assert "--state p0:p0_out" in told["p0 -> p0_out"]


def test_without_a_state_things_named_alike_are_no_candidates() -> None:
    _, refusals = find_state_pairs(step_model({"p0": [1, 3], "u": [1, 3]}, {"p0_out": ("u",)}))
    assert not any("named alike" in refusal.reason for refusal in refusals)
