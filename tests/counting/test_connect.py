"""Connections over time are seen as they are: equal, shifted, flipped, pooled, handed on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsc_graph.models import registry
from onnx import TensorProto, helper, numpy_helper
from unrolled_models import Unroller

from lsc_graph.count_model import gradient_paths
from lsc_graph.counting.connect import connected_cells, edges_of_pairs
from lsc_graph.layers.cells import CellGraph, DepthEdge
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

SIZE, STEPS = 3, 6
REQUEST = Request(None, {}, {}, (), {})


def model(
    glue: Sequence[onnx.NodeProto], between: str = "Y0", initial: str = "", out: str = "Y1"
) -> onnx.ModelProto:
    """Two fused RNN layers with `glue` between the output Y0 [T,1,1,H] and final state H0 of the first and
    the second.
    """
    generator = np.random.default_rng(0)

    def weight(name: str) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal((1, SIZE, SIZE)).astype(np.float32), name)

    constants = {
        "sequence": [STEPS, 1, SIZE],
        "axis": [1],
        "one": [1],
        "end": [-STEPS - 1],
        "first": [-1],
        "zero": [0],
        "back": [-1],
    }
    nodes = [
        helper.make_node("RNN", ["x", "W0", "R0"], ["Y0", "H0"], "rnn0", hidden_size=SIZE),
        *glue,
        helper.make_node("Reshape", [between, "sequence"], ["x1"]),
        helper.make_node("RNN", ["x1", "W1", "R1", "", "", initial], ["Y1", "H1"], "rnn1", hidden_size=SIZE),
        helper.make_node("Identity", [out], ["y"]),
    ]
    shape = {"Y1": [STEPS, 1, 1, SIZE]}.get(out)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, 1, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight(n) for n in ("W0", "R0", "W1", "R1")]
        + [numpy_helper.from_array(np.array(v, dtype=np.int64), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def cells_of(proto: onnx.ModelProto) -> CellGraph:
    return connected_cells(prepare(proto, REQUEST), terminals=True).cells


def times(cells: CellGraph, source: str, target: str) -> set[tuple[int, int]]:
    """All connected times."""
    found: set[tuple[int, int]] = set()
    for edge in cells.depth_edges:
        if (edge.source, edge.target) == (source, target):
            lagged = [(t - edge.lag, t) for t in range(STEPS) if 0 <= t - edge.lag < STEPS]
            found |= set(lagged if edge.time_pairs is None else edge.time_pairs)
    return found


EQUAL = {(t, t) for t in range(STEPS)}
NODE = helper.make_node
FLIP = [NODE("Slice", ["Y0", "first", "end", "zero", "back"], ["flipped"])]


def test_equal_times_are_a_lag_of_zero() -> None:
    cells = cells_of(model([]))
    assert [layer.id for layer in cells.layers] == ["input:x", "layer_0", "layer_1", "output:y"]
    assert cells.depth_edges == (
        DepthEdge("input:x", "layer_0"),
        DepthEdge("layer_0", "layer_1"),
        DepthEdge("layer_1", "output:y"),
    )


def test_a_layer_that_reads_a_flip_runs_in_reverse_so_that_equal_times_are_connected() -> None:
    cells = cells_of(model(FLIP, "flipped"))
    assert [layer.time_step for layer in cells.layers if layer.id.startswith("layer")] == [1, -1]
    assert times(cells, "layer_0", "layer_1") == EQUAL


def test_a_flip_beside_the_sequence_itself_connects_mirrored_times_too() -> None:
    cells = cells_of(model([*FLIP, NODE("Add", ["Y0", "flipped"], ["both"])], "both"))
    assert times(cells, "layer_0", "layer_1") == EQUAL | {(t, STEPS - 1 - t) for t in range(STEPS)}


def test_a_final_state_that_is_handed_on_connects_the_end_to_the_start() -> None:
    cells = cells_of(model([], initial="H0"))
    assert times(cells, "layer_0", "layer_1") == EQUAL | {(STEPS - 1, 0)}
    between = [edge for edge in cells.depth_edges if edge.source == "layer_0"]
    assert [(edge.lag, edge.time_pairs) for edge in between] == [(0, None), (0, ((STEPS - 1, 0),))]


def test_a_mean_over_time_connects_all_to_all() -> None:
    glue = [
        NODE("ReduceMean", ["Y0"], ["mean"], axes=[0], keepdims=1),
        NODE("Add", ["Y0", "mean"], ["pooled"]),
    ]
    cells = cells_of(model(glue, "pooled"))
    assert times(cells, "layer_0", "layer_1") == {(t, u) for t in range(STEPS) for u in range(STEPS)}


SELECTIONS = {
    "a constant is larger": [NODE("Max", ["Y0", "hundred"], ["chosen"])],
    "no unit is active": [NODE("Sub", ["Y0", "hundred"], ["low"]), NODE("Relu", ["low"], ["chosen"])],
    "the gate is closed at most steps": [
        NODE("ReduceSum", ["Y0", "last"], ["total"]),
        NODE("Greater", ["total", "hundred"], ["open"]),
        NODE("Where", ["open", "Y0", "hundred"], ["chosen"]),
    ],
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_which_side_of_a_selection_is_chosen_is_no_matter(name: str) -> None:
    proto = model(SELECTIONS[name], "chosen")
    for given_name, value in (("hundred", np.float32(100)), ("last", np.array([3]))):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), given_name))
    assert times(cells_of(proto), "layer_0", "layer_1") == EQUAL


ALL = {(t, u) for t in range(STEPS) for u in range(STEPS)}
POOLED = {
    "in windows": (
        [
            NODE("Transpose", ["Y0"], ["channels"], perm=[1, 2, 3, 0]),
            NODE("MaxPool", ["channels"], ["largest"], kernel_shape=[1, 3], pads=[0, 1, 0, 1]),
            NODE("Transpose", ["largest"], ["pooled"], perm=[3, 0, 1, 2]),
        ],
        {(t, u) for t, u in ALL if abs(t - u) <= 1},
    ),
    "over all times": (
        [NODE("ReduceMax", ["Y0"], ["largest"], axes=[0]), NODE("Add", ["Y0", "largest"], ["pooled"])],
        ALL,
    ),
    "the largest ones": (
        [NODE("TopK", ["Y0", "all"], ["pooled", "order"], axis=0)],
        ALL,
    ),
    "the time that has the largest sum": (
        [
            NODE("ReduceSum", ["Y0", "units"], ["sums"]),
            NODE("ArgMax", ["sums"], ["best"], axis=0, keepdims=0),
            NODE("Reshape", ["best", "one"], ["when"]),
            NODE("Gather", ["Y0", "when"], ["chosen"], axis=0),
            NODE("Add", ["Y0", "chosen"], ["pooled"]),
        ],
        ALL,
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_every_time_that_could_be_the_largest_is_connected(name: str) -> None:
    glue, wanted = POOLED[name]
    proto = model(glue, "pooled")
    for given_name, array in (("all", np.array([STEPS])), ("units", np.array([1, 2, 3]))):
        proto.graph.initializer.append(numpy_helper.from_array(array, given_name))
    assert times(cells_of(proto), "layer_0", "layer_1") == wanted


@pytest.mark.parametrize("is_added", [False, True])
def test_the_maximum_that_a_softmax_takes_off_connects_no_hidden_times(*, is_added: bool) -> None:
    """Causal attention over the states, its softmax written out, its mask chosen or added."""
    hide = [
        NODE("Add", ["scores", "mask"], ["hidden"])
        if is_added
        else NODE("Where", ["is_seen", "scores", "mask"], ["hidden"])
    ]
    glue = [
        NODE("Reshape", ["Y0", "rows"], ["s"]),
        NODE("Transpose", ["s"], ["turned"]),
        NODE("MatMul", ["s", "turned"], ["scores"]),
        *hide,
        NODE("ReduceMax", ["hidden"], ["top"], axes=[1]),
        NODE("Sub", ["hidden", "top"], ["low"]),
        NODE("Exp", ["low"], ["raised"]),
        NODE("ReduceSum", ["raised", "one"], ["total"]),
        NODE("Div", ["raised", "total"], ["shares"]),
        NODE("MatMul", ["shares", "s"], ["seen"]),
    ]
    proto = model(glue, "seen")
    is_seen = np.tril(np.ones((STEPS, STEPS), bool))
    arrays = (("rows", np.array([STEPS, SIZE])), ("is_seen", is_seen))
    for given_name, array in (*arrays, ("mask", np.where(is_seen, 0, -1e9).astype(np.float32))):
        proto.graph.initializer.append(numpy_helper.from_array(array, given_name))
    found = times(cells_of(proto), "layer_0", "layer_1")
    assert found == {(t, u) for t in range(STEPS) for u in range(t, STEPS)}


def test_an_output_without_time_stands_at_the_last_step() -> None:
    cells = cells_of(model([], out="H1"))
    assert times(cells, "layer_1", "output:y") == {(STEPS - 1, STEPS - 1)}


def test_a_pooled_output_is_reached_from_every_step() -> None:
    proto = model([])
    proto.graph.node[-1].CopyFrom(NODE("ReduceMax", ["Y1"], ["m"], axes=[3], keepdims=0))
    proto.graph.node.append(NODE("ReduceMean", ["m"], ["y"], axes=[0], keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    cells = cells_of(proto)
    assert times(cells, "layer_1", "output:y") == {(t, STEPS - 1) for t in range(STEPS)}


def test_without_terminals_only_states_are_layers() -> None:
    cells = connected_cells(prepare(model([]), REQUEST)).cells
    assert [layer.id for layer in cells.layers] == ["layer_0", "layer_1"]
    assert cells.depth_edges == (DepthEdge("layer_0", "layer_1"),)


@pytest.mark.parametrize("name", ["gru", "streaming_gru", "scan_gru"])
def test_every_form_of_a_network_has_the_same_connections(name: str) -> None:
    cells = cells_of(registry.build(name))
    sequence = [edge for edge in cells.depth_edges if edge.time_pairs is None]
    assert sequence == [
        DepthEdge("input:x", "layer_0"),
        DepthEdge("layer_0", "layer_1"),
        DepthEdge("layer_1", "output:y"),
    ]


def test_a_feed_forward_model_has_its_inputs_below_and_its_outputs_above() -> None:
    cells = cells_of(registry.build("residual_mlp"))
    assert cells.depth_edges[0] == DepthEdge("input:x", "layer_0")
    assert cells.depth_edges[-1].target == "output:y"


@given(st.integers(1, 9), st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8))))
def test_edges_of_pairs_are_the_pairs(size: int, raw: set[tuple[int, int]]) -> None:
    pairs = {(t, u) for t, u in raw if t < size and u < size}
    found: set[tuple[int, int]] = set()
    for edge in edges_of_pairs("a", "b", pairs, size):
        lagged = [(t - edge.lag, t) for t in range(size) if 0 <= t - edge.lag < size]
        listed = set(lagged if edge.time_pairs is None else edge.time_pairs)
        assert not listed & found
        found |= listed
    assert found == pairs


def test_a_window_over_time_is_a_set_of_lags_and_a_corner_is_none() -> None:
    window = {(t, t + lag) for t in range(9) for lag in (-1, 0, 1) if 0 <= t + lag < 9}
    assert [edge.lag for edge in edges_of_pairs("a", "b", window, 9)] == [-1, 0, 1]
    (corner,) = edges_of_pairs("a", "b", {(0, 8)}, 9)
    assert corner.time_pairs == ((0, 8),)


@pytest.mark.parametrize(("order", "back"), [([1, 0, 2], [1, 0, 2]), ([2, 0, 1], [1, 2, 0])])
def test_time_is_told_from_features_of_the_same_number_by_how_sparsely_it_is_read(
    order: list[int], back: list[int]
) -> None:
    """[1, T, D] and [1, D, T] with T = D: every input element takes part in the step of its own time."""
    net, size = Unroller(), 5
    turned = net.op("Transpose", net.input("x", 1, size, size), perm=order)
    weights = [net.weight(1, size, size), net.weight(1, size, size)]
    states = net.op("Squeeze", net.op("RNN", turned, *weights, hidden_size=size), net.constant([1]))
    net.output(net.op("Transpose", states, perm=back))
    report = gradient_paths(net.model())
    assert [entry.count.num_gradient_paths for entry in report.from_inputs] == ["1"] * size


def test_of_two_axes_of_an_input_that_may_be_time_one_can_be_chosen() -> None:
    """As many features as steps: by default time is the axis that each step reads one entry of."""
    steps = 4
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        square (float[4, 1, 4] x) => (float[4, 1, 1, 2] out)
        { z = MatMul(x, P)
          out = RNN<hidden_size=2>(z, W, R) }"""
    )
    generator = np.random.default_rng(0)
    for name, shape in (("P", (4, 3)), ("W", (1, 2, 3)), ("R", (1, 2, 2))):
        array = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    totals = {
        axis: gradient_paths(proto, sources=["input:x@every"], time_axis=axis).total.num_gradient_paths
        for axis in (None, 0, 2, -1)
    }
    assert totals[None] == totals[0] == str(steps)
    assert totals[2] == totals[-1] == str(steps * steps)


