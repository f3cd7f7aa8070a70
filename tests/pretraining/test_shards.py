"""Two processes that share the samples find what one finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.pretraining.shards import _own_gpu

SCRIPT = """
import sys
import numpy as np
import torch
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.pretraining.shards import num_processes, rank
torch.set_num_threads(1)
model, output, method, iterations = sys.argv[1:]
found = pretrain(model, method=method, num_steps=8, max_iterations=int(iterations))
assert num_processes() == 2
if rank() == 0:
    np.savez(output, **found.named)
"""


SIZES = """
import os
import sys
import torch
import torch.distributed as dist
from lsc_graph.pretraining.estimate import work_of
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.shards import rank
from lsc_graph.pretraining.targets import Wish
torch.set_num_threads(1)
reader = prepare_job(sys.argv[1], Wish("half"), num_steps=4).problem.reader
reader.blocks.sizes = {edge: size + 9 * rank() for edge, size in reader.blocks.sizes.items()}
found = [None, None]
dist.all_gather_object(found, work_of(reader, 8, 2))
assert found[0] == found[1], found
dist.barrier()
os._exit(0)  # an interpreter that ends beside a group's threads may abort
"""


def run(script: Path, *arguments: str | Path) -> None:
    """Run a script in two processes."""
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    command = [*runner, *map(str, (script, *arguments))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rescale", "gradient"])
def test_the_outcome_does_not_depend_on_the_number_of_processes(tmp_path: Path, method: str) -> None:
    script, model, output = tmp_path / "fit.py", tmp_path / "gru.onnx", tmp_path / "two.npz"
    script.write_text(SCRIPT)
    onnx.save(build("gru"), model)
    run(script, model, output, method, "4")
    alone = pretrain(model, method=method, num_steps=8, max_iterations=4).named
    with np.load(output) as together:
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
def test_what_processes_know_from_their_own_samples_does_not_decide_how_many_points_each_looks_at(
    tmp_path: Path,
) -> None:
    script, model = tmp_path / "sizes.py", tmp_path / "gru.onnx"
    script.write_text(SIZES)
    onnx.save(build("gru"), model)
    run(script, model)


def test_a_process_without_a_gpu_of_its_own_is_told_so() -> None:
    assert _own_gpu(1, 2) == 1
    with pytest.raises(UsageError, match="--nproc_per_node 2"):
        _own_gpu(2, 2)
