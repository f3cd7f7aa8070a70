"""Stacks of layers with lax and flax loops over layers, as jax2onnx writes them: python ... FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax
from jax2onnx import to_onnx

T, H, L = 12, 16, 3
KEYS = jax.random.split(jax.random.PRNGKey(0), 4)
W, U = (0.3 * jax.random.normal(key, (L, H, H)) for key in KEYS[:2])
B = 0.1 * jax.random.normal(KEYS[2], (L, H))
ZERO, ZEROS = np.zeros((1, H), np.float32), np.zeros((L, 1, H), np.float32)


def cell(h, x, w, u, b):
    h = jnp.tanh(x @ w + h @ u + b)
    return h, h


def over_time(xs, w, u, b):
    return lax.scan(lambda h, x: cell(h, x, w, u, b), ZERO, xs)[1]


def plain(xs):
    for layer in range(L):
        xs = over_time(xs, W[layer], U[layer], B[layer])
    return xs


def inside(xs):
    def step(states, x):
        y, states = lax.scan(lambda x, own: cell(own[3], x, *own[:3]), x, (W, U, B, states))
        return states, y

    return lax.scan(step, ZEROS, xs)[1]


def inside_another_axis(xs):
    def step(states, x):
        stacked = (W, U, B, jnp.moveaxis(states, 1, 0))
        y, states = lax.scan(lambda x, own: cell(own[3], x, *own[:3]), x, stacked)
        return jnp.moveaxis(states, 0, 1), y

    return lax.scan(step, np.zeros((1, L, H), np.float32), xs)[1]


def inside_fori(xs):
    def step(states, x):
        def layer(number, carried):
            x, states = carried
            x = cell(states[number], x, W[number], U[number], B[number])[0]
            return x, states.at[number].set(x)

        x, states = lax.fori_loop(0, L, layer, (x, states))
        return states, x

    return lax.scan(step, ZEROS, xs)[1]


def around(xs):
    return lax.scan(lambda xs, own: (over_time(xs, *own), None), xs, (W, U, B))[0]


def around_fori(xs):
    return lax.fori_loop(0, L, lambda n, xs: over_time(xs, W[n], U[n], B[n]), xs)


def around_with_states(xs):
    def layer(xs, own):
        last, ys = lax.scan(lambda h, x: cell(h, x, *own[:3]), own[3], xs)
        return ys, last

    return lax.scan(layer, xs, (W, U, B, ZEROS))


def inside_and_one_more(xs):
    return over_time(inside(xs), W[0].T, U[0].T, B[0])


def plain_and_one_more(xs):
    return over_time(plain(xs), W[0].T, U[0].T, B[0])


def tied_inside(xs):
    def step(states, x):
        y, states = lax.scan(lambda x, h: cell(h, x, W[0], U[0], B[0]), x, states)
        return states, y

    return lax.scan(step, ZEROS, xs)[1]


def tied_plain(xs):
    for _ in range(L):
        xs = over_time(xs, W[0], U[0], B[0])
    return xs


def feed_forward(xs):
    return lax.scan(lambda x, own: (jnp.tanh(x @ own[0] + own[1]), None), xs[0], (W, B))[0]


def feed_forward_plain(xs):
    x = xs[0]
    for layer in range(L):
        x = jnp.tanh(x @ W[layer] + B[layer])
    return x


class FlaxLayer(nn.Module):
    @nn.compact
    def __call__(self, xs, _):
        return nn.RNN(nn.GRUCell(H), time_major=True)(xs, initial_carry=ZERO), None


class FlaxAround(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, xs):
        scanned = nn.scan(
            FlaxLayer, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=L
        )
        return scanned(name="layers")(xs, None)[0]


class FlaxCell(nn.Module):
    @nn.compact
    def __call__(self, x, states):
        states, y = nn.OptimizedLSTMCell(H)(states, x)
        return y, states


class FlaxStep(nn.Module):
    @nn.compact
    def __call__(self, states, x):
        scanned = nn.scan(FlaxCell, variable_axes={"params": 0}, split_rngs={"params": True}, length=L)
        y, states = scanned(name="layers")(x, states)
        return states, y


class FlaxInside(nn.Module):
    @nn.compact
    def __call__(self, xs):
        scanned = nn.scan(FlaxStep, variable_broadcast="params", split_rngs={"params": False})
        return scanned(name="time")((ZEROS, ZEROS), xs)[1]


def of_layer(stacked, layer, axis=0):
    return jax.tree.map(lambda array: jnp.asarray(np.take(np.asarray(array), layer, axis)), stacked)


def flax_models(xs):
    """Models of flax, and each one's layers written one after another."""
    for axis in (0, 1):
        net = FlaxAround(axis)
        parameters = net.init(KEYS[3], xs)

        def plainly(xs, stacked=parameters["params"]["layers"], axis=axis):
            for layer in range(L):
                xs = FlaxLayer().apply({"params": of_layer(stacked, layer, axis)}, xs, None)[0]
            return xs

        yield f"flax_around_{axis}", lambda xs, net=net, own=parameters: net.apply(own, xs)
        yield f"flax_around_{axis}_plain", plainly
    net, states = FlaxInside(), (ZERO, ZERO)
    inner = net.init(KEYS[3], xs)

    def cells(xs):
        stacked = next(iter(inner["params"]["time"]["layers"].values()))
        for layer in range(L):
            own = {"params": of_layer(stacked, layer)}
            xs = lax.scan(lambda c, x, own=own: nn.OptimizedLSTMCell(H).apply(own, c, x), states, xs)[1]
        return xs

    yield "flax_inside", lambda xs: net.apply(inner, xs)
    yield "flax_inside_plain", cells


MODELS = (
    plain,
    inside,
    inside_another_axis,
    inside_fori,
    around,
    around_fori,
    around_with_states,
    inside_and_one_more,
    plain_and_one_more,
    tied_inside,
    tied_plain,
    feed_forward,
    feed_forward_plain,
)


def main(folder: Path) -> None:
    xs = jnp.zeros((T, 1, H))
    for name, model in [*((model.__name__, model) for model in MODELS), *flax_models(xs)]:
        traced = jax.make_jaxpr(model)(xs)  # what jax2onnx puts in place of jax cannot be seen by flax

        def evaluated(xs, traced=traced):
            return jax.core.eval_jaxpr(traced.jaxpr, traced.consts, xs)

        onnx.save(to_onnx(evaluated, [jax.ShapeDtypeStruct(xs.shape, xs.dtype)]), folder / f"{name}.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
