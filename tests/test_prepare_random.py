"""Random recurrent networks, written in a random form with random names, are recovered as what they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lsc_graph.models.forms import STEP_FORMS, State, Step, in_form
from lsc_graph.models.graph import GraphBuilder
from written_as import as_dynamo_writes, as_jax_writes, as_keras_writes

from lsc_graph.audit_model import audit
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.results import Form

D, T = 3, 6
ACTIVATIONS = ("Tanh", "Sigmoid", "Softplus", "Sin")


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a random stack: what its new state is computed from."""

    size: int
    activation: str
    has_gate: bool
    has_memory: bool
    reads_old_below: bool
    is_residual: bool


@dataclass(frozen=True)
class Plan:
    """A stack, and how it is written down."""

    seed: int
    layers: tuple[LayerPlan, ...]
    writing: str
    is_renamed: bool
    weights_are_constants: bool

    @property
    def form(self) -> Form:
        return WRITINGS[self.writing][0]


FOLDED = "as dynamo, hoisted and folded"
WRITINGS: dict[str, tuple[Form, Callable[[Step, int], onnx.ModelProto]]] = {
    **{str(form): (form, lambda step, steps, form=form: in_form(step, form, steps)) for form in STEP_FORMS},
    "as JAX": (Form.LOOP, as_jax_writes),
    "as Keras": (Form.LOOP, as_keras_writes),
    FOLDED: (Form.UNROLLED, as_dynamo_writes),
}
LAYERS = st.builds(
    LayerPlan,
    size=st.integers(2, 4),
    activation=st.sampled_from(ACTIVATIONS),
    has_gate=st.booleans(),
    has_memory=st.booleans(),
    reads_old_below=st.booleans(),
    is_residual=st.booleans(),
)
PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**16),
    layers=st.lists(LAYERS, min_size=1, max_size=3).map(tuple),
    writing=st.sampled_from(sorted(WRITINGS)),
    is_renamed=st.booleans(),
    weights_are_constants=st.booleans(),
).filter(lambda plan: not (plan.form is Form.UNROLLED and any(x.reads_old_below for x in plan.layers)))
# Written out from zeros, a layer that reads the step before has a first step without any input: no cell.


def step_of(plan: Plan) -> Step:
    """The plan's step: layer k reads the layer below, now, or as it was one step before."""
    builder, generator = GraphBuilder(), np.random.default_rng(plan.seed)

    def weight(name: str, *shape: int) -> str:
        return builder.weight(name, 0.5 * generator.standard_normal(shape))

    states: list[State] = []
    below, below_size, below_before = "x", D, None
    for k, layer in enumerate(plan.layers):
        h, n = f"h{k}", layer.size
        before = below_before if layer.reads_old_below and below_before else below
        drive = builder.op("MatMul", [before, weight(f"w{k}", below_size, n)], f"drive{k}")
        back = builder.op("MatMul", [h, weight(f"u{k}", n, n)], f"back{k}")
        total = builder.op("Add", [drive, back], f"total{k}")
        if layer.has_memory:
            total = builder.op("Sub", [total, f"c{k}"], f"adapted{k}")
        new = builder.op(layer.activation, [total], f"act{k}")
        if layer.has_gate:
            gate = builder.op("Sigmoid", [drive], f"gate{k}")
            new = builder.op("Mul", [gate, new], f"gated{k}")
            new = builder.op(
                "Add", [new, builder.op("Mul", [h, weight(f"keep{k}", n)], f"kept{k}")], f"mix{k}"
            )
        if layer.is_residual and below_size == n:
            new = builder.op("Add", [new, below], f"residual{k}")
        new = builder.op("Identity", [new], f"{h}_next")
        states.append(State(h, new, n))
        if layer.has_memory:
            decayed = builder.op("Mul", [f"c{k}", weight(f"decay{k}", n)], f"decayed{k}")
            states.append(State(f"c{k}", builder.op("Add", [decayed, new], f"c{k}_next"), n))
        below, below_size, below_before = new, n, h
    y = builder.op("MatMul", [below, weight("head", below_size, 2)], "y")
    assert y == "y"
    return Step(builder, tuple(states), D, 2)


