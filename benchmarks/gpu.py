"""A CUDA device against the CPU: every estimator of spectral radii by size, and whole audits and fits.

Run as `python benchmarks/gpu.py` on a machine with CUDA; it prints a table and writes its result with the
device's name to benchmarks/results/gpu.json, and docs/gpu.md from it (`--page`: only that). Where the
fastest method of a size is not the one that is chosen there, the line says what is chosen;
lsc_graph/spectra/choose.py has the crossovers.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lsc_graph.models.registry import build, card

from lsc_graph.audit_model import audit
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.spectra.choose import cascade, radius_estimate
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu.json"
PAGE = ROOT / "docs" / "gpu.md"
Result = TypeVar("Result")
METHODS = (Method.DENSE, Method.SQUARING, Method.POWERS, Method.ARNOLDI, Method.AUTO)
# Dense eigenvalues of larger matrices take minutes.
MAX_DENSE = 2048
REPEATS, ENOUGH_SECONDS = 5, 2.0
STEPS = 32
# By torch's own eigenvalues where the matrices are, with which the host waits more than once.
THERE = "eigvals there"
# All of them on the host, one matrix after another, as an earlier state did it.
ONE_BY_ONE = "dense, one by one"
# Reference models as whole: (name, options, whether it is pre-trained to 0.5 too).
WHOLE: list[tuple[str, dict[str, object], bool]] = [
    ("lstm", {"hidden_size": 16}, True),
    ("lstm", {"hidden_size": 128}, True),
    ("lstm", {"hidden_size": 512}, False),
    ("tanh_rnn", {"num_layers": 7, "hidden_size": 128}, True),
    ("tanh_rnn", {"num_layers": 2, "hidden_size": 1024}, False),
    ("feed_forward_relu", {}, True),
]


def seconds_of(function: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """The shortest of a few runs, the device's queue empty before and after; one is enough if it is long."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < ENOUGH_SECONDS:
        synchronise(device)
        start = time.perf_counter()
        found = function()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times), found


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrices_of(size: int, num_points: int) -> torch.Tensor:
    """diag * W + diag, as gated cells have it, in single precision."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    gates = torch.sigmoid(torch.randn(2, num_points, size, generator=generator, dtype=torch.float64))
    found: torch.Tensor = (0.5 * gates[0][:, :, None] * weights + torch.diag_embed(0.9 * gates[1])).float()
    return found


def eigenvalues_there(matrices: torch.Tensor) -> Estimate:
    """By all eigenvalues on the device that matrices are on, without errors."""
    radii = torch.linalg.eigvals(matrices.double()).abs().amax(1)
    return Estimate.of(Method.DENSE, radii, torch.zeros_like(radii), tolerance=TOLERANCE)


def compare(size: int, num_points: int, devices: list[torch.device]) -> list[dict[str, object]]:
    """Every method on every device, on the same matrices."""
    matrices = matrices_of(size, num_points)
    rows: list[dict[str, object]] = []
    for device in devices:
        here = matrices.to(device)
        methods: dict[str, Callable[[], Estimate]] = {
            method.value: partial(radius_estimate, here, method)
            for method in METHODS
            if method is not Method.DENSE or size <= MAX_DENSE
        }
        if device.type != "cpu" and Method.DENSE.value in methods:
            methods[THERE] = partial(eigenvalues_there, here)
        for method, run in methods.items():
            seconds, found = seconds_of(run, device)
            rows.append(
                {
                    "size": size,
                    "num_points": num_points,
                    "device": device.type,
                    "method": method,
                    "seconds": round(seconds, 5),
                    "mean": float(found.values.mean()),
                    "num_converged": int(found.converged.sum()),
                }
            )
    return rows


def compare_whole(device: torch.device) -> Iterator[dict[str, object]]:
    """Seconds of an audit and of a fit to 0.5, on both devices."""
    for name, options, is_trained in WHOLE:
        model = build(name, **options)
        steps = STEPS if card(name).forms else None
        tasks: dict[str, Callable[..., object]] = {"audit": partial(audit, model, num_steps=steps)}
        if is_trained:
            tasks["pretrain"] = partial(pretrain, model, target="half", num_steps=steps)
        for task, run in tasks.items():
            row: dict[str, object] = {"model": name, **options, "task": task}
            for where in dict.fromkeys((device.type, "cpu")):
                seconds, _ = seconds_of(partial(run, device=where), device)
                row[f"{where}_seconds"] = round(seconds, 3)
            yield row


def describe(rows: list[dict[str, object]]) -> str:
    """One line for a size: each device's fastest method, and the choice where it is another."""
    parts = []
    for device in dict.fromkeys(str(row["device"]) for row in rows):
        own = [row for row in rows if row["device"] == device and row["method"] != Method.AUTO.value]
        done = [row for row in own if row["num_converged"] == row["num_points"]] or own
        best = min(done, key=lambda row: float(str(row["seconds"])))
        chosen = cascade(int(str(best["size"])), device)[0]
        times = ", ".join(f"{row['method']} {row['seconds']} s" for row in own)
        note = "" if chosen.value == best["method"] else f" (chosen: {chosen.value})"
        parts.append(f"{device}: {times}{note}")
    return f"n={rows[0]['size']}, {rows[0]['num_points']} points; " + "; ".join(parts)


