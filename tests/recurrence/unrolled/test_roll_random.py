"""Random recurrent networks, unrolled with all that exporters do to them, are recovered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unrolled_models import Unroller, at, stacked

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.roll import roll_steps
from lsc_graph.running.reference import Reference

D, H = 3, 4
ACTIVATIONS = ("Tanh", "Sigmoid", "Relu", "Sin")


@dataclass(frozen=True)
class Plan:
    """One random network: T steps of a cell with gates, decays and lags, and how it is written down."""

    seed: int
    num_steps: int
    activations: tuple[str, ...]
    has_gate: bool
    has_trace: bool
    has_bias: bool
    how: str
    is_reverse: bool
    is_hoisted: bool
    last_only: bool
    folds_first: bool
    copies: bool


PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**16),
    num_steps=st.integers(5, 9),
    activations=st.lists(st.sampled_from(ACTIVATIONS), min_size=1, max_size=2).map(tuple),
    has_gate=st.booleans(),
    has_trace=st.booleans(),
    has_bias=st.booleans(),
    how=st.sampled_from(["Gather", "Slice"]),
    is_reverse=st.booleans(),
    is_hoisted=st.booleans(),
    last_only=st.booleans(),
    folds_first=st.booleans(),
    copies=st.booleans(),
)


class Writer:
    """Writes a plan as a model."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.net = plan, Unroller(plan.seed)
        net = self.net
        self.w, self.u, self.g = net.weight(D, H), net.weight(H, H), net.weight(H, H)
        self.bias, self.decay = net.weight(H), net.weight(H)
        self.one = net.constant(1.0, "one")

    def tied(self, weight: str) -> str:
        """The weight itself, or an equal copy for this one use."""
        if not self.plan.copies:
            return weight
        return self.net.constant(self.net.initializers[weight], f"{weight}_copy_{len(self.net.nodes)}")

    def step(self, drive: str, h: str | None, trace: str | None) -> tuple[str, str | None]:
        """New state and trace; None for a zero state that the exporter has folded."""
        net, plan = self.net, self.plan
        total = drive
        if h is not None:
            total = net.op("Add", drive, net.op("MatMul", h, self.tied(self.u)))
        if plan.has_trace and trace is not None:
            total = net.op("Sub", total, trace)
        if plan.has_bias:
            total = net.op("Add", total, self.bias)
        for activation in plan.activations:
            total = net.op(activation, total)
        new = total
        if plan.has_gate and h is not None:
            gate = net.op("Sigmoid", net.op("MatMul", h, self.g))
            fresh = net.op("Mul", net.op("Sub", self.one, gate), total)
            new = net.op("Add", fresh, net.op("Mul", gate, h))
        if not plan.has_trace:
            return new, None
        kept = net.op("Mul", trace, self.decay) if trace is not None else None
        return new, net.op("Add", kept, new) if kept is not None else net.op("Identity", new)

    def model(self) -> onnx.ModelProto:
        net, plan = self.net, self.plan
        x = net.input("x", plan.num_steps, 1, D)
        source = net.op("MatMul", x, self.w) if plan.is_hoisted else x
        is_folded = plan.folds_first and not (plan.has_gate or plan.has_trace)
        h = None if is_folded else net.input("h0", 1, H)
        trace = net.input("trace0", 1, H) if plan.has_trace else None
        times = range(plan.num_steps)[::-1] if plan.is_reverse else range(plan.num_steps)
        rows = []
        for time in times:
            drive = at(net, source, time, plan.how)
            drive = drive if plan.is_hoisted else net.op("MatMul", drive, self.w)
            h, trace = self.step(drive, h, trace)
            rows.append(h)
        net.output(rows[-1] if plan.last_only else stacked(net, rows[::-1] if plan.is_reverse else rows))
        return net.model()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS)
def test_every_random_network_is_recovered(plan: Plan) -> None:
    proto = Writer(plan).model()
    generator = np.random.default_rng(plan.seed)
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    steps, refusals = roll_steps(model, lambda part: Reference(part).run(feed))
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    assert [own.num_steps for own in steps] == [plan.num_steps], refusals
    (own,) = steps
    assert len(own.rolled.state_names) == 1 + plan.has_trace
    assert own.rolled.is_reverse == plan.is_reverse
    (expected,), (actual,) = (Reference(m).run(feed).values() for m in (proto, after))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
