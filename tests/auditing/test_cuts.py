"""A spiking network with a surrogate has the Jacobians of the same network written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models import registry
from onnx import helper, numpy_helper
from torch import Tensor

from lsc_graph.audit_model import audit
from lsc_graph.auditing.cuts import put_in, zero_derivatives
from lsc_graph.auditing.measure import Sequences, Streaming, measured_model
from lsc_graph.jacobians.local import local_jacobians
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.recurrence.site import StateVariable
from lsc_graph.results import Form
from lsc_graph.running.sampling import make_samples
from lsc_graph.to_torch.surrogates import parse_surrogate

HIDDEN, STEPS = 16, 5


class TriangularSpike(torch.autograd.Function):
    """As in the field's own code: 1 forwards, 0.3 max(0, 1 - |u|) backwards."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradients[0] * 0.3 * (1 - u.abs()).clamp(min=0)


def alif_step(model: onnx.ModelProto, layer: int, drive: Tensor, state: Tensor) -> Tensor:
    """(z, v, b) after one step, from the layer's weights in the file."""
    stored = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy()).double() for t in model.graph.initializer
    }
    w = {name.split(".")[1]: value for name, value in stored.items() if name.startswith(f"layer_{layer}.")}
    z, v, b = state.split(HIDDEN)
    current = w["weight_in"] @ drive + w["weight_rec"] @ z
    new_b = w["rho"] * b + w["one_minus_rho"] * z
    new_v = w["alpha"] * v + w["one_minus_alpha"] * current - (w["theta"] + stored["beta"] * b) * z
    new_z = TriangularSpike.apply(new_v - (w["theta"] + stored["beta"] * new_b))
    return torch.cat([new_z, new_v, new_b])


@pytest.mark.parametrize("form", [Form.STREAMING, Form.SCAN, Form.LOOP, Form.UNROLLED])
def test_jacobians_of_spiking_neurons_are_those_of_the_network_written_by_hand(form: Form) -> None:
    steps = STEPS if form is not Form.UNROLLED else None
    model = registry.build("alif", form=form, num_steps=STEPS)
    prepared = prepare(model, Request(steps, {}, {}, (), {}))
    assert len(zero_derivatives(prepared)) == 2
    surrogate = parse_surrogate("triangle")
    assert surrogate is not None
    assert len(put_in(prepared, surrogate).nodes) == 2
    assert zero_derivatives(prepared) == []
    generator = torch.Generator().manual_seed(0)
    measured = measured_model(prepared, "cpu", generator)
    carried = [carry.before for carry in prepared.findings.carried]
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed=prepared.fixed,
        domains=prepared.domains,
        carried=carried,
        num_steps=STEPS if form is Form.STREAMING else None,
        num_samples=1,
        seed=0,
    )
    run = measured.run(sample)
    assert isinstance(measured, (Sequences, Streaming))
    inputs = measured.tensors(sample.inputs | sample.initial)
    local = local_jacobians(measured.program, run, inputs, generator)
    x = torch.from_numpy(sample.inputs["x"]).reshape(STEPS, -1).double()
    states = [torch.zeros(3 * HIDDEN, dtype=torch.float64) for _ in range(2)]
    order = [_order(layer.states) for layer in prepared.cell_graph.layers]
    for time in range(STEPS):
        drive = x[time]
        for layer in range(2):
            jacobian = torch.autograd.functional.jacobian(
                lambda s, layer=layer, drive=drive: alif_step(model, layer, drive, s), states[layer]
            )
            found = local.time[f"layer_{layer}"][time].double()
            permuted = jacobian[order[layer]][:, order[layer]]
            torch.testing.assert_close(found, permuted, rtol=1e-4, atol=1e-5)
            states[layer] = alif_step(model, layer, drive, states[layer]).detach()
            drive = states[layer][:HIDDEN]


def _order(states: tuple[StateVariable, ...]) -> list[int]:
    """Where the layer's states stand in (z, v, b), by what they are called."""
    places = {"spike": 0, "voltage": 1, "adaptation": 2}
    found = []
    for state in states:
        place = next(number for part, number in places.items() if part in state.name.rsplit("/", 1)[-1])
        found += range(place * HIDDEN, (place + 1) * HIDDEN)
    return found


def test_the_report_names_the_surrogate_and_where_it_stands() -> None:
    analysis = audit(registry.build("alif"), num_steps=4, num_samples=1, surrogate="fast-sigmoid")
    assert analysis.surrogate is not None
    assert (analysis.surrogate.shape, analysis.surrogate.dampening, analysis.surrogate.sharpness) == (
        "fast-sigmoid", 1.0, 10.0,
    )  # fmt: skip
    assert all("Greater" in node for node in analysis.surrogate.nodes)
    assert not any("zero derivative" in warning for warning in analysis.warnings)
    cut = audit(registry.build("alif"), num_steps=4, num_samples=1)
    assert cut.surrogate is None
    assert sum("zero derivative" in warning for warning in cut.warnings) == 2


def selecting(model: onnx.ModelProto, by: str) -> onnx.ModelProto:
    """The model with its spikes made by selecting constants of the graph around the loop, or by integers."""
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    nodes = []
    for node in body.node:
        if node.op_type != "Cast":
            nodes.append(node)
        elif by == "selection":
            flag, spike = node.input[0], node.output[0]
            nodes.append(helper.make_node("Where", [flag, "spiking", "silent"], [spike]))
        else:
            whole = f"{node.output[0]}/whole"
            nodes.append(helper.make_node("Cast", list(node.input), [whole], to=onnx.TensorProto.INT32))
            nodes.append(helper.make_node("Cast", [whole], list(node.output), to=onnx.TensorProto.FLOAT))
    del body.node[:]
    body.node.extend(nodes)
    for name, value in (("spiking", 1.0), ("silent", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    return model


@pytest.mark.parametrize("by", ["selection", "integers"])
def test_spikes_that_are_selected_or_integers_at_first_have_the_same_derivative(by: str) -> None:
    found = []
    for model in (
        registry.build("alif", form=Form.SCAN),
        selecting(registry.build("alif", form=Form.SCAN), by),
    ):
        analysis = audit(model, num_steps=6, num_samples=1, surrogate="triangle")
        assert not any("zero derivative" in warning for warning in analysis.warnings)
        found.append([layer.time_gain.mean for layer in analysis.layers if layer.time_gain])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    cut = audit(registry.build("alif", form=Form.SCAN), num_steps=6, num_samples=1)
    assert [layer.time_gain.mean for layer in cut.layers if layer.time_gain] != pytest.approx(found[0])
