"""What holds for every model in the zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod

import numpy as np
import onnx
import pytest

from lsc_graph import models
from lsc_graph.results import Form

Arrays = dict[str, np.ndarray]
Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]

NAMES = models.names()


def feeds_for(model: onnx.ModelProto, name: str, num_steps: int, batch: int) -> Arrays:
    """Standard normal values for every input."""
    sizes = {"time": num_steps, "batch": batch}
    generator = np.random.default_rng(7)
    return {
        value.name: generator.standard_normal(
            [sizes.get(dim.dim_param, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        )
        for value in model.graph.input
    }


def declared_shape(value: onnx.ValueInfoProto, num_steps: int, batch: int) -> tuple[int, ...]:
    sizes = {"time": num_steps, "batch": batch}
    return tuple(sizes.get(dim.dim_param, dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def batch_axis(value: onnx.ValueInfoProto) -> int:
    return [dim.dim_param for dim in value.type.tensor_type.shape.dim].index("batch")


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_onnx_that_older_tools_read(name: str) -> None:
    model = models.build(name)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ByteSize() < 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_every_initializer_is_read_and_every_node_has_its_own_name(name: str) -> None:
    graph = models.build(name).graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    nodes = [node for part in (graph, *bodies) for node in part.node]
    assert {t.name for t in graph.initializer} <= {value for node in nodes for value in node.input}
    assert len({node.name for node in nodes}) == len(nodes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_steps", "batch"), [(1, 1), (2, 3), (7, 2)])
def test_runs_at_any_length_and_batch_with_outputs_as_declared(
    run: Run, name: str, num_steps: int, batch: int
) -> None:
    model = models.build(name)
    outputs = run(model, feeds_for(model, name, num_steps, batch))
    for value in model.graph.output:
        assert outputs[value.name].shape == declared_shape(value, num_steps, batch)
        assert np.isfinite(outputs[value.name]).all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_mix(run: Run, name: str) -> None:
    model = models.build(name)
    feeds = feeds_for(model, name, 3, 2)
    both = run(model, feeds)
    axes = {value.name: batch_axis(value) for value in (*model.graph.input, *model.graph.output)}
    second = {key: np.take(value, [1], axis=axes[key]) for key, value in feeds.items()}
    for key, value in run(model, second).items():
        np.testing.assert_allclose(np.take(both[key], [1], axis=axes[key]), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_the_same_bytes_and_another_seed_other_weights(name: str) -> None:
    first, again, other = (
        models.build(name, seed).SerializeToString(deterministic=True) for seed in (3, 3, 4)
    )
    assert first == again
    weights, others = (
        [t.raw_data for t in onnx.load_from_string(data).graph.initializer] for data in (first, other)
    )
    assert (weights == others) == (name == "pascal_rnn")
    assert first != other


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_how_it_was_made(name: str) -> None:
    model = models.build(name, seed=11)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert model.producer_name == "lsc-graph zoo"
    assert model.graph.name == properties["name"] == name
    assert properties["seed"] == "11"
    options = json.loads(properties["options"])
    assert models.build(name, 11, **options).SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_one_figure_per_layer_and_per_edge(name: str) -> None:
    card = models.card(name)
    assert card.name == name
    assert len(card.state_sizes) == card.num_layers
    for facts, number in (
        (card.time_radius, card.num_layers),
        (card.time_gain, card.num_layers),
        (card.depth_radius, card.num_layers - 1),
        (card.depth_gain, card.num_layers - 1),
    ):
        assert facts is None or len(facts) == number


@pytest.mark.parametrize("name", NAMES)
def test_the_card_counts_every_element_that_is_carried_over_time(name: str) -> None:
    """All states of one sample appear as final states among the outputs, or none do."""
    model, card = models.build(name), models.card(name)
    carried = sum(prod(declared_shape(v, 1, 1)) for v in model.graph.output if v.name != "y")
    assert carried == (sum(card.state_sizes) if card.forms else 0)


def test_all_five_forms_are_there() -> None:
    assert {form for name in NAMES for form in models.card(name).forms} == set(Form)


@pytest.mark.parametrize(
    ("form", "op_type"), [(Form.FUSED_OP, "GRU"), (Form.SCAN, "Scan"), (Form.LOOP, "Loop")]
)
def test_a_form_is_recognised_by_its_operator(form: Form, op_type: str) -> None:
    (name,) = [n for n in NAMES if n.endswith("gru") and models.card(n).forms == (form,)]
    assert op_type in {node.op_type for node in models.build(name).graph.node}
