"""What edges' matrices share."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.edge_blocks import EdgeBlocks


def test_edges_of_one_layer_share_a_range_only_where_their_blocks_have_the_same_one() -> None:
    blocks = EdgeBlocks({}, {})
    generator = torch.Generator().manual_seed(0)
    own, wide = torch.randn(64, 9, generator=generator), torch.randn(96, 9, generator=generator)
    first = blocks._basis(("a", "c"), own @ torch.randn(3, 9, 64, generator=generator))
    assert blocks._basis(("b", "c"), own @ torch.randn(3, 9, 64, generator=generator)) is first
    other = blocks._basis(("d", "c"), wide @ torch.randn(3, 9, 96, generator=generator))
    assert other is not None
    assert other.shape == (96, 9)
