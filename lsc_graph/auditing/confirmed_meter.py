"""The meter of growth, after the gradient of one sample by it was found to be that of the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from lsc_graph.auditing.autograd_check import FAR_SHARE, NEAR_SHARE, Measured, check_against_autograd
from lsc_graph.auditing.forward_check import check_against_pushes
from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming
from lsc_graph.auditing.rounding import run_rounded_otherwise
from lsc_graph.errors import GradientError
from lsc_graph.grid.unroll import unroll
from lsc_graph.jacobians.forward import ForwardMeter, is_forward
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.meter import GrowthMeter
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.program import Run
from lsc_graph.wording import few


def confirmed_meter(
    model: Measured,
    sample: Sample,
    run: Run,
    cells: CellGraph,
    edges: list[EdgeMap],
    summary: Summary,
    generator: torch.Generator,
    seed: int,
) -> GrowthMeter:
    """A meter for the growth along a grid whose gradient of one sample is that of autograd."""
    again = partial(_edges_again, model, sample, run, summary, seed)
    with _cuts_named(summary.flat):
        if is_forward(edges):
            return _forward_meter(model, sample, cells, edges, generator, seed)
        meter = GrowthMeter(cells, unroll(cells), generator, edges)
        # From all states too: an edge that few paths to the last ones use is seen from near by.
        near = meter.start_everywhere(torch.Generator().manual_seed(seed))
        for start, share in ((meter.random_start(1), FAR_SHARE), (near, NEAR_SHARE)):
            check_against_autograd(model, sample, edges, meter.order, start, share, again)
        return meter


def _edges_again(model: Measured, sample: Sample, run: Run, summary: Summary, seed: int) -> list[EdgeMap]:
    """The edges of a run that is rounded otherwise; what else is found at it is for no report."""
    moved = run_rounded_otherwise(run, torch.Generator().manual_seed(seed))
    return model.edges(sample, moved, summary.empty())[1]


def _forward_meter(
    model: Measured,
    sample: Sample,
    cells: CellGraph,
    edges: list[EdgeMap],
    generator: torch.Generator,
    seed: int,
) -> GrowthMeter:
    """A meter for growth measured forwards, along a grid that pushes directions as the whole model does."""
    assert isinstance(model, (Sequences, Streaming, FeedForward))
    meter = ForwardMeter(cells, unroll(cells), generator, edges)
    for start in (meter.random_start(1), meter.start_everywhere(torch.Generator().manual_seed(seed))):
        check_against_pushes(model, sample, edges, cells, meter.order, start)
    return meter


@contextmanager
def _cuts_named(flat: Sequence[str]) -> Iterator[None]:
    """Where gradients differ that are cut, and may be rounding for the rest, that is said, too."""
    try:
        yield
    except GradientError as error:
        if not flat:
            raise
        raise GradientError(
            error.what,
            where=error.where,
            got=error.got,
            expected=error.expected,
            do=f"the gradient is cut at {few(flat)}, where derivatives are zero though values change, and "
            "what is left of it may be rounding: write that as a comparison, for which --surrogate gives a "
            f"derivative, or {error.do}",
        ) from error
