"""Which blocks of a feed-forward model map a sequence to a sequence causally, and along which axes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from lsc_graph.auditing.measure import FeedForward
from lsc_graph.errors import LscGraphError
from lsc_graph.jacobians.causal import causal_axes
from lsc_graph.jacobians.chain import ChainBlock, chain_blocks, input_blocks
from lsc_graph.prepare import Prepared
from lsc_graph.results import CausalReading
from lsc_graph.running.sampling import Sample

MAX_ELEMENTS = 2**16
"""Blocks that put out more are left to `audit`, which says the same of them."""


def causal_readings(
    prepared: Prepared, sample: Sample, time_axis: int | None = None
) -> tuple[tuple[CausalReading, ...], tuple[str, ...]]:
    """The readings of every causal block, seen in one run of the model, and what could not be seen.

    Args:
        prepared: the model.
        sample: what it is run on.
        time_axis: the axis of the blocks' outputs that is time, if the user has said so.
    """
    if prepared.chain is None:
        words = "the axes of recurrences are their own, and the layers between them are looked at by audit"
        return (), () if time_axis is None else (f"--time-axis {time_axis}: {words}",)
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            model = FeedForward(prepared, "cpu", generator)
            found = tuple(_readings(model, sample, time_axis, generator))
    except LscGraphError as error:
        reason = " ".join(str(error).split())
        return (), (f"Whether blocks are causal over time is not known here, but by audit: {reason}",)
    if time_axis is not None and not found:
        return (), (f"--time-axis {time_axis}: no layer without a cell is causal along that axis",)
    return found, ()


def _readings(
    model: FeedForward, sample: Sample, time_axis: int | None, generator: torch.Generator
) -> Iterator[CausalReading]:
    for block, shape_in, shape_out in _blocks(model, sample):
        if math.prod(shape_out) <= MAX_ELEMENTS:
            axes = causal_axes(block, shape_in, shape_out, generator, time_axis)
            if axes:
                sizes = tuple(own.num_steps for own in axes)
                yield CausalReading(block.target, block.source, tuple(own.axis_out for own in axes), sizes)


def _blocks(
    model: FeedForward, sample: Sample
) -> Iterator[tuple[ChainBlock, tuple[int, ...], tuple[int, ...]]]:
    """Every block of the chain, with the shapes of what it reads and puts out."""
    run, cells = model.run(sample), model.prepared.cell_graph
    shapes = [tuple(boundary.shape) for boundary in run.boundaries]
    inputs = model.tensors(sample.inputs | sample.initial)
    for block, shape in input_blocks(model.program, inputs, cells):
        yield block, shape, shapes[0]
    yield from zip(chain_blocks(model.program, run, cells), shapes, shapes[1:], strict=False)
