"""One step of plain operators, written in each of the forms that a loop over time takes in ONNX files.

Streaming models are the step itself. In the others x is [time,batch,D], y is [time,batch,O], states start
at zero and the last ones are outputs `<state>_final`; weights stay initializers of the main graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from lsc_graph.errors import UsageError
from lsc_graph.results import Form

from .graph import GraphBuilder, float_value, renamed

STEP_FORMS = (Form.STREAMING, Form.SCAN, Form.LOOP, Form.UNROLLED)


@dataclass(frozen=True)
class State:
    """A state [batch,size] that the step reads as `before` and writes as `after`."""

    before: str
    after: str
    size: int


@dataclass(frozen=True)
class Step:
    """Nodes and weights that turn x [batch,input_size] and states into y [batch,output_size] and new ones."""

    builder: GraphBuilder
    states: tuple[State, ...]
    input_size: int
    output_size: int

    def body(self, prefix: str, names: dict[str, str]) -> list[onnx.NodeProto]:
        """The step's nodes for another graph: values are renamed by `names`, else get the prefix."""
        inner = {value for node in self.builder.nodes for value in node.output}
        inner |= {"x", *(state.before for state in self.states)}
        return renamed(self.builder.nodes, {v: prefix + v for v in sorted(inner)} | names, prefix)


def in_form(step: Step, form: Form, num_steps: int) -> onnx.ModelProto:
    """The step as a model of the given form; `num_steps` is the length of an unrolled one."""
    writers: dict[Form, Callable[[], onnx.ModelProto]] = {
        Form.STREAMING: lambda: streaming(step),
        Form.SCAN: lambda: scan(step),
        Form.LOOP: lambda: loop(step),
        Form.UNROLLED: lambda: unrolled(step, num_steps),
    }
    if form not in writers:
        raise UsageError(
            "A step of plain operators cannot be written in this form",
            got=form,
            expected="one of " + ", ".join(STEP_FORMS),
        )
    return writers[form]()


def streaming(step: Step) -> onnx.ModelProto:
    """x and states in, y and new states out."""
    builder = GraphBuilder()
    builder.nodes, builder.initializers = step.builder.nodes, step.builder.initializers
    builder.input("x", ["batch", step.input_size])
    for state in step.states:
        builder.input(state.before, ["batch", state.size])
    builder.output("y", ["batch", step.output_size])
    for state in step.states:
        builder.output(state.after, ["batch", state.size])
    return builder.model()


def scan(step: Step) -> onnx.ModelProto:
    """A Scan node whose body captures the weights from the graph around it."""
    builder = _main_graph(step, "time")
    inputs = [*(f"step/{state.before}" for state in step.states), "step/x"]
    outputs = [*(f"step/{state.after}" for state in step.states), "step/y"]
    body = helper.make_graph(
        step.body("step/", {}),
        "step",
        _declared(inputs, [*_sizes(step), step.input_size]),
        _declared(outputs, [*_sizes(step), step.output_size]),
    )
    starts = _zeros(builder, step)
    builder.ops("Scan", [*starts, "x"], [*_finals(step), "y"], body=body, num_scan_inputs=1)
    return builder.model()


def loop(step: Step) -> onnx.ModelProto:
    """A Loop node over range(T) whose body gathers x[t] from the graph around it, as torch.jit does."""
    builder = _main_graph(step, "time")
    gather = helper.make_node("Gather", ["x", "step/t"], ["step/x"], name="step/x/Gather", axis=0)
    go_on = helper.make_node("Identity", ["step/go_on"], ["step/go_on_next"], name="step/go_on/Identity")
    body = helper.make_graph(
        [go_on, gather, *step.body("step/", {})],
        "step",
        [
            helper.make_tensor_value_info("step/t", TensorProto.INT64, []),
            helper.make_tensor_value_info("step/go_on", TensorProto.BOOL, []),
            *_declared([f"step/{state.before}" for state in step.states], _sizes(step)),
        ],
        [
            helper.make_tensor_value_info("step/go_on_next", TensorProto.BOOL, []),
            *_declared([f"step/{state.after}" for state in step.states], _sizes(step)),
            *_declared(["step/y"], [step.output_size]),
        ],
    )
    shape = builder.op("Shape", ["x"], "x_shape")
    trips = builder.op("Gather", [shape, builder.integers(0)], "num_steps", axis=0)
    builder.ops("Loop", [trips, "", *_zeros(builder, step)], [*_finals(step), "y"], body=body)
    return builder.model()


def unrolled(step: Step, num_steps: int) -> onnx.ModelProto:
    """The step written out `num_steps` times over the same weights; x[t] by Gather, y by Concat."""
    builder = _main_graph(step, num_steps)
    current = _zeros(builder, step)
    rows = []
    for time in range(num_steps):
        prefix = f"step_{time}/"
        names = dict(zip((state.before for state in step.states), current, strict=True))
        if time == num_steps - 1:
            names |= dict(zip((state.after for state in step.states), _finals(step), strict=True))
        builder.op("Gather", ["x", builder.integers(time)], f"{prefix}x", axis=0)
        builder.nodes += step.body(prefix, names)
        current = [f"{prefix}{state.after}" for state in step.states]
        rows.append(builder.op("Unsqueeze", [f"{prefix}y", builder.integers([0])], f"{prefix}y_row"))
    builder.op("Concat", rows, "y", axis=0)
    return builder.model()


def _main_graph(step: Step, time: int | str) -> GraphBuilder:
    builder = GraphBuilder()
    builder.initializers |= step.builder.initializers
    builder.input("x", [time, "batch", step.input_size])
    builder.output("y", [time, "batch", step.output_size])
    for state, final in zip(step.states, _finals(step), strict=True):
        builder.output(final, ["batch", state.size])
    return builder


def _zeros(builder: GraphBuilder, step: Step) -> list[str]:
    """Initial states of zeros [batch,size]."""
    batch = builder.op("Shape", ["x"], "batch_size", start=1, end=2)
    starts = []
    for state in step.states:
        sizes = [batch, builder.integers([state.size])]
        shape = builder.op("Concat", sizes, f"{state.before}_shape", axis=0)
        starts.append(builder.op("ConstantOfShape", [shape], f"{state.before}_zeros"))
    return starts


def _finals(step: Step) -> list[str]:
    return [f"{state.before}_final" for state in step.states]


def _sizes(step: Step) -> list[int]:
    return [state.size for state in step.states]


def _declared(names: Sequence[str], sizes: Sequence[int]) -> list[onnx.ValueInfoProto]:
    return [float_value(name, ["batch", size]) for name, size in zip(names, sizes, strict=True)]
