"""The gradient over the grid of local Jacobians, beside plain backpropagation through the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from lsc_graph.errors import GradientError
from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.cell import flatten
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.growth import Cotangents, path_lengths, rounding_lengths, swept
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.running.reference import Reference
from lsc_graph.running.sampling import Sample
from lsc_graph.spectra.handed import handed
from lsc_graph.to_torch.parity import ParityCheck
from lsc_graph.to_torch.program import Run
from lsc_graph.to_torch.segment import Parameters

# Rounding, relative to the sum of all paths' lengths: paths may cancel, as those of a stabiliser do.
_FLOAT32_NOISE = 1e-5
# That of one step, relative to the gradient's length.
_ROUNDING = 1e-6
# What is rounded otherwise in a few ways differs by so many times what it does in one.
_OTHERWISE = 10.0
# Part of a gradient that a missing edge may carry unseen: after many steps, and from near by.
FAR_SHARE, NEAR_SHARE = 1e-2, 1e-4
# Where float32 gradients are this small, they have lost their digits to underflow.
_LOG10_TRUSTED = -25.0


class Measured(Protocol):
    """A model as the audit sees it: run a sample, compare it, take its grid of local Jacobians."""

    parameters: Parameters
    reference: Reference

    def run(self, sample: Sample) -> Run: ...

    def compare(self, sample: Sample, run: Run, check: ParityCheck) -> None: ...

    def edges(self, sample: Sample, run: Run, summary: Summary) -> tuple[CellGraph, list[EdgeMap]]: ...

    def state_tensors(self, run: Run) -> dict[GridNode, list[Tensor]]: ...


def check_against_autograd(
    model: Measured,
    sample: Sample,
    edges: Sequence[EdgeMap],
    order: Sequence[GridNode],
    start: Mapping[GridNode, Tensor],
    share: float = FAR_SHARE,
    rounded: Callable[[], Sequence[EdgeMap]] | None = None,
) -> None:
    """Compare the gradient over the grid with plain backpropagation through the whole model.

    If an edge were missing from the cell graph, or a block wrong, the two would differ.

    Args:
        model, sample: what the gradient is taken of.
        edges, order: the grid.
        start: cotangents [1, n] at the nodes to start from.
        share: part of a gradient that is no difference. Of differences in ONNX Runtime a larger one is not.
        rounded: the edges where all that they are taken at is rounded otherwise: as far as that moves the
            gradient, to a part of `FAR_SHARE`, there is no difference either.

    Raises:
        GradientError: they differ.
    """
    actual = _gradients(model, sample, order, start)
    allowed = FAR_SHARE if model.parameters.differences.parts else share

    @cache
    def lengths() -> dict[GridNode, float]:
        return path_lengths(edges, order, start)

    @cache
    def errors() -> dict[GridNode, float]:
        return rounding_lengths(edges, order, start, _ROUNDING)

    @cache
    def others() -> dict[GridNode, Cotangents]:
        again = [] if rounded is None else rounded()
        ends, same = ({(edge.tail, edge.head) for edge in own} for own in (edges, again))
        return dict(swept(again, order, start)) if ends == same else {}

    def is_moved(node: GridNode, found: Cotangents, error: float) -> bool:
        if node not in others():
            return False
        expected, other = found.vectors()[0], others()[node].vectors()[0]
        most = FAR_SHARE * float(expected.norm())
        return error <= min(_OTHERWISE * float((other - expected).norm()), most)

    def is_rounding(node: GridNode, found: Cotangents | None, error: float) -> bool:
        if error <= _FLOAT32_NOISE * lengths()[node] or error <= errors()[node]:
            return True
        return found is not None and is_moved(node, found, error)

    def compare(node: GridNode, found: Cotangents | None) -> None:
        if found is not None and float(found.log10_norm[0]) < _LOG10_TRUSTED:
            return
        given = actual.pop(node).double()
        # What a node starts from comes along no edge, and would hide those of a small share.
        own = start[node][0] if node in start else torch.zeros_like(given)
        given = given - own
        expected = torch.zeros_like(given) if found is None else found.vectors()[0].cpu() - own
        scale, error = max(float(expected.norm()), float(given.norm())), float((given - expected).norm())
        if error > allowed * scale and not is_rounding(node, found, error):
            raise GradientError(
                "The cell graph does not account for the whole gradient, so nothing is reported",
                where=f"{node.layer}, step {node.time}",
                got=f"a gradient of norm {float(expected.norm()):.4g} over the grid",
                expected=f"{float(given.norm()):.4g}, as backpropagation through the model gives",
                do="audit it with --black-box always, by finite differences, and please report this model",
            )

    reached = set()
    for node, found in swept(edges, order, start):
        reached.add(node)
        compare(node, found)
    for node in order:
        if node not in reached:
            compare(node, None)


def attached_run(model: Measured, sample: Sample) -> Run:
    """A run that gradients by states can be taken of."""
    with torch.enable_grad(), _fixed(model.parameters):
        return model.run(sample)


def _gradients(
    model: Measured, sample: Sample, order: Sequence[GridNode], start: Mapping[GridNode, Tensor]
) -> dict[GridNode, Tensor]:
    """Gradients of <start, s> at every node, by plain backpropagation through the whole model.

    On the CPU; the host waits for the device once.
    """
    with torch.enable_grad():
        tensors = model.state_tensors(attached_run(model, sample))
        began = [tensor for node in start for tensor in tensors[node]]
        given = torch.cat([start[node][0].to(tensors[node][0].dtype) for node in start])
        parts = torch.split(handed(given, began[0].device), [tensor.numel() for tensor in began])
        seeds = [part.reshape(tensor.shape) for part, tensor in zip(parts, began, strict=True)]
        flat = [tensor for node in order for tensor in tensors[node]]
        found = torch.autograd.grad(began, flat, seeds, allow_unused=True)
    whole = flatten([torch.zeros_like(t) if g is None else g for t, g in zip(flat, found, strict=True)])
    sizes = [sum(tensor.numel() for tensor in tensors[node]) for node in order]
    return dict(zip(order, torch.split(whole.cpu(), sizes), strict=True))


@contextmanager
def _fixed(parameters: nn.Module) -> Iterator[None]:
    """No gradients with respect to parameters, for which every step of a run would keep what it computed."""
    trained = [parameter for parameter in parameters.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
