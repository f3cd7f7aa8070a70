"""Fused RNN, GRU and LSTM operators, rewritten as Scan over one step of plain operators.

The Scan form is the one that everything downstream analyses. It stays a valid ONNX model, so that
ONNX Runtime itself can show that the rewriting is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.errors import AnalysisError, UnsupportedOpsetError
from lsc_graph.recurrence.activations import Activation, activations_of
from lsc_graph.recurrence.emit import Emitter, replace_output
from lsc_graph.recurrence.gates import Options, Weights, gru_step, lstm_step, rnn_step
from lsc_graph.results import Direction

MIN_OPSET = 13


@dataclass(frozen=True)
class LoweredOp:
    """What one fused operator became: a Scan per direction, in ONNX's order of directions."""

    node_name: str
    op_type: str
    direction: Direction
    scans: tuple[ir.Node, ...]
    state_names: tuple[str, ...]


@dataclass(frozen=True)
class _Kind:
    num_gates: int
    states: tuple[str, ...]
    activations: tuple[str, ...]
    step: Callable[..., tuple[ir.Value, ...]]


_KINDS = {
    "RNN": _Kind(1, ("h",), ("Tanh",), rnn_step),
    "GRU": _Kind(3, ("h",), ("Sigmoid", "Tanh"), gru_step),
    "LSTM": _Kind(4, ("h", "c"), ("Sigmoid", "Tanh", "Tanh"), lstm_step),
}


def lower_fused_ops(model: ir.Model) -> tuple[LoweredOp, ...]:
    """Rewrite every RNN, GRU and LSTM of the main graph in place.

    The operator's outputs keep their names. Weights stay values of the main graph, captured by the
    Scan bodies, so that they remain functions of their initializers.

    Raises:
        UnsupportedOpsetError: the default operator set is older than 13.
        AnalysisError: an attribute that ONNX does not define, or shapes that are not static.
    """
    nodes = [node for node in model.graph if node.op_type in _KINDS and node.domain in ("", "ai.onnx")]
    if nodes and model.opset_imports.get("", 0) < MIN_OPSET:
        raise UnsupportedOpsetError(
            "Recurrent operators are analysed from operator set 13 on",
            got=str(model.opset_imports.get("")),
            expected=f">= {MIN_OPSET}",
            do="convert the model with onnx.version_converter",
        )
    return tuple(_Lowering(model.graph, node, index).run() for index, node in enumerate(nodes))


