"""One run of a model in torch on one synthetic sample, for tests of what stands along its trajectories."""

from __future__ import annotations

import onnx
import torch

from lsc_graph.auditing.measure import Sequences, Streaming
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare
from lsc_graph.running.sampling import Sample, make_samples
from lsc_graph.to_torch.loop import CellModule, Trajectory

View = Sequences | Streaming


def single_run(model: onnx.ModelProto, num_steps: int) -> tuple[Prepared, View, Sample]:
    """A model, its view in torch, and the sample to run it on."""
    prepared = prepare(model, Request(num_steps, {}, {}, (), {}))
    streaming = prepared.findings.is_streaming
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=[carry.before for carry in prepared.findings.carried],
        num_steps=num_steps if streaming else None,
        num_samples=1,
        seed=0,
    )
    with torch.no_grad():
        view = (Streaming if streaming else Sequences)(prepared, "cpu", torch.Generator().manual_seed(0))
    return prepared, view, sample


def top_cell(model: onnx.ModelProto, num_steps: int) -> tuple[CellModule, Trajectory]:
    """The top layer of a model, and a trajectory through it."""
    _, view, sample = single_run(model, num_steps)
    with torch.no_grad():
        trajectory = view.run(sample).trajectories[-1]
    module = view.program.sites[-1].cells[-1]
    assert isinstance(module, CellModule)
    return module, trajectory
