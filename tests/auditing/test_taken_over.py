"""Chaos that smaller weights do not calm: agreement is seen step by step; what is wrong is still refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models.forms import STEP_FORMS, State, Step, in_form
from lsc_graph.models.graph import GraphBuilder

from lsc_graph import audit
from lsc_graph.auditing import agreement
from lsc_graph.auditing.agreement import Agreement
from lsc_graph.auditing.measure import Sequences, Streaming, measured_model
from lsc_graph.auditing.taken_over import agrees_taken_over
from lsc_graph.errors import ParityError
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.results import Form
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch import loop, program
from lsc_graph.to_torch.black_parts import Parts
from lsc_graph.to_torch.parity import Tolerance
from lsc_graph.to_torch.segment import Segment

SIZE, FORMS = 4, sorted(STEP_FORMS)


def ricker() -> Step:
    """h' = |h exp(3.3 (1 - h)) + tanh(x) / 100|: one constant makes the chaos."""
    own = GraphBuilder()
    constants = {name: own.weight(name, value) for name, value in (("rate", 3.3), ("one", 1), ("few", 0.01))}
    own.op("Mul", [constants["rate"], own.op("Sub", [constants["one"], "h"], "rest")], "scaled")
    own.op("Mul", ["h", own.op("Exp", ["scaled"], "factor")], "grown")
    own.op("Mul", [own.op("Tanh", ["x"], "push"), constants["few"]], "some")
    own.op("Abs", [own.op("Add", ["grown", "some"], "moved")], "h_new")
    own.op("Identity", ["h_new"], "y")
    return Step(own, (State("h", "h_new", SIZE),), SIZE, SIZE)


def sines() -> Step:
    """Two states: a' = 3 sin a + b + tanh(x) / 100, b' = 0.3 a."""
    own = GraphBuilder()
    for name, value in (("height", 3), ("keep", 0.3), ("few", 0.01)):
        own.weight(name, value)
    own.op("Add", [own.op("Mul", ["height", own.op("Sin", ["a"], "wave")], "high"), "b"], "mapped")
    own.op("Mul", [own.op("Tanh", ["x"], "push"), "few"], "some")
    own.op("Add", ["mapped", "some"], "a_new")
    own.op("Mul", ["keep", "a"], "b_new")
    own.op("Identity", ["a_new"], "y")
    return Step(own, (State("a", "a_new", SIZE), State("b", "b_new", SIZE)), SIZE, SIZE)


def lorenz() -> Step:
    """Euler steps of 0.02 of the Lorenz system of each unit, pushed by its input."""
    own = GraphBuilder()
    for name, value in (("sigma", 10), ("rho", 28), ("beta", 8 / 3), ("dt", 0.02)):
        own.weight(name, value)
    own.op("Mul", ["sigma", own.op("Sub", ["v", "u"], "v_u")], "du")
    own.op("Mul", ["u", own.op("Sub", ["rho", "w"], "rho_w")], "uw")
    own.op("Add", [own.op("Sub", ["uw", "v"], "uw_v"), own.op("Tanh", ["x"], "push")], "dv")
    own.op("Sub", [own.op("Mul", ["u", "v"], "uv"), own.op("Mul", ["beta", "w"], "bw")], "dw")
    for name in "uvw":
        own.op("Add", [name, own.op("Mul", [f"d{name}", "dt"], f"step_{name}")], f"{name}_new")
    own.op("Identity", ["u_new"], "y")
    return Step(own, tuple(State(name, f"{name}_new", SIZE) for name in "uvw"), SIZE, SIZE)


MODELS: Mapping[str, tuple[Callable[[], Step], int]] = {
    "ricker": (ricker, 48),
    "sines": (sines, 60),
    "lorenz": (lorenz, 1200),
}


def view_of(name: str, form: Form) -> tuple[Sequences | Streaming, Sample]:
    make, num_steps = MODELS[name]
    proto = in_form(make(), form, num_steps)
    states = [(own.before, own.after) for own in make().states] if form is Form.STREAMING else []
    request = Request(None if form is Form.UNROLLED else num_steps, {}, {}, states, {})
    model = measured_model(prepare(proto, request), "cpu", torch.Generator())
    assert not isinstance(model, program.ChainProgram)
    x = np.random.default_rng(0).standard_normal((num_steps, 1, SIZE)).astype(np.float32)
    zeros = {state.before: np.zeros((1, SIZE), np.float32) for state in make().states}
    return model, Sample({"x": x}, zeros if form is Form.STREAMING else {})


CASES = [("ricker", form) for form in FORMS] + [("sines", form) for form in FORMS if form != Form.UNROLLED]
CASES += [("lorenz", Form.STREAMING), ("lorenz", Form.SCAN), ("lorenz", Form.LOOP)]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_chaotic_run_agrees_in_every_form(name: str, form: Form) -> None:
    model, sample = view_of(name, form)
    with torch.no_grad():
        compared = Agreement(model)
        compared.compare(sample, model.run(sample))
    assert compared.check.rounding is not None


