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


def fori_loop(xs):
    def body(time, state):
        return cell(state[0], state[1][time])[0], state[1]

    return jax.lax.fori_loop(0, T, body, (ZEROS, xs))[0]


def fori_loop_backwards(xs):
    def body(time, state):
        return cell(state[0], state[1][T - 1 - time])[0], state[1]

    return jax.lax.fori_loop(0, T, body, (ZEROS, xs))[0]


def fori_loop_into_buffer(xs):
    def body(time, state):
        h = cell(state[0], state[2][time])[0]
        return h, state[1].at[time].set(h), state[2]

    return jax.lax.fori_loop(0, T, body, (ZEROS, jnp.zeros((T, 1, H)), xs))[1]


def while_loop_into_buffer(xs):
    def body(state):
        time, h, ys = state
        h = cell(h, jax.lax.dynamic_index_in_dim(xs, time, 0, False))[0]
        return time + 1, h, jax.lax.dynamic_update_index_in_dim(ys, h, time, 0)

    return jax.lax.while_loop(lambda state: state[0] < T, body, (0, ZEROS, jnp.zeros((T, 1, H))))[2]


def scan_with_float_counter(xs):
    def step(state, x):
        h = cell(state[0], x / (1 + state[1]))[0]
        return (h, state[1] + 1.0), h

    return jax.lax.scan(step, (ZEROS, 0.0), xs)[1]


def scan_with_mask(xs):
    def step(h, inputs):
        x, mask = inputs
        h = mask * cell(h, x)[0] + (1 - mask) * h
        return h, h

    return jax.lax.scan(step, ZEROS, (xs, (xs[:, :, :1] > 0).astype(jnp.float32)))[1]


def both_ways(xs):
    back = jnp.flip(jax.lax.scan(cell, ZEROS, jnp.flip(xs, 0))[1], 0)
    return jnp.concatenate([scan(xs), back], -1)


def over_layers(xs):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), xs[0] @ W, jnp.stack([U, W2, U2, U]))[0]


def equilibrium(xs):
    return jax.lax.fori_loop(0, 8, lambda _, s: (jnp.tanh(s[0] @ U + s[1]), s[1]), (ZEROS, xs[0] @ W))[0]


def settling(xs):
    def body(state):
        return jnp.tanh(0.4 * state[0] @ U + xs[0] @ W), state[0]

    return jax.lax.while_loop(
        lambda state: jnp.max(jnp.abs(state[0] - state[1])) > 1e-3, body, (ZEROS, ZEROS + 1.0)
    )[0]


def balancing(xs):
    def body(_, k):
        k = k / k.sum(0, keepdims=True)
        return k / k.sum(1, keepdims=True)

    return jax.lax.fori_loop(0, 6, body, jnp.exp(xs[0].T @ xs[1])) @ W


OVER_TIME = (
    scan,
    scan_twice,
    scan_of_both,
    lstm,
    while_loop,
    fori_loop,
    fori_loop_backwards,
    fori_loop_into_buffer,
    while_loop_into_buffer,
    scan_with_float_counter,
    scan_with_mask,
    both_ways,
)
OTHERS = (over_layers, equilibrium, settling, balancing)


def main(folder: Path) -> None:
    for model in (*OVER_TIME, *OTHERS):
        found = to_onnx(model, [jax.ShapeDtypeStruct((T, 1, D), jnp.float32)])
        onnx.save(found, folder / f"{model.__name__}.jax.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
