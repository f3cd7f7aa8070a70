"""What the zoo's tests share: models in ONNX Runtime, their weights, and finite differences through them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest

Arrays = dict[str, np.ndarray]


def _run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: np.float32(v) for k, v in feeds.items()}), strict=True))


@pytest.fixture(scope="session")
def run() -> Callable[[onnx.ModelProto, Arrays], Arrays]:
    """run(model, feeds): every output by ONNX Runtime on one CPU thread."""
    return _run


@pytest.fixture(scope="session")
def weights_of() -> Callable[[onnx.ModelProto], Arrays]:
    """weights_of(model): its initializers by name, floats as float64."""

    def read(model: onnx.ModelProto) -> Arrays:
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        return {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}

    return read


@pytest.fixture(scope="session")
def stream() -> Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, list[Arrays]]]:
    """stream(model, x [T,B,D]): y [T,B,O] and the states after each step, starting from zeros."""

    def stream_over(model: onnx.ModelProto, x: np.ndarray) -> tuple[np.ndarray, list[Arrays]]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        befores = [value.name for value in session.get_inputs()][1:]
        sizes = [value.shape[1] for value in session.get_inputs()][1:]
        states = {n: np.zeros((x.shape[1], size), np.float32) for n, size in zip(befores, sizes, strict=True)}
        rows, visited = [], []
        for x_t in np.float32(x):
            y, *after = session.run(None, {"x": x_t, **states})
            states = dict(zip(befores, after, strict=True))
            rows.append(y)
            visited.append(states)
        return np.stack(rows), visited

    return stream_over


@pytest.fixture(scope="session")
def jacobian() -> Callable[..., np.ndarray]:
    """jacobian(model, feeds, inputs, outputs, eps): d outputs / d inputs by central differences.

    `feeds` hold one sample [1,n]; all perturbed copies run as one batch. Several inputs and outputs are
    concatenated in the order given.
    """

    def differences(
        model: onnx.ModelProto, feeds: Arrays, inputs: list[str], outputs: list[str], eps: float = 1e-2
    ) -> np.ndarray:
        sizes = [feeds[name].shape[1] for name in inputs]
        steps = eps * np.concatenate([np.eye(sum(sizes)), -np.eye(sum(sizes))])
        batch = {name: np.repeat(value, len(steps), axis=0) for name, value in feeds.items()}
        for name, step in zip(inputs, np.split(steps, np.cumsum(sizes)[:-1], axis=1), strict=True):
            batch[name] = batch[name] + step
        results = _run(model, batch)
        plus, minus = np.split(
            np.concatenate([np.float64(results[name]) for name in outputs], axis=1), 2, axis=0
        )
        return ((plus - minus) / (2 * eps)).T

    return differences