def expected_layers(plan: Plan) -> list[tuple[int, int]]:
    """Number of state variables and of their elements, layer by layer."""
    return [(1 + layer.has_memory, layer.size * (1 + layer.has_memory)) for layer in plan.layers]


def expected_edges(plan: Plan) -> set[tuple[int, int, int]]:
    """(layer below, layer, lag)."""
    found = set()
    sizes = [D, *(layer.size for layer in plan.layers)]
    for k, layer in enumerate(plan.layers[1:], 1):
        found.add((k - 1, k, int(layer.reads_old_below)))
        if layer.is_residual and sizes[k] == layer.size:
            found.add((k - 1, k, 0))
    return found


def written(plan: Plan) -> onnx.ModelProto:
    proto = WRITINGS[plan.writing][1](step_of(plan), T)
    if plan.weights_are_constants:
        _into_constants(proto.graph)
    if plan.is_renamed:
        _rename_inside(proto.graph, np.random.default_rng(plan.seed), itertools.count())
    onnx.checker.check_model(proto)
    return proto


def _into_constants(graph: onnx.GraphProto) -> None:
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)


def _rename_inside(
    graph: onnx.GraphProto, generator: np.random.Generator, count: itertools.count[int]
) -> None:
    """Give every value but the main graph's inputs and outputs a name that says nothing."""
    kept = {v.name for v in (*graph.input, *graph.output)}
    new: dict[str, str] = {}

    def name_of(old: str) -> str:
        if not old or old in kept:
            return old
        return new.setdefault(old, f"v{generator.integers(10**6)}_{next(count)}")

    def visit(each: onnx.GraphProto, *, is_main: bool) -> None:
        for tensor in each.initializer:
            tensor.name = name_of(tensor.name)
        for value in () if is_main else (*each.input, *each.output):
            value.name = name_of(value.name)
        for node in each.node:
            node.name = f"n{next(count)}"
            node.input[:] = [name_of(name) for name in node.input]
            node.output[:] = [name_of(name) for name in node.output]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g, is_main=False)

    visit(graph, is_main=True)
    del graph.value_info[:]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS)
def test_layers_states_and_edges_are_recovered_from_any_form(plan: Plan) -> None:
    is_open = plan.writing in map(str, STEP_FORMS) and plan.form is not Form.UNROLLED
    prepared = prepare(written(plan), Request(T if is_open else None, {}, {}, (), {}))
    cells = prepared.cell_graph
    assert cells.num_steps == T
    assert {site.form for site in prepared.findings.sites} == {plan.form}
    assert [(len(layer.states), layer.state_size) for layer in cells.layers] == expected_layers(plan)
    order = {layer.id: k for k, layer in enumerate(cells.layers)}
    assert {(order[e.source], order[e.target], e.lag) for e in cells.depth_edges} == expected_edges(plan)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS, st.sampled_from(sorted(WRITINGS)))
def test_the_same_network_in_another_form_has_the_same_radii(plan: Plan, other: str) -> None:
    if WRITINGS[other][0] is Form.UNROLLED and any(layer.reads_old_below for layer in plan.layers):
        other = str(Form.SCAN)
    x = np.random.default_rng(plan.seed).standard_normal((T, 1, D)).astype(np.float32)
    one, another = (
        audit(written(replace(plan, writing=writing)), num_steps=T, data={"x": x}, num_samples=1)
        for writing in (plan.writing, other)
    )
    assert one.grid == another.grid
    assert [layer.state_size for layer in one.layers] == [layer.state_size for layer in another.layers]
    for a, b in zip(one.layers, another.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, abs=1e-5), quantity


def reading_new_states(layer: LayerPlan) -> LayerPlan:
    return replace(layer, reads_old_below=False)


