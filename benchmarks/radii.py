"""Spectral radii of local Jacobians: the default choice against vmap(jacrev) and all eigenvalues, in one run.

Run as `python benchmarks/radii.py`; prints tables and writes benchmarks/results/radii.json as it goes.
Cells: time, error of the mean and peak memory of both ways, each in a process of its own. Spectra: the error
of the mean of the default choice over kinds of spectra and sizes, and how the points were found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lsc_graph.models import registry

from lsc_graph.jacobians.cell import cell_points, flatten
from lsc_graph.jacobians.cell_radius import time_radii
from lsc_graph.measure import Sequences, Streaming
from lsc_graph.prepare import Request, prepare
from lsc_graph.sampling import make_samples
from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.dense import dense_radius
from lsc_graph.to_torch.loop import CellModule, Trajectory

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "radii.json"
STATES = {"tanh_rnn": 1, "gru": 1, "lstm": 2, "lru": 2, "alif_smooth": 3}


def cell_at(name: str, size: int, num_points: int) -> tuple[CellModule, Trajectory]:
    """The top layer of a reference model of about that state size, and a trajectory through it."""
    width = max(1, size // STATES[name])
    prepared = prepare(registry.build(name, hidden_size=width), Request(num_points, {}, {}, (), {}))
    is_streaming = prepared.findings.is_streaming
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=[carry.before for carry in prepared.findings.carried],
        num_steps=num_points if is_streaming else None,
        num_samples=1,
        seed=0,
    )
    with torch.no_grad():
        kind = Streaming if is_streaming else Sequences
        model = kind(prepared, "cpu", torch.Generator().manual_seed(0))
        trajectory = model.run(sample).trajectories[-1]
    module = model.program.sites[-1].cells[-1]
    assert isinstance(module, CellModule)
    return module, trajectory


def baseline(module: CellModule, trajectory: Trajectory) -> torch.Tensor:
    """vmap(jacrev) and torch.linalg.eigvals."""
    points = cell_points(module, trajectory)
    own = tuple(module.reads.index(("before", state.name)) for state in module.cell.layer.states)
    jacobian = torch.func.jacrev(lambda *values: flatten(module(*values)), argnums=own)
    parts = torch.func.vmap(jacobian)(*points)
    matrices = torch.cat([part.flatten(2) for part in parts], 2)
    values: torch.Tensor = torch.linalg.eigvals(matrices.double()).abs().amax(1)
    return values


def measure(way: str, name: str, size: int, num_points: int) -> dict[str, object]:
    """Seconds, mean and peak memory above what was held before, of one way (run in a process of its own)."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    module, trajectory = cell_at(name, size, num_points)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        time_radii(*cell_at(name, 32, 2), generator)  # warm up
        torch.linalg.eigvals(torch.eye(64, dtype=torch.float64))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, start = peak_mib(), time.perf_counter()
        if way == "baseline":
            values, methods, converged = baseline(module, trajectory), {"dense": num_points}, num_points
        else:
            found = time_radii(module, trajectory, generator)
            values, methods, converged = found.values, found.counts(), int(found.converged.sum())
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "mean": float(values.mean()),
        "peak_mib": peak_mib() - before,
        "methods": methods,
        "num_converged": converged,
    }


def peak_mib() -> float:
    """The most memory that this process has held since the peak was last reset (Linux)."""
    # Not ru_maxrss, which a child process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def compare(name: str, size: int) -> dict[str, object]:
    """Both ways on the same points."""
    num_points = 16 if size <= 512 else 4 if size <= 1024 else 2
    context = multiprocessing.get_context("spawn")
    found = {}
    for way in ("ours", "baseline"):
        with context.Pool(1) as pool:
            found[way] = pool.apply(measure, (way, name, size, num_points))
    ours, theirs = found["ours"], found["baseline"]
    return {
        "cell": name,
        "state_size": size // STATES[name] * STATES[name],
        "num_points": num_points,
        "ours_seconds": round(ours["seconds"], 4),
        "baseline_seconds": round(theirs["seconds"], 4),
        "ratio": round(theirs["seconds"] / ours["seconds"], 1),
        "error_of_mean": ours["mean"] / theirs["mean"] - 1,
        "ours_peak_mib": round(ours["peak_mib"], 1),
        "baseline_peak_mib": round(theirs["peak_mib"], 1),
        "methods": ours["methods"],
        "num_converged": ours["num_converged"],
    }


def spectra(sizes: list[int], rows: list[dict[str, object]]) -> Iterator[None]:
    """Error of the mean of the default choice, and time against all eigenvalues, by kind of spectrum."""
    sys.path.insert(0, str(ROOT / "tests"))
    from spectra_cases import SPECTRA, batch

    for size in sizes:
        for name in SPECTRA:
            matrices = batch(name, size).float()
            start = time.perf_counter()
            found = radius_estimate(matrices)
            middle = time.perf_counter()
            exact = dense_radius(matrices)
            seconds = time.perf_counter() - middle
            row = {
                "spectrum": name,
                "size": size,
                "error_of_mean": float(found.values.mean() / exact.values.mean() - 1),
                "ratio": round(seconds / (middle - start), 1),
                "methods": found.counts(),
                "num_converged": int(found.converged.sum()),
                "num_points": len(found),
            }
            rows.append(row)
            words = "{spectrum:10} n={size:5}: {ratio:7}x, error of the mean {error_of_mean:+.1e}, {methods}"
            print(words.format(**row), flush=True)
            yield


def main() -> None:
    """Measure both tables and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="64,128,256,512,1024,2048")
    parser.add_argument("--spectra-sizes", default="64,128,256,512,1024")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--cells", default="tanh_rnn,gru,lstm,lru,alif_smooth")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    machine = {
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
        "num_threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "baseline": "torch.func.vmap(jacrev) and torch.linalg.eigvals in float64",
    }
    rows: list[dict[str, object]] = []
    kinds: list[dict[str, object]] = []

    def write() -> None:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(
            json.dumps({"machine": machine, "cells": rows, "spectra": kinds}, indent=2) + "\n"
        )

    torch.set_num_threads(int(machine["num_threads"]))
    for _ in spectra([int(size) for size in arguments.spectra_sizes.split(",") if size], kinds):
        write()
    for size in sizes:
        for name in arguments.cells.split(","):
            row = compare(name, size)
            rows.append(row)
            print(
                "{cell:9} n={state_size:5}: {ratio:7}x, error of the mean {error_of_mean:+.1e}, peak MiB "
                "{ours_peak_mib} against {baseline_peak_mib}, {methods}".format(**row),
                flush=True,
            )
            write()


if __name__ == "__main__":
    main()
