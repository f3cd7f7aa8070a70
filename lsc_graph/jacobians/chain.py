"""Local Jacobians of a feed-forward chain: dense where that fits, else as operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.built import has_black_box
from lsc_graph.jacobians.cell import batched_jacobians, flatten
from lsc_graph.jacobians.grid import EdgeMap, Pull, dense
from lsc_graph.jacobians.probed import ProbedGain, probed_gain
from lsc_graph.jacobians.pushes import Pushes
from lsc_graph.layers.cells import CellGraph, DepthEdge
from lsc_graph.to_torch import black_box
from lsc_graph.to_torch.program import ChainProgram, Run

# Beyond this, dense eigenvalues would take seconds for every block and sample.
MAX_DENSE_ELEMENTS = 2**19
NUM_PROBES = 16


@dataclass(frozen=True)
class ChainBlock:
    """M_depth of one block: `matrix` [n_out, n_in], or None where it is too large; `pull` in any case.

    Whatever device the matrix is on, `pull` is on the CPU in double precision, as growth is.
    """

    source: str
    target: str
    shape: tuple[int, int]
    matrix: Tensor | None
    pull: Pull


def chain_blocks(program: ChainProgram, run: Run, cells: CellGraph) -> tuple[ChainBlock, ...]:
    """The depth Jacobian of every block but the first, at one sample."""
    layers = [layer.id for layer in cells.layers]
    return tuple(
        _block(program.block(index, run), run.boundaries[index - 1], layers[index - 1], layers[index])
        for index in range(1, len(layers))
    )


def input_blocks(
    program: ChainProgram, inputs: Mapping[str, Tensor], cells: CellGraph
) -> list[tuple[ChainBlock, tuple[int, ...]]]:
    """The first block with respect to each floating-point input of the chain, and the input's shape.

    They are no edges between layers: whether they are causal over time is asked of them.
    """
    found = []
    for name in program.chain.inputs:
        if inputs[name].is_floating_point():

            def module(value: Tensor, name: str = name) -> Sequence[Tensor]:
                values = {**inputs, name: value}
                result: Sequence[Tensor] = program.blocks[0](*(values[own] for own in program.input_names))
                return result

            block = _block(module, inputs[name], f"input {name}", cells.layers[0].id)
            found.append((block, tuple(inputs[name].shape)))
    return found


def _block(module: Callable[..., Sequence[Tensor]], state: Tensor, source: str, target: str) -> ChainBlock:
    def function(value: Tensor) -> Tensor:
        return flatten(module(value))

    with torch.no_grad():
        num_out = function(state).numel()
    shape = (num_out, state.numel())
    if shape[0] * shape[1] <= MAX_DENSE_ELEMENTS:
        (matrix,) = batched_jacobians(function, [state[None]], [0])
        flat = matrix[0].reshape(shape)
        return ChainBlock(source, target, shape, flat, dense(flat.cpu()))
    _, pullback, *_ = vjp(function, state)

    def pull(cotangents: Tensor) -> Tensor:
        (rows,) = vmap(pullback, chunk_size=NUM_PROBES)(cotangents.to(state))
        gradients: Tensor = rows.flatten(1).double().cpu()
        return gradients

    return ChainBlock(source, target, shape, None, pull)


def too_many_in_chain(program: ChainProgram, run: Run) -> bool:
    """Whether a block that is a black box would be differentiated by too many elements."""
    states = zip(program.blocks[1:], run.boundaries, strict=True)
    return any(
        state.numel() > black_box.MAX_INPUT_ELEMENTS and has_black_box(block) for block, state in states
    )


def pushed_blocks(program: ChainProgram, run: Run, cells: CellGraph) -> tuple[Pushes, ...]:
    """The depth Jacobian of every block but the first by products with directions."""
    layers = [layer.id for layer in cells.layers]
    return tuple(
        _pushed(
            program.block(index, run), run.boundaries[index - 1 : index + 1], *layers[index - 1 : index + 1]
        )
        for index in range(1, len(layers))
    )


def _pushed(
    block: Callable[[Tensor], Sequence[Tensor]], ends: Sequence[Tensor], source: str, target: str
) -> Pushes:
    state, other = ends

    def function(value: Tensor) -> Tensor:
        return flatten(block(value))

    def push(numbers: Sequence[int], directions: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            moved: Tensor = jvp(function, (state,), (row.reshape(state.shape),))[1]
            return moved

        rows = [vmap(one, chunk_size=NUM_PROBES)(own) for own in directions.to(state)]
        return torch.stack(rows)

    pairs, shape = ((0, 0),), (other.numel(), state.numel())
    return Pushes(source, target, pairs, shape, push, state, DepthEdge(source, target))


def chain_edges(blocks: Sequence[ChainBlock]) -> list[EdgeMap]:
    """The chain as edges of a grid with one time step."""
    return [EdgeMap(GridNode(b.source, 0), GridNode(b.target, 0), b.pull) for b in blocks]


def chain_gain(block: ChainBlock, generator: torch.Generator) -> ProbedGain:
    """Gain of a block that is too large for a matrix."""
    return probed_gain(lambda probes: block.pull(probes[0])[None], 1, block.shape, NUM_PROBES, generator)