@pytest.mark.parametrize("reads_rows", [False, True])
def test_axes_that_nothing_tells_apart_are_named_and_can_be_chosen(*, reads_rows: bool) -> None:
    """As many features as steps; step t reads x[t, T - 1 - t], or all of x[t]."""
    steps = 4
    mask = np.ones((steps, 1, steps)) if reads_rows else np.eye(steps)[::-1, None]
    arrays = {"M": mask, "W": np.ones((1, 2, 1)), "R": np.full((1, 2, 2), 0.3)}
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        square (float[4, 1, 4] x) => (float[4, 1, 1, 2] y)
        { taken = Mul(x, M)
          sum = ReduceMean<axes = [2]>(taken)
          y = RNN<hidden_size=2>(sum, W, R) }"""
    )
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    totals, told = {}, {}
    for axis in (None, 0, 2):
        report = gradient_paths(proto, sources=["input:x@0"], targets=["output:y@0"], time_axis=axis)
        totals[axis] = report.total.num_gradient_paths
        told[axis] = [note for note in report.notes if "--time-axis" in note]
    assert totals == {None: "1", 0: "1", 2: "1" if reads_rows else "0"}
    assert told[0] == told[2] == []
    assert len(told[None]) == (not reads_rows)
    assert all("input x: time may be axis 0 or axis 2" in note for note in told[None])
    notes = gradient_paths(proto, time_axis=1).notes
    assert any("no input or output has that choice" in note for note in notes)
