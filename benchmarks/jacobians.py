"""Local Jacobians of a layer along its trajectory: one batched pass against one call for each point.

Run as `python benchmarks/jacobians.py`; prints a table and writes benchmarks/results/jacobians.json.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lsc_graph.models import registry

from lsc_graph.auditing.measure import Sequences
from lsc_graph.jacobians.cell import batched_jacobians, flatten
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.running.sampling import make_samples
from lsc_graph.to_torch.loop import CellModule

RESULTS = Path(__file__).parent / "results" / "jacobians.json"
REPEATS = 3


def best_of(function: Callable[[], object]) -> float:
    """The shortest of a few runs, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(name: str, width: int, num_steps: int) -> dict[str, object]:
    """Time ours and the baseline on the same points of the top layer of a reference model."""
    proto = registry.build(name, hidden_size=width)
    prepared = prepare(proto, Request(num_steps, {}, {}, (), {}))
    carried = [carry.before for carry in prepared.findings.carried]
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=carried,
        num_steps=None,
        num_samples=1,
        seed=0,
    )
    with torch.no_grad():
        model = Sequences(prepared, "cpu", torch.Generator().manual_seed(0))
        trajectory = model.run(sample).trajectories[-1]
        module = model.program.sites[-1].cells[0]
        assert isinstance(module, CellModule)
        pools = {
            "before": trajectory.before,
            "slice": trajectory.slices,
            "capture": {k: v.expand(num_steps, *v.shape) for k, v in trajectory.captures.items()},
        }
        points = [pools[kind][key] for kind, key in module.reads]
    which = [index for index, (kind, _) in enumerate(module.reads) if kind == "before"]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return flatten(module(*values))

    def baseline() -> None:
        for step in range(num_steps):
            at = [point[step] for point in points]

            def of_states(*states: torch.Tensor, at: list[torch.Tensor] = at) -> torch.Tensor:
                values = list(at)
                for index, state in zip(which, states, strict=True):
                    values[index] = state
                return function(*values)

            torch.autograd.functional.jacobian(of_states, tuple(at[index] for index in which))

    with torch.no_grad():
        ours = best_of(lambda: batched_jacobians(function, points, which))
    theirs = best_of(baseline)
    return {
        "model": name,
        "state_size": module.cell.layer.state_size,
        "num_steps": num_steps,
        "ours_seconds": round(ours, 4),
        "baseline_seconds": round(theirs, 4),
        "ratio": round(theirs / ours, 2),
    }


def main() -> None:
    """Compare on a few cells and widths, and write the result."""
    rows = []
    for name in ("tanh_rnn", "gru", "lstm"):
        for width in (16, 64, 128):
            rows.append(compare(name, width, 32))
            print("{model:10} n={state_size:4} T={num_steps}: {ratio:6.2f}x".format(**rows[-1]), flush=True)
    machine = {
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "baseline": "torch.autograd.functional.jacobian, one call for each point",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
