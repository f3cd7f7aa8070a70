"""Recurrent models as jax2onnx writes them: python jax_models.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import onnx
from jax2onnx import to_onnx

T, D, H = 12, 8, 16
KEYS = jax.random.split(jax.random.PRNGKey(0), 8)
W, U = (0.3 * jax.random.normal(key, (size, H)) for key, size in zip(KEYS, (D, H), strict=False))
W2, U2 = (0.3 * jax.random.normal(key, (H, H)) for key in KEYS[2:4])
G, R = (0.3 * jax.random.normal(key, (size, 4 * H)) for key, size in zip(KEYS[4:], (D, H), strict=False))
B = 0.1 * jax.random.normal(KEYS[6], (H,))
ZEROS = jnp.zeros((1, H))


def cell(h, x):
    h = jnp.tanh(x @ W + h @ U + B)
    return h, h


def upper(h, x):
    h = jnp.tanh(x @ W2 + h @ U2)
    return h, h


def scan(xs):
    return jax.lax.scan(cell, ZEROS, xs)[1]


def scan_twice(xs):
    return jax.lax.scan(upper, ZEROS, scan(xs))[1]


def scan_of_both(xs):
    def step(state, x):
        h1, _ = cell(state[0], x)
        h2, _ = upper(state[1], h1)
        return (h1, h2), h2

    return jax.lax.scan(step, (ZEROS, ZEROS), xs)[1]


def lstm(xs):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ G + h @ R, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (ZEROS, ZEROS), xs)


def while_loop(xs):
    def body(state):
        time, h = state
        return time + 1, cell(h, jax.lax.dynamic_index_in_dim(xs, time, 0, False))[0]

    return jax.lax.while_loop(lambda state: state[0] < T, body, (0, ZEROS))[1]


def main(folder: Path) -> None:
    for model in (scan, scan_twice, scan_of_both, lstm, while_loop):
        found = to_onnx(model, [jax.ShapeDtypeStruct((T, 1, D), jnp.float32)])
        onnx.save(found, folder / f"{model.__name__}.jax.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
