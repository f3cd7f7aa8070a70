"""Initial weights as the field draws them. n_out rows, n_in columns; float32; one generator per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .graph import Array

Init = Literal["torch", "glorot", "he", "orthogonal"]


def uniform(generator: np.random.Generator, bound: float, *shape: int) -> Array:
    """U(-bound, bound)."""
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def normal(generator: np.random.Generator, std: float, *shape: int) -> Array:
    """N(0, std^2)."""
    return (std * generator.standard_normal(shape)).astype(np.float32)


def orthogonal(generator: np.random.Generator, size: int) -> Array:
    """A Haar-distributed orthogonal matrix [N,N], correct to float32 rounding.

    The signs of R's diagonal make QR unique: F. Mezzadri, arXiv math-ph/0609050.
    """
    q, r = np.linalg.qr(generator.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float32)


def matrix(generator: np.random.Generator, init: Init, num_out: int, num_in: int) -> Array:
    """A weight [N,D] by one of the usual rules.

    torch: U(+-1/sqrt(n_in)), nn.Linear's default; glorot: U(+-sqrt(6/(n_in+n_out))), Glorot & Bengio 2010;
    he: N(0, 2/n_in), He et al. 2015; orthogonal: top left block of an orthogonal matrix, Saxe et al. 2014.
    """
    rules: dict[str, Callable[[], Array]] = {
        "torch": lambda: uniform(generator, 1 / math.sqrt(num_in), num_out, num_in),
        "glorot": lambda: uniform(generator, math.sqrt(6 / (num_in + num_out)), num_out, num_in),
        "he": lambda: normal(generator, math.sqrt(2 / num_in), num_out, num_in),
        "orthogonal": lambda: orthogonal(generator, max(num_out, num_in))[:num_out, :num_in],
    }
    return rules[init]()


@dataclass(frozen=True)
class Packed:
    """Weights of one fused operator: w [dirs,G*H,D], r [dirs,G*H,H], b [dirs,2*G*H] or None (G gates)."""

    w: Array
    r: Array
    b: Array | None = None


def packed_uniform(
    generator: np.random.Generator,
    num_gates: int,
    input_size: int,
    hidden_size: int,
    num_directions: int = 1,
) -> Packed:
    """All weights and biases U(+-1/sqrt(H)): the default of torch's RNN, GRU and LSTM."""
    bound, rows = 1 / math.sqrt(hidden_size), num_gates * hidden_size
    return Packed(
        w=uniform(generator, bound, num_directions, rows, input_size),
        r=uniform(generator, bound, num_directions, rows, hidden_size),
        b=uniform(generator, bound, num_directions, 2 * rows),
    )


def stack_uniform(
    generator: np.random.Generator,
    num_gates: int,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    num_directions: int = 1,
) -> list[Packed]:
    """`packed_uniform` layer by layer; a layer above the first reads all directions of the one below."""
    inputs = [input_size] + [num_directions * hidden_size] * (num_layers - 1)
    return [packed_uniform(generator, num_gates, size, hidden_size, num_directions) for size in inputs]


def with_gate_bias(layers: Sequence[Packed], gate: int, shift: float) -> list[Packed]:
    """The layers with `shift` added to one gate's bias (its input half; `gate` counts blocks of H rows)."""
    shifted = []
    for layer in layers:
        hidden, b = layer.r.shape[-1], np.array(layer.b)
        b[:, gate * hidden : (gate + 1) * hidden] += np.float32(shift)
        shifted.append(replace(layer, b=b))
    return shifted
