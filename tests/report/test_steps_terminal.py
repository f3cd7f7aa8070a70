"""Which nodes one step consists of, and what it trains: shortly, or node by node."""

from __future__ import annotations

import io

from lsc_graph.models import registry
from rich.console import Console

from lsc_graph.audit_model import inspect
from lsc_graph.report.steps_terminal import step_lines
from lsc_graph.report.terminal import render_inspection


def test_nodes_are_counted_by_kind_and_the_first_and_last_are_named() -> None:
    (found, *_) = inspect(registry.build("scan_gru"), num_steps=8).recurrences
    line, trained = step_lines(found, is_verbose=False)
    assert f"{found.num_nodes} nodes a step: Add 8, Gemm 4, " in line
    assert line.endswith(f"; from {found.nodes[0].name} to {found.nodes[-1].name}")
    assert trained == "trains " + ", ".join(found.weights)


def test_every_node_is_listed_if_asked_for() -> None:
    found = inspect(registry.build("loop_gru"), num_steps=8)
    stream = io.StringIO()
    render_inspection(found, Console(file=stream, width=100, highlight=False), is_verbose=True)
    text = stream.getvalue()
    for own in found.recurrences:
        assert all(f"{node.op_type} {node.name}" in text for node in own.nodes)


def test_nodes_of_unrolled_steps_have_the_names_of_one_of_the_steps() -> None:
    proto = registry.build("unrolled_gru")
    written = {name for node in proto.graph.node for name in node.output}
    for own in inspect(proto).recurrences:
        assert own.num_nodes == len(own.nodes) > 10
        assert sum(node.name in written for node in own.nodes) >= own.num_nodes - 2
