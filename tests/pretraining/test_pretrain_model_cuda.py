"""Pre-training on CUDA: the targets are reached there, as an audit on the CPU shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cuda_only import needs_cuda
from lsc_graph.models.registry import build
from torch import nn

import lsc_graph
from lsc_graph.audit_model import audit
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.pretraining.pretrain_model import pretrain

pytestmark = needs_cuda
MODELS = ["tanh_rnn", "gru", "lstm", "alif_smooth", "lru", "slstm", "selective_ssm", "unrolled_gru"]


@pytest.mark.parametrize("name", [*MODELS, "streaming_gru", "bidirectional_lstm"])
def test_half_is_reached_and_the_file_verified(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(build(name), source)
    num_steps = None if name == "unrolled_gru" else 12
    report = pretrain_file(source, target, num_steps=num_steps, device="cuda")
    assert report.is_reached, [change for change in report.radii if not change.is_reached]
    analysis = audit(target, num_steps=num_steps, num_samples=8, seed=77, device="cpu")
    for layer in analysis.layers:
        assert layer.time_radius is not None
        assert abs(layer.time_radius.mean - 0.5) <= 0.02 + 4 * layer.time_radius.std_error


def test_feed_forward_chains() -> None:
    assert pretrain(build("feed_forward_relu", num_layers=6, hidden_size=64), device="cuda").report.is_reached


@pytest.mark.parametrize("method", ["gradient", "both", "paper"])
def test_by_the_other_methods(method: str) -> None:
    pytest.importorskip("pytorch_optimizer") if method == "paper" else None
    found = pretrain(build("gru"), num_steps=8, method=method, max_iterations=3, device="cuda")
    assert all(np.isfinite(value).all() for value in found.named.values())


def test_the_first_iteration_is_that_of_the_cpu() -> None:
    """The same samples and probes on both: only rounding differs."""
    one, other = (
        pretrain(build("gru"), num_steps=8, max_iterations=1, device=device).named
        for device in ("cpu", "cuda")
    )
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=2e-4, rtol=1e-3)


def test_a_module_on_cuda_is_stabilized_in_place() -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 12, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.rnn(x)[0]
            return found

    module = Model().cuda()
    report = lsc_graph.stabilize(module, torch.randn(1, 8, 6, device="cuda"), device="cuda")
    assert report.is_reached
    assert all(parameter.is_cuda for parameter in module.parameters())


def test_torchrun_joins_by_nccl(tmp_path: Path) -> None:
    """One process for every GPU there is; with one GPU, the group is a group of one."""
    script = tmp_path / "fit.py"
    script.write_text(
        "import os, torch.distributed as dist\n"
        "from lsc_graph.models.registry import build\n"
        "from lsc_graph.pretraining.pretrain_model import pretrain\n"
        "if os.environ['WORLD_SIZE'] == '1':\n"
        "    dist.init_process_group('cpu:gloo,cuda:nccl')\n"
        "pretrain(build('gru'), num_steps=8, max_iterations=2, device='cuda')\n"
        "assert 'nccl' in str(dist.get_backend_config()), dist.get_backend_config()\n"
        "dist.destroy_process_group()\n"
    )
    count = str(torch.cuda.device_count())
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