def from_learned_states(plan: Plan) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The plan from states that are no zeros: folded as the dynamo exporter does it, and as a Scan."""
    step, generator = step_of(plan), np.random.default_rng(plan.seed)
    starts = {s.before: 0.5 * generator.standard_normal((1, s.size)) for s in step.states}
    scan = in_form(step, Form.SCAN, T)
    (loop,) = [node for node in scan.graph.node if node.op_type == "Scan"]
    for index, (name, start) in enumerate(starts.items()):
        loop.input[index] = f"{name}/start"
        scan.graph.initializer.append(onnx.numpy_helper.from_array(start.astype(np.float32), f"{name}/start"))
    return as_dynamo_writes(step, T, starts), scan


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS.map(lambda plan: replace(plan, layers=tuple(map(reading_new_states, plan.layers)))))
def test_networks_from_learned_states_have_the_same_radii_where_their_first_step_was_folded(
    plan: Plan,
) -> None:
    x = np.random.default_rng(plan.seed).standard_normal((T, 1, D)).astype(np.float32)
    folded, scan = (
        audit(proto, data={"x": x}, num_samples=1, num_steps=T) for proto in from_learned_states(plan)
    )
    assert folded.grid == scan.grid
    assert not any("computed in another way" in text for text in folded.warnings)
    for one, other in zip(folded.layers, scan.layers, strict=True):
        assert one.state_size == other.state_size
        for quantity in ("time_radius", "time_gain", "depth_gain"):
            mine, its = getattr(one, quantity), getattr(other, quantity)
            assert mine is None or mine.mean == pytest.approx(its.mean, abs=1e-5), quantity


def adapting_step(*, is_early: bool) -> Step:
    """A memory of the state, brought up to date at the end of a step, or at the start of the next one."""
    builder, generator = GraphBuilder(), np.random.default_rng(0)
    w, u, decay = (
        builder.weight(name, 0.5 * generator.standard_normal(shape))
        for name, shape in (("w", (D, 3)), ("u", (3, 3)), ("decay", (3,)))
    )

    def memory(h: str) -> str:
        return builder.op("Add", [builder.op("Mul", ["c", decay], "decayed"), h], "c_next")

    c = "c" if is_early else memory("h")
    drive = builder.op("MatMul", ["x", w], "drive")
    total = builder.op("Add", [drive, builder.op("MatMul", ["h", u], "back")], "total")
    h = builder.op("Tanh", [builder.op("Sub", [total, c], "adapted")], "h_next")
    if is_early:
        memory(h)
    builder.op("Identity", [h], "y")
    return Step(builder, (State("h", "h_next", 3), State("c", "c_next", 3)), D, 3)


@pytest.mark.parametrize("is_early", [True, False])
def test_what_folding_has_made_ambiguous_is_said_and_chosen_by_hand(is_early: bool) -> None:
    """One file may come from both networks: assumed is one, `--state` as the report gives it is the other."""
    x = np.random.default_rng(0).standard_normal((T, 1, D)).astype(np.float32)
    step = adapting_step(is_early=is_early)
    folded = as_dynamo_writes(step, T)
    written_as_scan, assumed = (
        audit(proto, data={"x": x}, num_samples=1) for proto in (in_form(step, Form.SCAN, T), folded)
    )
    (warning,) = [text for text in assumed.warnings if "nothing in the file tells" in text]
    before, after = warning.split("--state ")[1].split(" ")[0].rsplit(":", 1)
    chosen = audit(folded, data={"x": x}, num_samples=1, states=[(before, after)])
    assert not any("nothing in the file tells" in text for text in chosen.warnings)
    gains = [own.layers[0].time_gain for own in (written_as_scan, assumed, chosen)]
    expected, first, second = (gain.mean for gain in gains if gain is not None)
    assert (first, second) != pytest.approx((second, first), abs=0.01)
    assert expected == pytest.approx(first if is_early else second, abs=1e-5)
    assert {own.grid.num_steps for own in (written_as_scan, assumed, chosen)} == {T}
