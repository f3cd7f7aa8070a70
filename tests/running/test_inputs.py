"""Open dimensions and synthetic values are settled by what the model does with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lsc_graph.errors import AnalysisError, InputError, UsageError
from lsc_graph.running.inputs import (
    apply_shapes,
    batch_dims,
    declared_inputs,
    domains,
    first_that_runs,
    open_dims,
    parse_value,
    size_for_steps,
    step_dims,
)


def model_of(inputs: dict[str, tuple[int, list[object]]], nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    table = helper.make_tensor("table", TensorProto.FLOAT, [7, 2], np.zeros(14))
    rate = helper.make_tensor("rate", TensorProto.INT64, [], [16000])
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    return helper.make_model(helper.make_graph(nodes, "g", values, outputs, [table, rate, zero]))


def test_equal_names_tie_dimensions_and_anonymous_ones_stay_apart() -> None:
    proto = model_of(
        {
            "a": (1, ["batch", "width", 3]),
            "b": (1, ["batch", "?", None]),
            "c": (1, ["unk__7", "p2o.DynamicDimension.1"]),
        },
        [helper.make_node("Identity", ["a"], ["y"])],
    )
    inputs = declared_inputs(proto)
    assert open_dims(inputs) == ("batch", "width", "b[1]", "b[2]", "c[0]", "c[1]")
    assert batch_dims(inputs) == {"batch", "c[0]"}


def test_a_first_dimension_named_after_time_is_no_batch() -> None:
    proto = model_of({"a": (1, ["sequence_length", "N", 3])}, [helper.make_node("Identity", ["a"], ["y"])])
    assert batch_dims(declared_inputs(proto)) == {"N"}


def test_given_shapes_fill_in_what_they_tie_and_must_fit() -> None:
    proto = model_of({"a": (1, ["n", 3]), "b": (1, ["n", "m"])}, [helper.make_node("Identity", ["a"], ["y"])])
    filled, sizes = apply_shapes(declared_inputs(proto), {"a": (5, 3)})
    assert sizes == {"n": 5}
    assert filled[1].dims == (5, "m")
    for wrong in ((5, 4), (5,), (0, 3)):
        with pytest.raises(UsageError, match="does not fit"):
            apply_shapes(declared_inputs(proto), {"a": wrong})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([helper.make_node("Gather", ["table", "i"], ["y"])], list(range(7))),
        (
            [
                helper.make_node("Unsqueeze", ["i", "zero"], ["j"]),
                helper.make_node("Gather", ["j", "zero"], ["k"]),
                helper.make_node("Equal", ["k", "rate"], ["y"]),
            ],
            [16000],
        ),
        ([helper.make_node("Cast", ["i"], ["y"], to=1)], [1]),
    ],
    ids=["indices of a table", "compared with a constant", "any other integer"],
)
def test_integers_take_the_values_that_their_readers_expect(
    nodes: list[onnx.NodeProto], expected: list[int]
) -> None:
    found = domains(model_of({"i": (TensorProto.INT64, [])}, nodes))["i"]
    assert found.choices is not None
    assert found.choices.tolist() == expected


@pytest.mark.parametrize(
    ("name", "kind", "dims", "bounds"),
    [
        ("sound", TensorProto.INT16, ["n"], (-32768, 32767)),
        ("image", TensorProto.UINT8, [1, 3, 8, 8], (0, 255)),
        ("a_single_number", TensorProto.UINT8, [], (1, 1)),
        ("integers_of_more_bits", TensorProto.INT32, ["n"], (1, 1)),
        ("attention_mask", TensorProto.UINT8, ["n"], (1, 1)),
        ("lengths", TensorProto.INT16, ["n"], (1, 1)),
    ],
)
def test_tensors_of_few_bits_take_any_value_of_their_type(
    name: str, kind: int, dims: list[object], bounds: tuple[int, int]
) -> None:
    found = domains(model_of({name: (kind, dims)}, [helper.make_node("Cast", [name], ["y"], to=1)]))[name]
    assert found.choices is not None
    assert (found.choices.min(), found.choices.max()) == bounds
    assert found.choices[-1] == 1


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("GatherElements", ["data", "j"], ["y"])],
        [helper.make_node("GatherND", ["data", "j"], ["y"])],
        [helper.make_node("Add", ["j", "k"], ["s"]), helper.make_node("Gather", ["table", "s"], ["y"])],
        [helper.make_node("Gather", ["data", "j"], ["y"])],
        [helper.make_node("Expand", ["table", "j"], ["y"])],
    ],
    ids=["elements", "rows", "a sum of two", "of a table of any size", "a shape"],
)
def test_tensors_of_few_bits_that_say_where_something_stands_do_not(nodes: list[onnx.NodeProto]) -> None:
    """Most numbers of their type are no index."""
    casts = [helper.make_node("Cast", [name], [out], to=7) for name, out in (("i", "j"), ("other", "k"))]
    inputs = {
        "i": (TensorProto.INT8, ["n"]),
        "other": (TensorProto.INT8, ["n"]),
        "data": (TensorProto.FLOAT, ["rows", 3]),
    }
    found = domains(model_of(inputs, [*casts, *nodes]))["i"]
    assert found.choices is not None
    assert found.choices.tolist() == [1]


def test_values_are_numbers_or_lists() -> None:
    assert parse_value("sr", "16000", np.dtype(np.int64)).item() == 16000
    assert parse_value("x", "[1, 2.5]", np.dtype(np.float32)).tolist() == [1.0, 2.5]
    for text in ("[1,", "hello", '"text"'):
        with pytest.raises(UsageError, match="--input"):
            parse_value("x", text, np.dtype(np.float32))


def test_dimensions_that_set_the_number_of_steps_are_found_and_fitted() -> None:
    def lengths(sizes: dict[str, int]) -> tuple[int, ...]:
        return (sizes["width"] // 4 - 1,)

    sizes = {"width": 16, "other": 16}
    assert step_dims(("width", "other"), sizes, lengths) == (("width",),)
    assert lengths({"width": size_for_steps(("width",), 10, sizes, lengths)})[0] == 10


def test_dimensions_that_the_model_takes_at_one_size_only_are_moved_together() -> None:
    """Batches and lengths of two inputs that are joined: another size for one of them alone is an error."""

    def lengths(sizes: dict[str, int]) -> tuple[int, ...]:
        fits = sizes["x[0]"] == sizes["y[0]"] and sizes["x[1]"] == sizes["y[1]"]
        return (sizes["x[1]"],) if fits else ()

    sizes = {"x[0]": 1, "y[0]": 1, "x[1]": 16, "y[1]": 16}
    (own,) = step_dims(tuple(sizes), sizes, lengths)
    assert own == ("x[1]", "y[1]")
    assert size_for_steps(own, 7, sizes, lengths) == 7


def test_the_first_sizes_that_run_are_taken_and_none_is_an_error() -> None:
    def runs(sizes: dict[str, int]) -> AnalysisError | None:
        return None if sizes["n"] == 3 else AnalysisError("no", got=f"n = {sizes['n']}")

    assert first_that_runs(iter({"n": n} for n in (1, 3, 5)), runs) == {"n": 3}
    with pytest.raises(InputError, match="n = 5"):
        first_that_runs(iter({"n": n} for n in (1, 5)), runs)


@pytest.mark.parametrize(("name", "expected"), [("attention_mask", [1]), ("kind", [0])])
def test_a_mask_of_integers_that_is_compared_with_zero_hides_nothing(name: str, expected: list[int]) -> None:
    nodes = [
        helper.make_node("Equal", [name, "zero"], ["is_hidden"]),
        helper.make_node("Cast", ["is_hidden"], ["y"], to=TensorProto.FLOAT),
    ]
    (domain,) = domains(model_of({name: (TensorProto.INT64, [1, 5])}, nodes)).values()
    assert domain.choices is not None
    assert domain.choices.tolist() == expected
