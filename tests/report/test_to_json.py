"""The JSON form keeps its contract."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from lsc_graph.models import registry

from lsc_graph.audit_model import audit, inspect
from lsc_graph.count_model import gradient_paths
from lsc_graph.report.to_json import to_json

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text())


@pytest.mark.parametrize(
    "name",
    ["lstm", "bidirectional_lstm", "streaming_gru", "lru", "alif", "feed_forward_relu", "residual_mlp"],
)
def test_every_audit_satisfies_the_schema(name: str) -> None:
    steps = 5 if registry.card(name).forms else None
    text = to_json(audit(registry.build(name), num_steps=steps, num_samples=2))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_the_schema_is_strict_enough_to_reject_a_missing_and_an_unknown_key() -> None:
    document = json.loads(to_json(audit(registry.build("gru"), num_steps=3, num_samples=1)))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for changed in ({**document, "extra": 1}, {k: v for k, v in document.items() if k != "parity"}):
        assert not validator.is_valid(changed)


@pytest.mark.parametrize("name", ["gru", "bidirectional_lstm", "residual_mlp"])
def test_every_count_satisfies_its_schema(name: str) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "paths.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(to_json(gradient_paths(registry.build(name))))
    validator.validate(document)
    for changed in ({**document, "extra": 1}, {k: v for k, v in document.items() if k != "total"}):
        assert not validator.is_valid(changed)


def test_numbers_that_are_not_finite_become_null() -> None:
    document = json.loads(
        to_json(audit(registry.build("tanh_rnn", num_layers=1), num_steps=1, num_samples=1))
    )
    assert document["growth"]["coherence"] is None
    assert document["verdict"]["label"] == "inconclusive"
    assert document["layers"][0]["time_radius"] is None


def test_an_inspection_is_json_too() -> None:
    document = json.loads(to_json(inspect(registry.build("lstm"), num_steps=4)))
    assert [layer["id"] for layer in document["layers"]] == ["layer_0", "layer_1"]
