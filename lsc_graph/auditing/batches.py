"""Which states are batches of independent entries: seen by exchanging the entries of the inputs.

Exporters write fixed batches into the graph in many ways. What all have in common is that the states of one
entry follow when its inputs change place, and that no other operation on an axis does this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lsc_graph.auditing.autograd_check import FAR_SHARE, Measured, attached_run
from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.entries import entries_of
from lsc_graph.layers.cells import Layer
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.results import Form
from lsc_graph.running.reference import Array
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.program import Run

MAX_TRIED = 16
"""Ways of exchanging entries that are tried, each by one run."""
# What a run may be off where its entries have changed place, relative to what the exchange has changed.
_AGREEMENT = 1e-4
# What derivatives may be off there, relative to themselves.
_SAME_DERIVATIVES = 1e-5

States = Mapping[GridNode, Sequence[Tensor]]


def batch_entries(prepared: Prepared, model: Measured, sample: Sample, run: Run) -> dict[str, Tensor]:
    """Per layer whose states are a batch: where the elements of each entry lie [B, m].

    Args:
        prepared: the model.
        model: as it is measured.
        sample, run: one run of it.
    """
    layers = prepared.cell_graph.layers
    states = model.state_tensors(run)
    sizes = {size for node in states for tensor in states[node] for size in tensor.shape if size > 1}
    found: dict[str, Tensor] = {}
    for size, moved in itertools.islice(_exchanged(prepared, sample, sizes), MAX_TRIED):
        axes = _moved_axes(layers, states, model.state_tensors(model.run(moved)), size)
        if axes and _derivatives_move(model, layers, (sample, moved), axes):
            found = {layer.id: entries_of(layer, axes[layer.id]) for layer in layers if layer.id in axes}
            break
    return _of_fused(prepared) | found


def _of_fused(prepared: Prepared) -> dict[str, Tensor]:
    """Fused operators say themselves that the first axis of their states counts entries."""
    layers = (cell.layer for own in prepared.cells for cell in own if cell.site.form is Form.FUSED_OP)
    return {
        layer.id: entries_of(layer, [0] * len(layer.states))
        for layer in layers
        if layer.states[0].shape[0] > 1
    }


def _exchanged(prepared: Prepared, sample: Sample, sizes: set[int]) -> Iterator[tuple[int, Sample]]:
    """Samples whose entries have moved on by one, along axes that may count them, and how many there are."""
    arrays = sample.inputs | sample.initial
    leading = {name: int(is_streaming(prepared) and name in sample.inputs) for name in arrays}
    for size in sorted(sizes):
        choices: dict[str, list[int]] = {
            name: [axis for axis in range(leading[name], array.ndim) if array.shape[axis] == size]
            for name, array in arrays.items()
        }
        for axes in itertools.product(*(own or (None,) for own in choices.values())):
            if any(axis is not None for axis in axes):
                rolled = dict(zip(arrays, map(_rolled, arrays.values(), axes), strict=True))
                inputs = {name: rolled[name] for name in sample.inputs}
                yield size, Sample(inputs, {name: rolled[name] for name in sample.initial})


def _rolled(array: Array, axis: int | None) -> Array:
    return array if axis is None else np.roll(array, 1, axis)


def _moved_axes(
    layers: Sequence[Layer], before: States, after: States, size: int
) -> dict[str, list[int]] | None:
    """Per layer the axis of each state that has moved on by one; None if any has changed in another way."""
    found: dict[str, list[int]] = {}
    for layer in layers:
        nodes = [node for node in before if node.layer == layer.id]
        axes = []
        for index in range(len(layer.states)):
            old, new = (torch.stack([states[node][index] for node in nodes]) for states in (before, after))
            axes.append(_moved_axis(old, new, size))
        if None in axes:
            return None
        known = [axis for axis in axes if axis is not None]
        if len(known) == len(layer.states) and -1 not in known:
            found[layer.id] = known
        elif any(axis >= 0 for axis in known):
            return None
    return found


def _derivatives_move(
    model: Measured, layers: Sequence[Layer], samples: tuple[Sample, Sample], axes: Mapping[str, list[int]]
) -> bool:
    """Whether the derivatives of the last steps have moved on as the states have.

    Weights of its own that an entry hardly shows beside its inputs, its derivatives still show.
    """
    own = [layer for layer in layers if layer.id in axes]
    old, new = (_last_pulls(model, own, sample, axes, shift) for shift, sample in enumerate(samples))
    share = FAR_SHARE if model.parameters.differences.parts else _SAME_DERIVATIVES
    return all(
        float((after - before.roll(1, axis)).norm()) <= share * float(before.norm())
        for (before, axis), (after, _) in zip(old, new, strict=True)
    )


def _last_pulls(
    model: Measured, layers: Sequence[Layer], sample: Sample, axes: Mapping[str, list[int]], shift: int
) -> list[tuple[Tensor, int]]:
    """Random cotangents of each layer's last states, moved on by `shift`, with the axes that count entries.

    Pulled back by one step, and to the last states of the layers below.
    """
    generator, found = torch.Generator().manual_seed(0), list[tuple[Tensor, int]]()
    with torch.enable_grad():
        states = model.state_tensors(attached_run(model, sample))
        below: list[tuple[Tensor, int]] = []
        for layer in layers:
            order = layer.time_step or 1
            nodes = sorted((n for n in states if n.layer == layer.id), key=lambda n: n.time * order)
            *earlier, last = ([*zip(states[n], axes[layer.id], strict=True)] for n in nodes[-2:])
            probes = [
                torch.randn(tensor.shape, generator=generator).roll(shift, axis).to(tensor)
                for tensor, axis in last
            ]
            tops = [(top, probe) for (top, _), probe in zip(last, probes, strict=True) if top.requires_grad]
            ends = [end for end in (*itertools.chain(*earlier), *below) if end[0].requires_grad]
            if tops and ends:
                pulled = torch.autograd.grad(
                    [top for top, _ in tops],
                    [end for end, _ in ends],
                    [probe for _, probe in tops],
                    retain_graph=True,
                    allow_unused=True,
                )
                found += [
                    (torch.zeros_like(end).double() if own is None else own.double(), axis)
                    for (end, axis), own in zip(ends, pulled, strict=True)
                ]
            below += last
    return found


def _moved_axis(before: Tensor, after: Tensor, size: int) -> int | None:
    """The axis along which values [T, ...] have moved on by one; -1 if they are the same, None else."""
    before, after = before.double(), after.double()
    change = float((after - before).norm())
    if change <= 1e-6 * float(before.norm()):
        return -1
    for axis in range(1, before.dim()):
        if before.shape[axis] == size:
            error = float((after - before.roll(1, axis)).norm())
            if error <= _AGREEMENT * change:
                return axis - 1
    return None
