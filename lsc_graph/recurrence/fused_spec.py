"""What a fused ONNX node (RNN, GRU, LSTM) asks for: its attributes and inputs, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.errors import AnalysisError
from lsc_graph.recurrence.activations import Activation, resolve_activations
from lsc_graph.recurrence.writer import Dim
from lsc_graph.results import Direction

NUM_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULT_ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


@dataclass(frozen=True)
class FusedOp:
    """A fused node as it will be computed. Shapes: X is [T,B,D], or [B,T,D] where `layout` is 1.

    `name` is unique in the model. `activations` has one tuple per direction, in ONNX order
    (RNN: f; GRU: f, g; LSTM: f, g, h). `clip` bounds every gate's pre-activation to [-clip, clip].
    `inputs` maps ONNX input names to the values present.
    """

    node: ir.Node
    name: str
    op_type: str
    direction: Direction
    hidden_size: int
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    layout: int
    linear_before_reset: bool
    input_forget: bool
    dtype: ir.DataType
    inputs: dict[str, ir.Value]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The one-way directions in ONNX order."""
        if self.direction is Direction.BIDIRECTIONAL:
            return (Direction.FORWARD, Direction.REVERSE)
        return (self.direction,)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The loop-carried states, in the order of the Scan."""
        return ("h", "c") if self.op_type == "LSTM" else ("h",)

    @property
    def num_gates(self) -> int:
        """Number of gate blocks, each H rows of W and R."""
        return NUM_GATES[self.op_type]

    @property
    def time_axis(self) -> int:
        """Axis of X that is time."""
        return self.layout

    @property
    def num_steps(self) -> Dim:
        """T, where it is known."""
        return _dim(self.inputs["X"], self.time_axis)

    @property
    def batch_size(self) -> Dim:
        """B, where it is known."""
        batch = _dim(self.inputs["X"], 1 - self.time_axis)
        initial = self.inputs.get("initial_h")
        if not isinstance(batch, int) and initial is not None:
            return _dim(initial, 1 - self.layout)
        return batch


def read_fused_op(node: ir.Node, name: str) -> FusedOp:
    """Read a fused node.

    Raises:
        AnalysisError: an attribute or a shape is not what ONNX allows, or the hidden size is not known.
    """
    inputs = {
        key: value
        for key, value in zip(_INPUTS, node.inputs, strict=False)
        if value is not None and value.name
    }
    direction = _direction(node, name)
    num_directions = 2 if direction is Direction.BIDIRECTIONAL else 1
    activations = _activations(node, num_directions, name)
    if _covers_all_steps(node, inputs):
        del inputs["sequence_lens"]
    op = FusedOp(
        node=node,
        name=name,
        op_type=node.op_type,
        direction=direction,
        hidden_size=_hidden_size(node, inputs, name),
        activations=tuple(
            activations[index * len(activations) // num_directions :][: len(activations) // num_directions]
            for index in range(num_directions)
        ),
        clip=_clip(node, name),
        layout=node.attributes.get_int("layout", 0),
        linear_before_reset=node.attributes.get_int("linear_before_reset", 0) != 0,
        input_forget=node.attributes.get_int("input_forget", 0) != 0,
        dtype=_dtype(inputs, name),
        inputs=inputs,
    )
    _check_shapes(op, num_directions)
    return op


def _dim(value: ir.Value, axis: int) -> Dim:
    return value.shape[axis] if value.shape is not None else None


def _direction(node: ir.Node, name: str) -> Direction:
    given = node.attributes.get_string("direction", "forward")
    try:
        return Direction(given)
    except ValueError as error:
        expected = ", ".join(direction.value for direction in Direction)
        raise AnalysisError(
            "Unknown direction of a recurrence", where=name, got=given, expected=f"one of {expected}"
        ) from error


def _activations(node: ir.Node, num_directions: int, name: str) -> tuple[Activation, ...]:
    per_direction = len(_DEFAULT_ACTIVATIONS[node.op_type])
    names: Sequence[str] = list(node.attributes.get_strings("activations", []))
    if not names:
        names = _DEFAULT_ACTIVATIONS[node.op_type] * num_directions
    if node.op_type == "RNN" and num_directions == 1 and len(names) == 2:
        names = names[:1]  # the schema's default is a pair whatever the direction
    if len(names) != per_direction * num_directions:
        raise AnalysisError(
            "Wrong number of activations",
            where=name,
            got=", ".join(names),
            expected=f"{per_direction * num_directions} for {node.op_type} in {num_directions} direction(s)",
        )
    alphas = node.attributes.get_floats("activation_alpha", [])
    betas = node.attributes.get_floats("activation_beta", [])
    return resolve_activations(names, list(alphas), list(betas), where=name)


def _covers_all_steps(node: ir.Node, inputs: dict[str, ir.Value]) -> bool:
    """Whether sequence_lens is a constant that says that every sequence has full length."""
    lens = inputs.get("sequence_lens")
    num_steps = _dim(inputs["X"], node.attributes.get_int("layout", 0))
    if lens is None or lens.const_value is None or lens.is_graph_input() or not isinstance(num_steps, int):
        return False
    return bool(np.all(np.asarray(lens.const_value.numpy()) == num_steps))


def _hidden_size(node: ir.Node, inputs: dict[str, ir.Value], name: str) -> int:
    size: Dim = node.attributes.get_int("hidden_size", 0)
    if size == 0:
        size = _dim(inputs["R"], 2)
    if not isinstance(size, int) or size <= 0:
        raise AnalysisError(
            "The hidden size of a recurrence is not known",
            where=name,
            got=f"no hidden_size, R of shape {inputs['R'].shape}",
            expected="the attribute hidden_size, or R of shape [directions, gates x H, H]",
        )
    return size


def _clip(node: ir.Node, name: str) -> float | None:
    """The clip threshold. In ONNX Runtime RNN ignores a negative one; GRU and LSTM refuse all but > 0."""
    if "clip" not in node.attributes:
        return None
    clip = float(node.attributes["clip"].as_float())
    if node.op_type == "RNN":
        return clip if clip >= 0 else None
    if clip <= 0:
        raise AnalysisError(
            "The clip threshold of a recurrence is not positive",
            where=name,
            got=str(clip),
            expected="a number above 0, or no clip attribute",
        )
    return clip


def _dtype(inputs: dict[str, ir.Value], name: str) -> ir.DataType:
    for key in ("X", "W", "R"):
        dtype = inputs[key].dtype
        if dtype is not None:
            return dtype
    raise AnalysisError(
        "The element type of a recurrence is not known",
        where=name,
        expected="a type on X, W or R",
        do="run shape inference on the model first",
    )


def _check_shapes(op: FusedOp, num_directions: int) -> None:
    rows = op.num_gates * op.hidden_size
    expected: dict[str, tuple[Dim, ...]] = {
        "X": (None, None, _dim(op.inputs["W"], 2)),
        "W": (num_directions, rows, None),
        "R": (num_directions, rows, op.hidden_size),
        "B": (num_directions, 2 * rows),
        "P": (num_directions, 3 * op.hidden_size),
        "sequence_lens": (op.batch_size,),
    }
    for key, dims in expected.items():
        shape = op.inputs[key].shape if key in op.inputs else None
        if shape is not None and not _fits(list(shape), dims):
            raise AnalysisError(
                f"Input {key} of a recurrence has the wrong shape",
                where=op.name,
                got=str(shape),
                expected=str(["any" if not isinstance(dim, int) else dim for dim in dims]),
            )


def _fits(shape: Sequence[Dim], expected: Sequence[Dim]) -> bool:
    if len(shape) != len(expected):
        return False
    known = [
        (a, b) for a, b in zip(shape, expected, strict=True) if isinstance(a, int) and isinstance(b, int)
    ]
    return all(a == b for a, b in known)
