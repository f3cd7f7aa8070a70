"""State variables fall into layers, and layers into depth order, by dataflow alone."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.counting.hops import hops_of
from lsc_graph.grid.paths import num_paths_from_each
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import CellGraph, DepthEdge, cells_of_site, depth_edges_within
from lsc_graph.recurrence.find import find_recurrences
from lsc_graph.recurrence.site import RecurrentSite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def site_of(text: str, states: tuple[tuple[str, str], ...] = ()) -> RecurrentSite:
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEADER + text), data_prop=True)
    model = ir.from_proto(proto)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    (site,) = find_recurrences(model, num_steps=3, states=states).sites
    return site


LSTM_LIKE = """
step (float[1, 3] x, float[1, 3] h, float[1, 3] c) => (float[1, 3] y, float[1, 3] hn, float[1, 3] cn)
{
    a = Add(x, h)
    f = Sigmoid(a)
    kept = Mul(f, c)
    cn = Add(kept, a)
    s = Tanh(cn)
    hn = Mul(f, s)
    y = Neg(hn)
}
"""


def test_h_and_c_of_an_lstm_fall_into_one_layer() -> None:
    (cell,) = cells_of_site(site_of(LSTM_LIKE))
    assert [state.name for state in cell.layer.states] == ["h", "c"]
    assert cell.layer.state_size == 6
    assert cell.layer.time_step == 1
    assert cell.slices == ("x",)
    assert not cell.below_now


def test_states_that_only_feed_forward_within_the_step_are_layers_in_depth_order() -> None:
    cells = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] state2, float[1, 3] state1)
            => (float[1, 1] y, float[1, 3] state2_out, float[1, 3] state1_out)
            {
                a = Add(x, state1)
                state1_out = Tanh(a)
                b = Add(state1_out, state2)
                state2_out = Tanh(b)
                y = ReduceSum(state2_out)
            }
            """
        )
    )
    assert [[state.name for state in cell.layer.states] for cell in cells] == [["state1"], ["state2"]]
    assert [state.name for state in cells[1].below_now] == ["state1"]
    assert depth_edges_within(cells) == (DepthEdge("layer_0", "layer_1", 0),)


def test_reading_a_lower_state_of_the_step_before_is_an_edge_of_lag_one() -> None:
    cells = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] h1, float[1, 3] h2)
            => (float[1, 1] y, float[1, 3] h1n, float[1, 3] h2n)
            {
                a = Add(x, h1)
                h1n = Tanh(a)
                b = Add(h1, h2)
                h2n = Tanh(b)
                y = ReduceSum(h2n)
            }
            """
        )
    )
    assert depth_edges_within(cells) == (DepthEdge("layer_0", "layer_1", 1),)
    # In a reverse layer the step before is the later one.
    reverse = [replace(cell, layer=replace(cell.layer, time_step=-1)) for cell in cells]
    assert depth_edges_within(reverse) == (DepthEdge("layer_0", "layer_1", -1),)


def test_a_delay_is_no_layer_but_a_step_more() -> None:
    """What is delayed enters the cell at its own step and at the next one."""
    cells = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] last, float[1, 3] h)
            => (float[1, 3] y, float[1, 3] last_out, float[1, 3] h_out)
            {
                last_out = Sigmoid(x)
                change = Sub(last_out, last)
                a = Add(change, h)
                h_out = Tanh(a)
                y = Neg(h_out)
            }
            """,
            states=(("last", "last_out"), ("h", "h_out")),
        )
    )
    (cell,) = cells
    assert [state.name for state in cell.layer.states] == ["h"]
    assert not depth_edges_within(cells)
    read = [(read.kind, read.name, read.lag) for read in cell.reads]
    assert read == [("slice", "x", 0), ("initial", "last", 0), ("slice", "x", 1)]


