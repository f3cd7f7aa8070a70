"""Unit-wise cells are found from the operators between their states, whatever they are called."""

from __future__ import annotations

import pytest
from lsc_graph.models import registry

from lsc_graph.jacobians.structure import is_unitwise
from lsc_graph.prepare import Request, prepare
from lsc_graph.results import Form


def found(name: str, **options: object) -> list[bool]:
    prepared = prepare(registry.build(name, **options), Request(4, {}, {}, (), {}))
    return [is_unitwise(cell) for own in prepared.cells for cell in own]


@pytest.mark.parametrize("form", [Form.STREAMING, Form.SCAN, Form.LOOP])
def test_a_diagonal_recurrence_is_unitwise_in_every_form(form: Form) -> None:
    assert found("lru", form=form) == [True, True]


@pytest.mark.parametrize("name", ["tanh_rnn", "gru", "lstm", "alif"])
def test_a_recurrent_weight_makes_units_meet(name: str) -> None:
    assert not any(found(name))
