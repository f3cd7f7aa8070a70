"""Rows of feed-forward blocks are those of their Jacobians, whatever else the blocks read."""

from __future__ import annotations

import numpy as np
import torch
from chain_models import masked_chain
from torch import Tensor
from torch.func import vmap

import lsc_graph
from lsc_graph.auditing.measure import FeedForward
from lsc_graph.jacobians.chain import chain_blocks
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.pretraining.batches import part, recorded, run_of, stacked
from lsc_graph.pretraining.chain_rows import pull_chain

NUM_SAMPLES = 3


def sample(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, context = (torch.randn(1, 4, generator=generator) for _ in range(2))
    keep = torch.randint(0, 3, (1, 4), generator=generator)
    return {"x": x, "context": context, "low": torch.tensor(float(seed)), "keep": keep}


def test_the_rows_of_samples_together_are_those_of_the_blocks_of_each() -> None:
    prepared = prepare(masked_chain(), Request(None, {"low": "1"}, {}, (), {}))
    program = FeedForward(prepared, "cpu", torch.Generator()).program
    tree = vmap(lambda values: recorded(program(values)))(stacked([sample(k) for k in range(NUM_SAMPLES)]))
    looks = torch.eye(4).expand(NUM_SAMPLES, 4, 4)
    found = pull_chain(program, run_of(tree), prepared.cell_graph.layers, lambda source, target: looks)
    for number in range(NUM_SAMPLES):
        blocks = chain_blocks(program, run_of(part(tree, number)), prepared.cell_graph)
        for edge, block in zip(found, blocks, strict=True):
            assert block.matrix is not None
            assert bool(block.matrix.any())
            torch.testing.assert_close(edge.rows[number], block.matrix)


def test_layers_that_read_more_than_the_one_before_are_trained() -> None:
    model, inputs = masked_chain(), {"low": "0.5"}
    report = lsc_graph.pretrain(model, target="one", inputs=inputs, max_iterations=0).report
    audited = lsc_graph.audit(model, inputs=inputs, precision=0.02)
    wanted = [edge.depth_radius.mean for edge in audited.layers if edge.depth_radius is not None]
    got = [own.before.mean for own in report.radii]
    np.testing.assert_allclose(got, wanted, atol=0.1)
