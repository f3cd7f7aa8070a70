"""From a Scan node to a recurrent site: the body made self-contained, captures made explicit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.delays import new_states
from lsc_graph.recurrence.new_states import read_new_states
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, StepSequence
from lsc_graph.results import Direction, Form


def site_of_scan(
    model: ir.Model,
    node: ir.Node,
    *,
    recurrence: str,
    name: str,
    form: Form,
    direction: Direction | None = None,
    state_names: tuple[str, ...] | None = None,
) -> RecurrentSite:
    """The site of one Scan node of the main graph (ONNX operator Scan, opset >= 9).

    Args:
        model: normalised model with static shapes.
        node: the Scan node.
        recurrence: identifier of the recurrence.
        name: how the recurrence is called in reports.
        form: how it was exported.
        direction: reported direction; by default that of the node, which the time order is read from.
        state_names: short names of the loop-carried values; by default those of the body.
    """
    read = _captured(node.attributes["body"].as_graph())
    settings = {value: tensor for value in read if (tensor := _setting(value)) is not None}
    captured = [value for value in read if value not in settings]
    body_model = _self_contained(model, node.attributes["body"].as_graph(), captured, settings)
    body = body_model.graph
    num_sequences = node.attributes.get_int("num_scan_inputs", 0)
    num_states = len(node.inputs) - num_sequences
    names = state_names or tuple(str(value.name) for value in body.inputs[:num_states])
    states = tuple(_state(node, body, index, f"{name}.{names[index]}") for index in range(num_states))
    inputs = tuple(_sequence_input(node, body, num_states, index) for index in range(num_sequences))
    num_outputs = len(node.outputs) - num_states
    outputs = tuple(_sequence_output(node, body, num_states, index) for index in range(num_outputs))
    capturing = body.inputs[len(node.inputs) :]
    site = RecurrentSite(
        id=name,
        recurrence=recurrence,
        form=form,
        node=name,
        direction=direction or Direction.FORWARD,
        num_steps=_num_steps(node, inputs),
        body=body_model,
        states=states,
        inputs=inputs,
        outputs=tuple(output for output in outputs if output is not None),
        captures={str(inner.name): str(outer.name) for inner, outer in zip(capturing, captured, strict=True)},
    )
    if direction is None and site.is_reverse:
        site = replace(site, direction=Direction.REVERSE)
    read_new_states(body_model, *new_states(site))
    return site


def _state(node: ir.Node, body: ir.Graph, index: int, name: str) -> StateVariable:
    initial, final = node.inputs[index], node.outputs[index]
    shape = static_shape(initial)
    if shape is None:
        raise AnalysisError(
            "A state of a recurrence has no static shape",
            where=f"{node.name}, state {name}",
            got=str(initial.shape if initial is not None else None),
            expected="a shape made of integers",
            do="give every input's shape with --input-shape NAME:1,64",
        )
    return StateVariable(
        name=name,
        shape=shape,
        before=str(body.inputs[index].name),
        after=str(body.outputs[index].name),
        initial=initial.name if initial is not None else None,
        final=final.name or None,
    )


def _sequence_input(node: ir.Node, body: ir.Graph, num_states: int, index: int) -> StepSequence:
    value = node.inputs[num_states + index]
    assert value is not None
    axis = _entry(node, "scan_input_axes", index)
    rank = len(value.shape) if value.shape is not None else 0
    return StepSequence(
        body=str(body.inputs[num_states + index].name),
        main=str(value.name),
        axis=axis + rank if axis < 0 else axis,
        reverse=bool(_entry(node, "scan_input_directions", index)),
    )


def _sequence_output(node: ir.Node, body: ir.Graph, num_states: int, index: int) -> StepSequence | None:
    value, body_value = node.outputs[num_states + index], body.outputs[num_states + index]
    if not value.name:
        return None
    axis = _entry(node, "scan_output_axes", index)
    if axis < 0:
        axis += len(value.shape) if value.shape is not None else len(body_value.shape or ()) + 1
    return StepSequence(
        body=str(body_value.name),
        main=value.name,
        axis=axis,
        reverse=bool(_entry(node, "scan_output_directions", index)),
    )


def _entry(node: ir.Node, attribute: str, index: int) -> int:
    return int(node.attributes.get_ints(attribute, [0] * (index + 1))[index])


def _num_steps(node: ir.Node, inputs: tuple[StepSequence, ...]) -> int:
    values = {value.name: value for value in node.inputs if value is not None}
    for sequence in inputs:
        shape = static_shape(values[sequence.main])
        if shape is not None:
            return shape[sequence.axis]
    raise AnalysisError(
        "The number of steps of a recurrence is not known",
        where=str(node.name),
        expected="a scan input with a static length",
        do="give every input's shape with --input-shape NAME:1,64",
    )


def _captured(body: ir.Graph) -> list[ir.Value]:
    """Values of enclosing graphs that the body reads, in order of first use."""
    inner = {value for node in body for value in node.outputs}
    inner |= set(body.inputs) | set(body.initializers.values())
    read = [value for node in body for value in inputs_of(node)] + list(body.outputs)
    return list(dict.fromkeys(value for value in read if value not in inner))


def _setting(value: ir.Value) -> ir.TensorProtocol | None:
    """What a constant without gradient holds: axes, shapes and indices say what the body computes."""
    node = value.producer()
    tensor = value.const_value if value.is_initializer() else None
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    return None if tensor is None or tensor.dtype.is_floating_point() else tensor


def _self_contained(
    model: ir.Model, body: ir.Graph, captured: list[ir.Value], settings: Mapping[ir.Value, ir.TensorProtocol]
) -> ir.Model:
    graph = ir.serde.serialize_graph(body)
    graph.input.extend(ir.serde.serialize_value(value) for value in captured)
    for value, tensor in settings.items():
        proto = ir.serde.serialize_tensor(tensor)
        proto.name = str(value.name)
        graph.initializer.append(proto)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    return with_distinct_outputs(ir.serde.deserialize_model(proto))


def with_distinct_outputs(model: ir.Model) -> ir.Model:
    """Give every output a value of its own, so that no two states are written by the same value."""
    passes.OutputFixPass()(model)
    return model