def page(result: dict[str, Any]) -> str:
    """The result as a page of documentation."""
    machine, found = result["machine"], result["rows"]
    methods = list(dict.fromkeys((row["device"], row["method"]) for row in found))
    methods.sort(key=lambda own: own[0] != "cuda")
    lines = [
        "# On a GPU",
        "",
        f"Made by `python benchmarks/gpu.py` on one {machine['device']}, CUDA {machine['cuda']}, torch",
        f"{machine['torch']}, and {machine['num_cpu_threads']} cores of its host. Milliseconds for all",
        "points; matrices diag * W + diag in single precision, already where they are worked on.",
        "",
        "| n x points | " + " | ".join(f"{device}: {method}" for device, method in methods) + " |",
        "|" + "---|" * (len(methods) + 1),
    ]
    for size, count in dict.fromkeys((row["size"], row["num_points"]) for row in found):
        own = {(row["device"], row["method"]): row["seconds"] for row in found if row["size"] == size}
        cells = (f"{1000 * own[key]:.3g}" if key in own else "-" for key in methods)
        lines.append(f"| {size} x {count} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Which method is chosen follows from this (`lsc_graph/spectra/choose.py`, `eigenvalues.py`).",
        "",
        *textwrap.wrap(_waits(found), 110),
        "",
        f"Whole audits of four samples and fits to 0.5, T = {STEPS}, in seconds:",
        "",
        "Narrow models are many small operations, where a GPU gains nothing; `--device cpu` takes the CPU.",
        "",
        "| model | task | CUDA | CPU |",
        "|---|---|---|---|",
    ]
    for row in result["whole"]:
        sizes = ", ".join(f"{key} {row[key]}" for key in ("num_layers", "hidden_size") if key in row)
        name = f"{row['model']} {sizes}".strip()
        lines.append(f"| {name} | {row['task']} | {row['cuda_seconds']} | {row['cpu_seconds']} |")
    return "\n".join(lines) + "\n"


def _waits(found: list[dict[str, Any]]) -> str:
    """How often the host waits for the device, and where eigenvalues are computed."""
    seconds = {(row["method"], row["size"]): row["seconds"] for row in found if row["device"] == "cuda"}

    def ratios(method: str) -> str:
        sizes = sorted(size for name, size in seconds if name == method and (THERE, size) in seconds)
        times = (seconds[method, size] / seconds[THERE, size] for size in sizes)
        return ", ".join(f"{ratio:.1f} at {size}" for size, ratio in zip(sizes, times, strict=True))

    here = ratios(Method.DENSE.value)
    if here:
        told = f"Here they take so many times as long as on the device: {here} rows."
    else:
        told = (
            "All that is on this page was measured before they were, when they took so many times as long on "
            f"the host, one by one, as on the device: {ratios(ONE_BY_ONE)} rows. Two threads take half of "
            "the time of one; what 16 threads take was not measured. Fewer large matrices than that ratio "
            "take longer so than on the device."
        )
    return (
        "Every estimator makes the host wait once for a batch, as is counted on a stand-in for a device "
        "(`tests/spectra/test_choose_waits.py`). All eigenvalues are therefore computed on the host, several "
        "matrices at once: torch.linalg.eigvals on CUDA takes one matrix after another and makes the host "
        f"wait three times. {told} The default choice comes to all eigenvalues only where matrices are "
        "small, or nothing else has converged."
    )


def main() -> int:
    """Compare over sizes, and write the result; without CUDA there is nothing to compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="8,16,32,64,128,256,512,1024,2048")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="only write the page from the last result")
    arguments = parser.parse_args()
    if arguments.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text())))
        return 0
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing was measured", file=sys.stderr)
        return 2
    devices = list(dict.fromkeys([device, torch.device("cpu")]))
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cuda": torch.version.cuda,
        "num_cpu_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    rows: list[dict[str, object]] = []
    for size in (int(size) for size in arguments.sizes.split(",")):
        found = compare(size, 32 if size <= 256 else 8 if size <= 1024 else 4, devices)
        rows += found
        print(describe(found), flush=True)
    whole = []
    for row in compare_whole(device):
        whole.append(row)
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
    if device.type == "cuda":
        result = {"machine": machine, "rows": rows, "whole": whole}
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
        PAGE.write_text(page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