class _Lowering:
    """The rewriting of one fused operator."""

    def __init__(self, graph: ir.Graph, node: ir.Node, index: int) -> None:
        self.graph, self.node = graph, node
        self.kind = _KINDS[node.op_type]
        x = node.inputs[0]
        assert x is not None
        self.name = node.name or f"{node.op_type}_{index}"
        self.out = Emitter(self.name, x.dtype or ir.DataType.FLOAT)
        self.direction = Direction(node.attributes.get_string("direction", "forward"))
        self.num_directions = 2 if self.direction is Direction.BIDIRECTIONAL else 1
        self.batch_first = bool(node.attributes.get_int("layout", 0))
        self.shape = self._static(x)
        self.hidden_size = self._hidden_size()
        clip = node.attributes.get_float("clip", 0.0)
        self.options = Options(
            hidden_size=self.hidden_size,
            clip=clip if clip > 0 else None,
            linear_before_reset=bool(node.attributes.get_int("linear_before_reset", 0)),
            input_forget=bool(node.attributes.get_int("input_forget", 0)),
        )
        self.activations = activations_of(node, self.kind.activations, self.num_directions)

    def run(self) -> LoweredOp:
        x = self._input(0)
        assert x is not None
        sequence = self.out.transpose(x, 1, 0, 2) if self.batch_first else x
        sequence.shape = ir.Shape(self.shape)
        lengths = self._lengths()
        results = [self._direction(index, sequence, lengths) for index in range(self.num_directions)]
        self._write_outputs([result[1] for result in results], [result[2] for result in results])
        self.graph.insert_before(self.node, self.out.nodes)
        for initializer in self.out.initializers:
            self.graph.register_initializer(initializer)
        self.graph.remove(self.node, safe=True)
        scans = tuple(result[0] for result in results)
        return LoweredOp(self.name, self.node.op_type, self.direction, scans, self.kind.states)

    def _static(self, x: ir.Value) -> tuple[int, int, int]:
        dims = tuple(x.shape or ())
        if len(dims) != 3 or not all(isinstance(dim, int) for dim in dims):
            raise AnalysisError(
                f"The input of a {self.node.op_type} has no static shape",
                where=str(self.node.name),
                got=str(x.shape),
                expected="three integers: time, batch, features",
                do="give every input's shape with --input-shape NAME:1,64",
            )
        first, second, features = (int(dim) for dim in dims if isinstance(dim, int))
        return (second, first, features) if self.batch_first else (first, second, features)

    def _hidden_size(self) -> int:
        given = self.node.attributes.get_int("hidden_size", 0)
        recurrent = self._input(2)
        if given or recurrent is None or recurrent.shape is None:
            return int(given)
        return int(recurrent.shape[-1])  # type: ignore[arg-type]

    def _input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def _lengths(self) -> ir.Value | None:
        """The sequence lengths as int64, or None where every sequence is whole."""
        given = self._input(4)
        if given is None:
            return None
        if given.const_value is not None and np.all(given.const_value.numpy() == self.shape[0]):
            return None
        return self.out.op("Cast", given, attributes={"to": ir.DataType.INT64}, dtype=ir.DataType.INT64)

    def _direction(
        self, index: int, sequence: ir.Value, lengths: ir.Value | None
    ) -> tuple[ir.Node, ir.Value, list[ir.Value]]:
        """The Scan of one direction, its outputs in true time order, and its final states."""
        is_reverse = self.direction is Direction.REVERSE or index == 1
        by_prefix = is_reverse and lengths is not None
        if by_prefix:
            sequence = self._reverse_prefix(sequence, lengths)
        initial = [self._initial(number, index) for number in range(len(self.kind.states))]
        weights = self._weights(index)
        scan = self._scan(index, sequence, initial, weights, lengths, is_reverse and not by_prefix)
        self.out.nodes.append(scan)
        finals, y = list(scan.outputs[:-1]), scan.outputs[-1]
        return scan, self._reverse_prefix(y, lengths) if by_prefix else y, finals

    def _reverse_prefix(self, sequence: ir.Value, lengths: ir.Value | None) -> ir.Value:
        axes = {"time_axis": 0, "batch_axis": 1}
        shape = None if sequence.shape is None else [int(dim) for dim in sequence.shape]  # type: ignore[arg-type]
        return self.out.op("ReverseSequence", sequence, lengths, attributes=axes, shape=shape)

    def _initial(self, number: int, direction: int) -> ir.Value:
        given = self._input(5 + number)
        shape = (self.shape[1], self.hidden_size)
        if given is None:
            return self.out.zeros(shape, f"initial_{self.kind.states[number]}")
        value = self.out.pick(given, direction, 1 if self.batch_first else 0)
        value.shape = ir.Shape(shape)
        return value

    def _weights(self, direction: int) -> Weights:
        inputs, recurrent, bias = (self._of_direction(number, direction) for number in (1, 2, 3))
        assert inputs is not None
        assert recurrent is not None
        peepholes = self._of_direction(7, direction) if self.node.op_type == "LSTM" else None
        width = self.kind.num_gates * self.hidden_size
        biases = self.out.split(bias, [width, width], 0) if bias is not None else [None, None]
        return Weights(
            input=self.out.transpose(inputs, 1, 0),
            recurrent=self.out.transpose(recurrent, 1, 0),
            input_bias=biases[0],
            recurrent_bias=biases[1],
            peepholes=tuple(self.out.split(peepholes, [self.hidden_size] * 3, 0)) if peepholes else None,
        )

    def _of_direction(self, number: int, direction: int) -> ir.Value | None:
        given = self._input(number)
        return None if given is None else self.out.pick(given, direction, 0)

    def _scan(
        self,
        index: int,
        sequence: ir.Value,
        initial: Sequence[ir.Value],
        weights: Weights,
        lengths: ir.Value | None,
        is_reverse: bool,
    ) -> ir.Node:
        label = ("forward", "reverse")[is_reverse or index]
        sequences = [sequence]
        if lengths is not None:
            sequences.append(self.out.integers(range(self.shape[0]), "step"))
        body = self._body(f"{self.name}.{label}", weights, self.activations[index], lengths)
        backward = int(is_reverse)
        scan = ir.node(
            "Scan",
            [*initial, *sequences],
            {
                "body": body,
                "num_scan_inputs": len(sequences),
                "scan_input_directions": [backward] * len(sequences),
                "scan_output_directions": [backward],
            },
            num_outputs=len(initial) + 1,
            name=f"{self.name}.{label}",
        )
        batch = (self.shape[1], self.hidden_size)
        for name, value in zip((*self.kind.states, "y"), scan.outputs, strict=True):
            value.name, value.dtype = f"{scan.name}.{name}", self.out.dtype
            value.shape = ir.Shape((self.shape[0], *batch) if name == "y" else batch)
        return scan

    def _body(
        self,
        prefix: str,
        weights: Weights,
        activations: Sequence[Activation],
        lengths: ir.Value | None,
    ) -> ir.Graph:
        step = Emitter(f"{prefix}.step", self.out.dtype)
        shape = (self.shape[1], self.hidden_size)
        states = [
            ir.val(f"{prefix}.{name}.before", dtype=self.out.dtype, shape=shape) for name in self.kind.states
        ]
        x = ir.val(f"{prefix}.x", dtype=self.out.dtype, shape=self.shape[1:])
        inputs = [*states, x]
        written = list(self.kind.step(step, x, states, weights, activations, self.options))
        y = written[0]
        if lengths is not None:
            number = ir.val(f"{prefix}.number", dtype=ir.DataType.INT64, shape=())
            inputs.append(number)
            written, y = self._masked(step, states, written, number, lengths)
        outputs = [step.op("Identity", value, shape=shape) for value in (*written, y)]
        names = [*(f"{prefix}.{name}.after" for name in self.kind.states), f"{prefix}.y.step"]
        for value, name in zip(outputs, names, strict=True):
            value.name = name
        return ir.Graph(
            inputs, outputs, nodes=step.nodes, initializers=step.initializers, name=f"{prefix}.body"
        )

    def _masked(
        self,
        step: Emitter,
        states: Sequence[ir.Value],
        written: Sequence[ir.Value],
        number: ir.Value,
        lengths: ir.Value,
    ) -> tuple[list[ir.Value], ir.Value]:
        """Past a sequence's length its states stay and its outputs are zero."""
        alive = step.op("Less", number, lengths, dtype=ir.DataType.BOOL)
        column = step.op("Unsqueeze", alive, step.integers([1]), dtype=ir.DataType.BOOL)
        kept = [step.op("Where", column, new, old) for new, old in zip(written, states, strict=True)]
        return kept, step.op("Where", column, written[0], step.number(0.0))

    def _write_outputs(self, sequences: list[ir.Value], finals: list[list[ir.Value]]) -> None:
        """Y [T,D,B,H], Y_h and Y_c [D,B,H] (or batch first), in place of the operator's outputs."""
        stacked = [[y] for y in sequences], *([[final[n]] for final in finals] for n in range(len(finals[0])))
        for number, output in enumerate(self.node.outputs):
            if not output.name:
                continue
            axis = 1 if number == 0 else 0
            pieces = [self.out.unsqueeze(value, axis) for (value,) in stacked[number]]
            if self.batch_first:
                order = (2, 0, 1, 3) if number == 0 else (1, 0, 2)
                pieces = [self.out.transpose(piece, *order) for piece in pieces]
                axis = 2 if number == 0 else 1
            joined = pieces[0] if len(pieces) == 1 else self.out.op("Concat", *pieces, attributes={"axis": axis})
            replace_output(joined, output)