def test_delays_of_delays_make_an_edge_of_several_steps() -> None:
    """h1[t-1] is handed on twice: the layer above reads h1[t-3] by the last of them, and h1[t-2]."""
    cells = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] h1, float[1, 3] d1, float[1, 3] d2, float[1, 3] h2)
            => (float[1, 1] y, float[1, 3] h1n, float[1, 3] d1n, float[1, 3] d2n, float[1, 3] h2n)
            {
                a = Add(x, h1)
                h1n = Tanh(a)
                d1n = Sigmoid(h1)
                d2n = Identity(d1)
                b = Add(d1, d2)
                c = Mul(b, h2)
                h2n = Tanh(c)
                y = ReduceSum(h2n)
            }
            """,
            states=(("h1", "h1n"), ("d1", "d1n"), ("d2", "d2n"), ("h2", "h2n")),
        )
    )
    lower, upper = (cell.layer for cell in cells)
    assert depth_edges_within(cells) == (
        DepthEdge(lower.id, upper.id, 2),
        DepthEdge(lower.id, upper.id, 3),
    )
    grid = unroll(CellGraph((lower, upper), depth_edges_within(cells), num_steps=5))
    assert num_paths_from_each(grid, [GridNode(upper.id, 4)])[GridNode(lower.id, 1)] == 3


def test_delays_alone_stay_layers() -> None:
    """A causal convolution that runs step by step has nothing else: layers without edges in time."""
    cells = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] d1, float[1, 3] d2)
            => (float[1, 3] y, float[1, 3] d1n, float[1, 3] d2n)
            {
                d1n = Identity(x)
                d2n = Identity(d1)
                a = Add(x, d1)
                y = Add(a, d2)
            }
            """,
            states=(("d1", "d1n"), ("d2", "d2n")),
        )
    )
    assert [(own.layer.is_delay, own.layer.has_time_edges) for own in cells] == [(True, False)] * 2
    assert [(edge.lag, edge.source) for edge in depth_edges_within(cells)] == [(1, "layer_0")]
    graph = CellGraph(tuple(own.layer for own in cells), depth_edges_within(cells), num_steps=6)
    assert not [hop for hop in hops_of(graph) if hop.kind == "time"]


def test_two_states_that_feed_each_other_over_time_are_one_layer() -> None:
    (cell,) = cells_of_site(
        site_of(
            """
            step (float[1, 3] x, float[1, 3] h1, float[1, 3] h2)
            => (float[1, 1] y, float[1, 3] h1n, float[1, 3] h2n)
            {
                a = Add(x, h2)
                h1n = Tanh(a)
                b = Add(x, h1)
                h2n = Tanh(b)
                y = ReduceSum(h2n)
            }
            """,
            states=(("h1", "h1n"), ("h2", "h2n")),
        )
    )
    assert [state.name for state in cell.layer.states] == ["h1", "h2"]


def test_a_counter_is_carried_but_is_no_layer() -> None:
    site = site_of(
        """
        step (float[1, 3] x, float[1, 3] h, int64[1] step_state)
        => (float[1, 1] y, float[1, 3] hn, int64[1] step_state_next)
        {
            one = Constant<value = int64[1] {1}>()
            step_state_next = Add(step_state, one)
            t = Cast<to = 1>(step_state)
            a = Add(x, h)
            b = Add(a, t)
            hn = Tanh(b)
            y = ReduceSum(hn)
        }
        """
    )
    assert [state.name for state in site.states] == ["h", "step_state"]
    (cell,) = cells_of_site(site)
    assert [state.name for state in cell.layer.states] == ["h"]
    assert [state.name for state in cell.carried] == ["step_state"]


def test_a_step_that_reads_nothing_but_its_state_has_its_layer() -> None:
    site = site_of("step (float[1, 3] h) => (float[1, 3] hn) { a = Add(h, h) hn = Tanh(a) }")
    (cell,) = cells_of_site(site)
    assert [state.name for state in cell.layer.states] == ["h"]
