"""Local Jacobians agree with central finite differences of the ONNX model itself in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models import registry
from onnx import TensorProto, helper
from single_runs import single_run

from lsc_graph.auditing.measure import Streaming
from lsc_graph.jacobians.local import LocalJacobians, local_jacobians
from lsc_graph.prepare import Prepared
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.loop import Trajectory

STEP = 1e-3
"""Of the differences; ONNX Runtime's fused kernels are float32 only, which leaves errors of about 1e-4."""
TOLERANCE = 3e-3


def central_differences(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> np.ndarray:
    """The Jacobian [n_out, n_in] of a function of one array, by central differences."""
    columns = []
    for index in range(at.size):
        shift = np.zeros(at.size, dtype=at.dtype)
        shift[index] = STEP
        ahead, behind = (function(at + sign * shift.reshape(at.shape)) for sign in (1, -1))
        columns.append((ahead.astype(np.float64) - behind).ravel() / (2 * STEP))
    return np.stack(columns, axis=1)


def measured(
    name: str, num_steps: int, **options: object
) -> tuple[Prepared, LocalJacobians, list[Trajectory]]:
    prepared, view, sample = single_run(registry.build(name, **options), num_steps)
    with torch.no_grad():
        run = view.run(sample)
        inputs = {} if isinstance(view, Streaming) else view.tensors(sample.inputs | sample.initial)
        generator = torch.Generator().manual_seed(0)
        return prepared, local_jacobians(view.program, run, inputs, generator), list(run.trajectories)


def single_step(proto: onnx.ModelProto, node: onnx.NodeProto, direction: int) -> Reference:
    """One step of one direction of a fused operator, its states as inputs: x, h[, c] -> h[, c]."""
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    picked = {name: weights[name][direction : direction + 1] for name in node.input[1:4] if name}
    states = ["h", "c"][: 2 if node.op_type == "LSTM" else 1]
    single = helper.make_node(
        node.op_type,
        ["x", *node.input[1:3], *(node.input[3:4] or [""]), "", *states],
        ["", *(s + "_next" for s in states)],
    )
    single.attribute.extend(a for a in node.attribute if a.name not in ("direction", "activations"))
    for attribute in node.attribute:
        if attribute.name == "activations":
            per_direction = len(attribute.strings) // (
                2 if direction or b"bidirectional" in _direction(node) else 1
            )
            chosen = attribute.strings[direction * per_direction : (direction + 1) * per_direction]
            single.attribute.append(helper.make_attribute("activations", [s.decode() for s in chosen]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [single],
        "step",
        [info(name, TensorProto.FLOAT, [None] * 3) for name in ("x", *states)],
        [info(f"{name}_next", TensorProto.FLOAT, [None] * 3) for name in states],
        [onnx.numpy_helper.from_array(value, name) for name, value in picked.items()],
    )
    return Reference(helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8))


def _direction(node: onnx.NodeProto) -> bytes:
    return next((a.s for a in node.attribute if a.name == "direction"), b"forward")


def joined(values: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([values[name].reshape(-1) for name in names])


@pytest.mark.parametrize(
    "name",
    ["pascal_rnn", "linear_orthogonal_rnn", "tanh_rnn", "relu_rnn", "lstm", "gru", "bidirectional_lstm"],
)
def test_time_and_depth_jacobians_of_fused_operators(name: str) -> None:
    prepared, local, trajectories = measured(name, 4)
    nodes = [n for n in prepared.normalized.graph.node if n.op_type in ("RNN", "GRU", "LSTM")]
    directions = 2 if name == "bidirectional_lstm" else 1
    time = 2
    for index, own in enumerate(prepared.cells):
        (cell,), trajectory = own, trajectories[index]
        node = nodes[index // directions]
        step = single_step(prepared.normalized, node, index % directions)
        names = [state.name for state in cell.layer.states]
        before = joined({n: trajectory.before[n][time].numpy() for n in names}, names)
        (x,) = (trajectory.slices[s][time].numpy()[None] for s in cell.slices)
        width = before.size // len(names)

        def next_state(
            state: np.ndarray, x: np.ndarray, step: Reference = step, width: int = width
        ) -> np.ndarray:
            parts = {
                key: part.reshape(1, 1, width)
                for key, part in zip("hc", np.split(state, len(state) // width), strict=False)
            }
            outputs = step.run({"x": x} | parts)
            return np.concatenate([value.ravel() for value in outputs.values()])

        exact = central_differences(lambda s, x=x, f=next_state: f(s, x), before)
        np.testing.assert_allclose(local.time[cell.layer.id][time].numpy(), exact, atol=TOLERANCE)
        across = central_differences(lambda x, s=before, f=next_state: f(s, x), x)
        blocks = [d for d in local.depth if d.edge.target == cell.layer.id]
        if blocks:
            # The glue hands the h of each layer below on as it is: [h forward, h reverse].
            hidden = [block.blocks[time][:, : across.shape[1] // len(blocks)].numpy() for block in blocks]
            np.testing.assert_allclose(np.concatenate(hidden, axis=1), across, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["streaming_gru", "lru", "alif_smooth"])
def test_jacobians_of_a_streaming_step(name: str) -> None:
    """The total derivative of one call, new states by old states, is made of the local blocks."""
    prepared, local, (trajectory,) = measured(name, 3)
    site = prepared.findings.sites[0]
    time = 2
    names = [state.name for cell in prepared.cells[0] for state in cell.layer.states]
    offsets = np.cumsum([0, *(trajectory.before[n][0].numel() for n in names)])
    shapes = {state.name: state.shape for state in site.states}
    reference = Reference(prepared.normalized)
    rest = {s.body: trajectory.slices[s.body][time].numpy() for s in site.inputs}
    after = {
        state.before: carry.after for state, carry in zip(site.states, prepared.findings.carried, strict=True)
    }

    def call(flat: np.ndarray) -> np.ndarray:
        parts = {
            n: flat[a:b].reshape(shapes[n]) for n, a, b in zip(names, offsets[:-1], offsets[1:], strict=True)
        }
        outputs = reference.run(rest | parts)
        return joined(outputs, [after[n] for n in names])

    before = joined({n: trajectory.before[n][time].numpy() for n in names}, names)
    expected = central_differences(call, before)
    np.testing.assert_allclose(_composed(prepared, local, time), expected, atol=TOLERANCE)


def _composed(prepared: Prepared, local: LocalJacobians, time: int) -> np.ndarray:
    layers = prepared.cell_graph.layers
    starts = dict(
        zip((la.id for la in layers), np.cumsum([0, *(la.state_size for la in layers)]), strict=False)
    )
    total = sum(layer.state_size for layer in layers)
    rows: dict[str, np.ndarray] = {}
    for layer in layers:
        row = np.zeros((layer.state_size, total))
        start = starts[layer.id]
        row[:, start : start + layer.state_size] = local.time[layer.id][time].numpy()
        for depth in local.depth:
            if depth.edge.target != layer.id:
                continue
            block = depth.blocks[[target for _, target in depth.pairs].index(time)].numpy()
            if depth.edge.lag == 0:
                row += block @ rows[depth.edge.source]
            else:
                source = starts[depth.edge.source]
                row[:, source : source + block.shape[1]] += block
        rows[layer.id] = row
    return np.concatenate([rows[layer.id] for layer in layers])
