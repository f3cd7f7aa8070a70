"""One step of plain operators, written as exporters write a loop over it, but without them.

What real ones write is in `tests/exporting`; these files have the same traits for networks of any kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
import numpy as np
import onnx
from lsc_graph.models.forms import State, Step
from lsc_graph.models.graph import GraphBuilder, float_value
from onnx import TensorProto, helper, numpy_helper

_PER_STEP = frozenset(("Split", "Concat"))
_CARRIED = "carried/"


def step_of(streaming: onnx.ModelProto) -> Step:
    """The step that a streaming reference model consists of."""
    graph, builder = streaming.graph, GraphBuilder()
    builder.nodes = list(graph.node)
    builder.initializers = {tensor.name: tensor for tensor in graph.initializer}
    sizes = [value.type.tensor_type.shape.dim[-1].dim_value for value in (*graph.input, graph.output[0])]
    states = zip(graph.input[1:], graph.output[1:], sizes[1:-1], strict=True)
    return Step(builder, tuple(State(a.name, b.name, size) for a, b, size in states), sizes[0], sizes[-1])


def as_jax_writes(step: Step, num_steps: int) -> onnx.ModelProto:
    """A Loop as jax2onnx makes of lax.scan: weights and the whole sequence are carried, results are cast."""
    builder = _main(step, num_steps)
    carried = {name: f"{_CARRIED}{name}" for name in _weights(step)} | {"x": f"{_CARRIED}x"}
    body = [helper.make_node("Gather", [carried["x"], "iter"], ["step/x"], axis=0)]
    body += step.body("step/", {name: carried[name] for name in _weights(step)})
    body.append(helper.make_node("Identity", ["go"], ["go_on"]))
    body += [helper.make_node("Identity", [v], [f"{v}/out"]) for v in carried.values()]
    cast = {s.after: f"step/{s.after}/cast" for s in step.states} | {"y": "step/y/cast"}
    body += [helper.make_node("Cast", [f"step/{k}"], [v], to=TensorProto.FLOAT) for k, v in cast.items()]
    inputs = [_integer("iter"), _condition("go"), *(_free(v) for v in carried.values())]
    inputs += [_free(f"step/{s.before}") for s in step.states]
    outputs = [_condition("go_on"), *(_free(f"{v}/out") for v in carried.values())]
    outputs += [*(_free(cast[s.after]) for s in step.states), _free("step/y/cast")]
    trips = builder.integers(num_steps)
    starts = [*carried, *_zeros(builder, step)]
    finals = [*(f"unused/{name}" for name in carried), *(f"{s.before}_final" for s in step.states), "y"]
    graph = helper.make_graph(body, "scan_loop", inputs, outputs)
    builder.ops("Loop", [trips, _true(builder), *starts], finals, body=graph)
    return builder.model()


def as_keras_writes(step: Step, num_steps: int) -> onnx.ModelProto:
    """A Loop as tf2onnx makes of tf.while_loop: a 32-bit counter, two conditions, weights handed on."""
    builder = _main(step, num_steps)
    for name, value in (("int/0", np.int32(0)), ("int/1", np.int32(1)), ("end", np.float32(num_steps))):
        builder.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
    carried = {name: f"{_CARRIED}{name}" for name in _weights(step)}
    body = step.body("step/", carried)
    body.append(helper.make_node("Add", ["counter", "int/1"], ["counter/next"]))
    body.append(helper.make_node("Gather", ["x", "counter"], ["step/x"], axis=0))
    for name, value in (("a", "counter/next"), ("b", "iter")):
        body.append(helper.make_node("Cast", [value], [f"float/{name}"], to=TensorProto.FLOAT))
        body.append(helper.make_node("Less", [f"float/{name}", "end"], [f"less/{name}"]))
    body.append(helper.make_node("And", ["less/a", "less/b"], ["go_on"]))
    kept = {s.after: f"step/{s.after}/handed_on" for s in step.states} | {"y": "step/y/handed_on"}
    body += [helper.make_node("Identity", [f"step/{k}"], [v]) for k, v in kept.items()]
    inputs = [_integer("iter"), _condition("go"), _integer("counter", TensorProto.INT32)]
    inputs += [*(_free(f"step/{s.before}") for s in step.states), *map(_free, carried.values())]
    outputs = [_condition("go_on"), _integer("counter/next", TensorProto.INT32)]
    outputs += [*(_free(kept[s.after]) for s in step.states), *map(_free, carried.values())]
    starts = ["int/0", *_zeros(builder, step), *carried]
    finals = ["unused/counter", *(f"{s.before}_final" for s in step.states)]
    finals += [*(f"unused/{name}" for name in carried), "y"]
    graph = helper.make_graph(_sorted(body), "while_body", inputs, [*outputs, _free("step/y/handed_on")])
    builder.ops("Loop", [builder.integers(num_steps), _true(builder), *starts], finals, body=graph)
    return builder.model()


def as_dynamo_writes(
    step: Step, num_steps: int, starts: Mapping[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """Steps as torch's dynamo exporter leaves them, for a batch of one.

    Layer by layer: what needs no state is done for the whole sequence and sliced; then torch's own optimizer
    folds what the first step computes from zeros, or from `starts`, and drops what nobody reads of the last.
    """
    import onnxscript.optimizer

    model = _LayerByLayer(step, num_steps, starts or {}).model()
    return onnxscript.optimizer.optimize(onnx.shape_inference.infer_shapes(model))


class _LayerByLayer:
    """Values are rows, one for each step, or whole sequences [T,1,n], or both."""

    def __init__(self, step: Step, num_steps: int, starts: Mapping[str, np.ndarray]) -> None:
        self.step, self.num_steps, self.starts = step, num_steps, starts
        self.builder = GraphBuilder()
        self.builder.initializers |= step.builder.initializers
        self.builder.input("x", [num_steps, 1, step.input_size])
        self.whole: dict[str, str] = {"x": "x"}
        self.rows: dict[str, list[str]] = {}
        self.fixed: set[str] = set()
        self.nodes = {value: node for node in step.builder.nodes for value in node.output}
        for states in self._layers():
            self._unroll(states, self._between(states))
        self._apply(self._needed(["y"]))
        self.builder.op("Identity", [self._sequence("y")], "all_y")
        self.builder.output("all_y", [num_steps, 1, step.output_size])

    def model(self) -> onnx.ModelProto:
        return self.builder.model()

    def _layers(self) -> Iterable[list[State]]:
        """Strongly connected states, from the bottom up."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(state.after for state in self.step.states)
        for target in self.step.states:
            reached = self._reached([target.after])
            graph.add_edges_from(
                (source.after, target.after)
                for source in self.step.states
                if source.before in reached or (source.after in reached and source is not target)
            )
        order = [state.after for state in self.step.states]
        parts = nx.condensation(graph)
        key = {part: min(map(order.index, parts.nodes[part]["members"])) for part in parts}
        for part in nx.lexicographical_topological_sort(parts, key.__getitem__):
            yield [state for state in self.step.states if state.after in parts.nodes[part]["members"]]

    def _reached(self, values: Sequence[str]) -> set[str]:
        found, pending = set(values), list(values)
        while pending:
            node = self.nodes.get(pending.pop())
            fresh = [value for value in (node.input if node else ()) if value and value not in found]
            found.update(fresh)
            pending += fresh
        return found

    def _needed(self, values: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes behind some values that are not known yet, in order."""
        reached = self._reached(values)
        known = self.whole.keys() | self.rows.keys() | self.fixed
        return [n for n in self.step.builder.nodes if reached & set(n.output) and not known & set(n.output)]

    def _between(self, states: Sequence[State]) -> list[onnx.NodeProto]:
        """Do for whole sequences what the states need and what needs none of them; return the rest."""
        nodes = self._needed([state.after for state in states])
        moving = {state.before for state in states}
        inner = []
        for node in nodes:
            if moving & set(node.input):
                moving.update(node.output)
                inner.append(node)
        self._apply([node for node in nodes if node not in inner])
        return inner

    def _apply(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            given = [value for value in node.input if value in self.whole or value in self.rows]
            if not given:
                self.fixed.update(node.output)
                self.builder.nodes.append(node)
            elif node.op_type in _PER_STEP:
                self._each(node)
            else:
                self._at_once(node)

    def _at_once(self, node: onnx.NodeProto) -> None:
        inputs = [self._sequence(v) if v in self.whole or v in self.rows else v for v in node.input]
        for value in node.output:
            self.whole[value] = f"all/{value}"
        if node.op_type != "Gemm":
            self.builder.nodes.append(_renamed(node, inputs, [f"all/{value}" for value in node.output]))
            return
        weight = numpy_helper.to_array(self.step.builder.initializers[inputs[1]])
        turned = self.builder.weight(f"{node.output[0]}/turned", weight.T)
        product = self.builder.op("MatMul", [inputs[0], turned], f"all/{node.output[0]}/product")
        bias = inputs[2] if len(inputs) > 2 else self.builder.weight("no_bias", [0.0])
        self.builder.op("Add", [product, bias], f"all/{node.output[0]}")

    def _each(self, node: onnx.NodeProto) -> None:
        for value in node.output:
            self.rows[value] = [f"{value}/{time}" for time in range(self.num_steps)]
        for time in range(self.num_steps):
            inputs = [self._row(value, time) for value in node.input]
            copy = _renamed(node, inputs, [self.rows[value][time] for value in node.output])
            copy.name = f"{copy.name}/{time}"
            self.builder.nodes.append(copy)

    def _unroll(self, states: Sequence[State], nodes: Sequence[onnx.NodeProto]) -> None:
        zeros = {s.before: np.zeros((1, s.size)) for s in states}
        first = {k: self.builder.weight(f"{k}/first", self.starts.get(k, own)) for k, own in zeros.items()}
        after = {state.before: state.after for state in states}
        for node in nodes:
            for value in node.output:
                self.rows[value] = [f"{value}/{time}" for time in range(self.num_steps)]
        for time in range(self.num_steps):
            for node in nodes:
                inputs = []
                for value in node.input:
                    if value in after:
                        value = self.rows[after[value]][time - 1] if time else first[value]
                    else:
                        value = self._row(value, time)
                    inputs.append(value)
                copy = _renamed(node, inputs, [self.rows[value][time] for value in node.output])
                copy.name = f"{copy.name}/{time}"
                self.builder.nodes.append(copy)
        for state in states:
            handed_on = [self._row(state.after, time) for time in range(self.num_steps - 1)]
            self.rows[state.before] = [first[state.before], *handed_on]

    def _row(self, value: str, time: int) -> str:
        """A value at one time: by Slice and Squeeze, as torch's Split of a sequence is written."""
        if value in self.rows:
            return self.rows[value][time]
        if value not in self.whole:
            return value
        name = f"{value}/at/{time}"
        if all(name not in node.output for node in self.builder.nodes):
            bounds = [self.builder.integers([k]) for k in (time, time + 1, 0)]
            one = self.builder.op("Slice", [self.whole[value], *bounds], f"{name}/one")
            self.builder.op("Squeeze", [one, self.builder.integers([0])], name)
        return name

    def _sequence(self, value: str) -> str:
        """A value at all times: rows are joined."""
        if value not in self.whole:
            axis = self.builder.integers([0])
            rows = [self.builder.op("Unsqueeze", [row, axis], f"{row}/row") for row in self.rows[value]]
            self.whole[value] = self.builder.op("Concat", rows, f"joined/{value}", axis=0)
        return self.whole[value]


def _renamed(node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:], copy.output[:] = inputs, outputs
    return copy


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each after what it reads."""
    made = {value for node in nodes for value in node.output}
    known: set[str] = set()
    found, pending = [], list(nodes)
    while pending:
        ready = [node for node in pending if set(node.input) & made <= known]
        found += ready
        known.update(value for node in ready for value in node.output)
        pending = [node for node in pending if node not in ready]
    return found


def _main(step: Step, num_steps: int) -> GraphBuilder:
    builder = GraphBuilder()
    builder.initializers |= step.builder.initializers
    builder.input("x", [num_steps, 1, step.input_size])
    builder.output("y", [num_steps, 1, step.output_size])
    for state in step.states:
        builder.output(f"{state.before}_final", [1, state.size])
    return builder


def _weights(step: Step) -> list[str]:
    """Initializers of more than one number, which exporters hand to loops as carried values."""
    return [name for name, tensor in step.builder.initializers.items() if tensor.dims]


def _zeros(builder: GraphBuilder, step: Step) -> list[str]:
    return [builder.weight(f"{s.before}/zeros", np.zeros((1, s.size))) for s in step.states]


def _true(builder: GraphBuilder) -> str:
    builder.initializers["true"] = numpy_helper.from_array(np.array(True), "true")
    return "true"


def _integer(name: str, dtype: int = TensorProto.INT64) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [])


def _condition(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def _free(name: str) -> onnx.ValueInfoProto:
    """A float value of unknown shape."""
    value = float_value(name, [])
    value.type.tensor_type.ClearField("shape")
    return value