@pytest.mark.parametrize("form", FORMS)
def test_chaos_that_is_not_in_the_weights_is_audited(form: Form) -> None:
    """The radii are those of one step's derivative where the run has been."""
    make, num_steps = MODELS["ricker"]
    proto = in_form(make(), form, num_steps)
    steps = None if form is Form.UNROLLED else num_steps
    found = audit(proto, num_steps=steps, num_samples=1, black_box="never")
    assert found.parity.rounding is not None
    assert found.layers[0].time_radius is not None
    assert found.layers[0].time_radius.mean > 1


def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step but the first two reads the state of two steps before."""
    real, kept = loop.SiteModule.step, []

    def step(self: loop.SiteModule, before: Any, *given: Any) -> dict[str, torch.Tensor]:
        kept.append(before)
        return real(self, kept[-2] if len(kept) > 2 else before, *given)

    monkeypatch.setattr(loop.SiteModule, "step", step)


def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices are read from the other end."""
    real = loop.slices_of

    def slices(*given: Any, is_reverse: bool) -> torch.Tensor:
        return real(*given, is_reverse=not is_reverse)

    monkeypatch.setattr(program, "slices_of", slices)


def other_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """States start a little off."""
    real = loop.SiteModule.run

    def run(self: loop.SiteModule, slices: Any, initial: Any, captures: Any) -> loop.Trajectory:
        return real(self, slices, {name: value + 0.01 for name, value in initial.items()}, captures)

    monkeypatch.setattr(loop.SiteModule, "run", run)


def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put out comes a step late."""
    real = loop.SiteModule._collect

    def collect(self: loop.SiteModule, emitted: Any) -> dict[str, torch.Tensor]:
        return real(self, [emitted[0], *emitted[:-1]])

    monkeypatch.setattr(loop.SiteModule, "_collect", collect)


def other_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large values are computed a little too small."""
    real = Segment._computed

    def wrong(self: Segment, *values: torch.Tensor) -> Any:
        found = real(self, *values)
        if isinstance(self.module, Parts):
            return found
        values = found if isinstance(found, tuple) else (found,)
        return tuple(torch.where(own.abs() > 1, own * 0.997, own) for own in values)

    monkeypatch.setattr(Segment, "_computed", wrong)


def other_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every constant is a little too large in torch, though not in ONNX Runtime."""
    real = Segment._computed

    def wrong(self: Segment, *values: torch.Tensor) -> Any:
        if not hasattr(self.module, "is_moved"):
            self.module.is_moved = True
            for parameter in self.module.parameters():
                parameter.data *= 1.003
        return real(self, *values)

    monkeypatch.setattr(Segment, "_computed", wrong)


FAULTS = [stale, backwards, other_start, late, other_operator, other_constant]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("name", "form"), [own for own in CASES if own[0] != "lorenz" or own[1] is Form.STREAMING]
)
def test_a_torch_view_that_is_wrong_is_refused(
    name: str, form: Form, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if form is Form.STREAMING and fault in (backwards, other_start):
        pytest.skip("slices and first states of a step are the inputs themselves")
    monkeypatch.setattr(agreement, "_FACTORS", (0.5,))
    model, sample = view_of(name, form)
    fault(monkeypatch)
    with torch.no_grad(), pytest.raises(ParityError):
        Agreement(model).compare(sample, model.run(sample))


@pytest.mark.parametrize("fault", [stale, backwards, other_start, late])
@pytest.mark.parametrize("form", [Form.SCAN, Form.LOOP, Form.UNROLLED])
def test_parts_that_are_put_together_otherwise_are_seen_step_by_step(
    form: Form, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any look at the parts: these compute what they should."""
    model, sample = view_of("sines", form)
    with torch.no_grad():
        assert agrees_taken_over(model, sample, model.run(sample), Tolerance())
        fault(monkeypatch)
        assert not agrees_taken_over(model, sample, model.run(sample), Tolerance())


def test_a_loop_inside_of_a_reversed_sequence_takes_over_states_in_its_own_order() -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[80, 1, {SIZE}] x, float[1, {SIZE}] h0) => (float[80, 1, {SIZE}] y)
    <float rate = {{3.3}}, float one = {{1}}, float few = {{0.01}}>
    {{
        last, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
            body = step (float[1, {SIZE}] h, float[1, {SIZE}] x_t)
            => (float[1, {SIZE}] h_new, float[1, {SIZE}] y_t)
            {{
                rest = Sub(one, h) scaled = Mul(rate, rest) factor = Exp(scaled) grown = Mul(h, factor)
                push = Tanh(x_t) some = Mul(push, few) moved = Add(grown, some) h_new = Abs(moved)
                y_t = Identity(h_new)
            }}> (h0, x)
    }}"""
    model = measured_model(
        prepare(onnx.parser.parse_model(text), Request(None, {}, {}, (), {})), "cpu", torch.Generator()
    )
    draw = np.random.default_rng(0).standard_normal
    given = {"x": draw((80, 1, SIZE)).astype(np.float32), "h0": draw((1, SIZE)).astype(np.float32)}
    with torch.no_grad():
        run = model.run(Sample(given, {}))
        assert agrees_taken_over(model, Sample(given, {}), run, Tolerance())
        off = {**given, "h0": given["h0"] + 0.01}
        assert not agrees_taken_over(model, Sample(off, {}), run, Tolerance())
