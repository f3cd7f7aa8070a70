"""Rows of the depth Jacobians of a feed-forward chain, over a batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flatten
from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.edge_rows import EdgeRows
from lsc_graph.pretraining.rows import Wanted
from lsc_graph.to_torch.program import ChainProgram, Run


def pull_chain(
    program: ChainProgram,
    run: Run,
    layers: Sequence[Layer],
    cotangents: Callable[[Layer, Layer], Tensor],
    wanted: Wanted = None,
) -> list[EdgeRows]:
    """The rows of every block but the first.

    Args:
        program: the model.
        run: of P samples together, each of its tensors [P, *shape].
        layers: one for each boundary.
        cotangents: by source and target, [P, R, n_target] for the P samples.
        wanted: the edges to pull along; all of them where it is None.
    """
    found = []
    for index in range(1, len(layers)):
        if wanted is not None and (layers[index - 1].id, layers[index].id) not in wanted:
            continue
        states, beside = run.boundaries[index - 1], run.sides[index]
        rows = _pull(program.blocks[index], states, beside, cotangents(layers[index - 1], layers[index]))
        every = tuple(range(len(states)))
        found.append(EdgeRows(layers[index - 1].id, layers[index].id, every, rows))
    return found


def _pull(block: nn.Module, states: Tensor, beside: Sequence[Tensor], cotangents: Tensor) -> Tensor:
    """[P, R, n_source] from states [P, *shape], what else the block reads and cotangents [P, R, n_target]."""

    def pulled(rows: Tensor, state: Tensor, *others: Tensor) -> Tensor:
        _, pullback, *_ = vjp(lambda value: flatten(block(value, *others)), state)
        (result,) = vmap(pullback)(rows)
        gradients: Tensor = result.flatten(1)
        return gradients

    size = 16 * cotangents[0].numel() * cotangents.element_size()
    chunk = max(1, MAX_BATCH_BYTES // max(1, size))
    rows: Tensor = vmap(pulled, chunk_size=chunk)(cotangents.to(states), states, *beside)
    return rows
