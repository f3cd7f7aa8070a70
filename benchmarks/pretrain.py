"""Time until every radius is at its target: rescaling against gradient descent and the paper's procedure.

Run as `python benchmarks/pretrain.py [compare] [table]`; prints tables and writes
benchmarks/results/pretrain.json. All methods start from the same weights, in the same run, on one thread.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lsc_graph.models import registry

from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.methods import fit
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained

RESULTS = Path(__file__).parent / "results" / "pretrain.json"
METHODS = ("rescale", "gradient", "both", "paper")
RECURRENT = ("tanh_rnn", "gru", "lstm", "lru", "alif_smooth")
FEED_FORWARD = ("feed_forward_sin", "feed_forward_relu", "feed_forward_cos")
TARGETS = {"half": 0.5, "sqrt": 0.5**0.5, "one": 1.0}
MAX_STEPS = 300


def measured(problem: Problem, method: str, max_iterations: int) -> dict[str, Any]:
    """Seconds and iterations of one fit, and the largest error at points that it never saw."""
    start = time.perf_counter()
    found = fit(problem, method, as_trained(problem.weights), max_iterations, lambda progress: None)
    seconds = time.perf_counter() - start
    readings = problem.estimate(found.values, 987_654_321, problem.tolerance / 4)
    worst = max(readings.values(), key=lambda r: abs(r.mean - problem.targets[r.edge]))
    return {
        "method": method,
        "seconds": round(seconds, 3),
        "iterations": found.iterations,
        "largest_error": abs(worst.mean - problem.targets[worst.edge]),
        "std_error": worst.std_error,
        "is_reached": all(
            abs(r.mean - problem.targets[r.edge]) <= problem.tolerance + 2 * r.std_error
            for r in readings.values()
        ),
        "stop_reason": found.stop_reason,
    }


def comparisons() -> Iterator[dict[str, Any]]:
    """Every method on the same models."""
    sizes = [(name, {"num_layers": 3, "hidden_size": 32}, 16, "half") for name in RECURRENT]
    sizes.append(("feed_forward_relu", {"num_layers": 10, "hidden_size": 64}, None, "one"))
    for name, options, num_steps, target in sizes:
        for method in METHODS:
            problem = prepare_job(registry.build(name, **options), Wish(target), num_steps=num_steps).problem
            row = measured(problem, method, MAX_STEPS)
            yield {"model": name, **options, "num_steps": num_steps, "target": target, **row}


def table() -> Iterator[dict[str, Any]]:
    """Rescaling on deep and wide models, to every target."""
    models = [(name, {"num_layers": n, "hidden_size": 128}, 32) for n in (2, 5, 7) for name in RECURRENT]
    models += [(name, {"num_layers": 30, "hidden_size": 128}, None) for name in FEED_FORWARD]
    for target in TARGETS:
        for name, options, num_steps in models:
            problem = prepare_job(registry.build(name, **options), Wish(target), num_steps=num_steps).problem
            row = measured(problem, "rescale", 100)
            yield {"model": name, **options, "num_steps": num_steps, "target": target, **row}


def show(row: dict[str, Any]) -> None:
    """One line of a table."""
    size = f"{row['num_layers']} x {row['hidden_size']}"
    reached = "yes" if row["is_reached"] else f"no: {row['stop_reason']}"
    error = f"{row['largest_error']:.4f} +- {row['std_error']:.4f}"
    print(
        f"{row['model']:18} {size:9} {row['target']:5} {row['method']:9} {row['iterations']:5} "
        f"{row['seconds']:8.2f} s  {error}  {reached}",
        flush=True,
    )


def main(parts: list[str]) -> None:
    """Run the parts asked for; the other part of an earlier result is kept."""
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found |= {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"machine": platform.machine(), "cores": os.cpu_count()}
    for part in parts or ["compare", "table"]:
        rows: list[dict[str, Any]] = []
        for row in comparisons() if part == "compare" else table():
            show(row)
            rows.append(row)
            found[part] = rows
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
