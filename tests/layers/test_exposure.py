"""What a layer shows to the layers above, and who reads whom, by structure alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from lsc_graph.models import registry

from lsc_graph.audit_model import audit, inspect
from lsc_graph.layers.exposure import exposed_states, structural_depth_edges
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare


def prepared(name: str) -> Prepared:
    return prepare(registry.build(name), Request(4, {}, {}, (), {}))


def shown(name: str) -> list[set[str]]:
    found = prepared(name)
    exposed = exposed_states(found.findings, found.cells)
    return [{state.rsplit(".", 1)[-1] for state in exposed[la.id]} for la in found.cell_graph.layers]


def test_an_lstm_shows_its_h_and_keeps_its_c() -> None:
    assert shown("lstm") == [{"h"}, {"h"}]
    assert shown("bidirectional_lstm") == [{"h"}] * 4


def test_a_spiking_layer_shows_its_spikes() -> None:
    assert [{name.split("_", 1)[1] for name in states} for states in shown("alif_smooth")] == [{"spike"}] * 2


def test_stacked_operators_read_the_layer_below_only() -> None:
    found = prepared("tanh_rnn")
    edges = structural_depth_edges(found.findings, found.cells)
    assert [(edge.source, edge.target) for edge in edges] == [("layer_0", "layer_1"), ("layer_1", "layer_2")]


def test_each_direction_of_a_bidirectional_layer_reads_both_directions_below() -> None:
    found = prepared("bidirectional_lstm")
    edges = structural_depth_edges(found.findings, found.cells)
    assert {(e.source, e.target) for e in edges} == {
        (f"layer_{source}", f"layer_{target}") for source in (0, 1) for target in (2, 3)
    }


def test_the_normalised_model_still_has_its_fused_operators_and_the_lowered_one_has_none() -> None:
    found = prepared("lstm")
    assert {node.op_type for node in found.normalized.graph.node} >= {"LSTM"}
    assert all(node.op_type != "LSTM" for node in found.findings.model.graph)
    assert isinstance(found.findings.model, ir.Model)


def test_a_decoder_that_starts_from_the_last_state_of_an_encoder_reads_it_once() -> None:
    """encoder -> last state -> first state of the decoder: one edge, and one path from start to end."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        two (float[6, 1, 3] x, float[6, 1, 3] y) => (float[6, 1, 1, 4] out)
        { hidden, state = RNN<hidden_size=4>(x, W, R)
          out = RNN<hidden_size=4>(y, W, R, , , state) }"""
    )
    generator = np.random.default_rng(0)
    for name, shape in (("W", (1, 4, 3)), ("R", (1, 4, 4))):
        array = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = inspect(proto)
    assert [layer.depth_from for layer in found.layers] == [(), ("layer_0",)]
    assert found.grid.num_gradient_paths == "1"
    measured = audit(proto, num_samples=1)
    assert measured.layers[1].depth_from == ("layer_0",)
    assert measured.grid.num_gradient_paths == "1"
