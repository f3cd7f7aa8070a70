"""Spectral radii of local Jacobians: the default choice against vmap(jacrev) and all eigenvalues, in one run.

Run as `python benchmarks/radii.py`; prints a line for each cell, size and kind of spectrum, and writes
benchmarks/results/radii.json as it goes. Ours takes as many points as an audit does by default; the
baseline, whose time is the same for each of them, as many of these as it can in some seconds. Times are
seconds of processor time on one thread, which other programs on the machine hardly touch. The baseline's
eigenvalues are taken in double precision, which is the reference of the error, and for random weights and up
to size 512 in single precision too, that of the Jacobians. Memory is what each way takes beyond what the
process held before; of the baseline that of the Jacobians alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from lsc_graph.models import registry

from lsc_graph import to_torch
from lsc_graph.auditing.measure import Sequences
from lsc_graph.jacobians.cell import cell_points, chosen_points, flatten
from lsc_graph.jacobians.cell_radius import time_radii
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.results import Form
from lsc_graph.running.sampling import make_samples
from lsc_graph.spectra.estimate import Estimate
from lsc_graph.to_torch.loop import CellModule, Trajectory

RESULTS = Path(__file__).parent / "results" / "radii.json"
PAGE = Path(__file__).parents[1] / "docs" / "radii.md"
HEAD = """# Spectral radii: the default choice against all eigenvalues

Made by `python benchmarks/radii.py --page`. In each cell: how many times faster a point takes than by
`vmap(jacrev)` and `torch.linalg.eigvals` in double precision (in brackets: in single precision); the error
of the mean, and the largest error of any one point, in thousandths; in bold: points that did not converge.
Those of `slstm` at 64 have eigenvalues of condition numbers from 10^3 to 10^4 and norms of some 80, so that
single precision of the elements leaves their radii unknown. Processor time of one thread.

Ours takes {ours} points in each row, as many as an audit takes from a sample by default. One of
each kind and the worst conditioned one are confirmed, from 768 rows on by both eigenvectors, or else by their
powers. The baseline takes {few},
spread evenly over them, since all eigenvalues of one matrix of 2048 take some seconds; errors are those at
these points. With fewer points of ours, what is done once for all of them weighs more. What takes less than
half a second is taken up to ten times, and the least counts, on either side. All rows were measured beside
other programs on the same two cores.

"""
# Elements of the state for each unit of the width.
STATES = {"tanh_rnn": 1, "gru": 1, "lstm": 2, "lru": 2, "alif_smooth": 3, "slstm": 4, "selective_ssm": 4}
FUSED = ("tanh_rnn", "gru", "lstm")
DIAGONAL = ("lru", "selective_ssm")
KINDS = ("random", "orthogonal", "trained", "non-normal", "clustered")
# Diagonal recurrences have no recurrent matrix; what decides their spectrum are options.
RINGS = {"orthogonal": {"r_min": 0.8999, "r_max": 0.9}, "clustered": {"r_min": 0.99, "r_max": 0.9999}}
NUM_LAYERS, DELAY, BATCH = 2, 4, 4
# Points of each row: an audit's default number of steps.
NUM_POINTS = 32
# How many of them the baseline takes, up to a size, and how many with random weights.
BASELINE_POINTS = {256: (32, 32), 512: (8, 16), 1024: (4, 8), 10**6: (2, 2)}
# Below this size both ways take less memory than a process does by the way.
SMALLEST_MEASURED = 256
# Seconds that are too short to be taken once, and how often these are taken at most.
SHORT, MOST_TIMES = 0.5, 10
# What the reference itself may be off by.
ROUNDING = 1e-6
# Up to this size the baseline is run in both precisions for every kind of spectrum.
LARGEST_TWICE = 512
Row = dict[str, Any]


def baseline_points(size: int, kind: str) -> torch.Tensor:
    """The numbers of the points that the baseline takes: spread evenly, as the trajectory has a start."""
    few, many = next(counts for most, counts in BASELINE_POINTS.items() if size <= most)
    count = many if kind == "random" else few
    return ((torch.arange(count) + 0.5) * NUM_POINTS / count).long()


def is_single_measured(size: int, kind: str) -> bool:
    """Whether the baseline is run in single precision as well."""
    return kind == "random" or size <= LARGEST_TWICE


def build(name: str, size: int, kind: str) -> onnx.ModelProto | None:
    """A reference model of about that state size; None where it has no spectrum of that kind."""
    options: dict[str, object] = {"hidden_size": max(1, size // STATES[name]), "num_layers": NUM_LAYERS}
    if name not in FUSED:
        options["form"] = Form.SCAN
    if name in DIAGONAL and kind not in ("random", "trained"):
        if name != "lru" or kind not in RINGS:
            return None
        return registry.build(name, **options, **RINGS[kind])
    model = registry.build(name, **options)
    if kind == "trained":
        return trained(model, size)
    if kind != "random":
        for tensor in model.graph.initializer:
            if tensor.name.endswith(("weight_hh", "weight_rec")):
                tensor.CopyFrom(onnx.numpy_helper.from_array(recurrent(tensor, kind), tensor.name))
    return model


def recurrent(tensor: onnx.TensorProto, kind: str) -> np.ndarray:
    """A recurrent weight [..., G H, H] whose blocks [H, H] have spectra of a kind."""
    generator = torch.Generator().manual_seed(len(tensor.name))
    width = tensor.dims[-1]
    count = int(np.prod(tensor.dims)) // width**2
    blocks = [BLOCKS[kind](generator, width) for _ in range(count)]
    return torch.cat(blocks).reshape(*tensor.dims).float().numpy()


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _orthogonal(generator: torch.Generator, width: int) -> torch.Tensor:
    return torch.linalg.qr(_normal(generator, width, width))[0]


def _non_normal(generator: torch.Generator, width: int) -> torch.Tensor:
    """Powers grow a hundredfold before they decay."""
    values = 0.9 * torch.rand(width, generator=generator, dtype=torch.float64)
    upper = torch.triu(_normal(generator, width, width), 1) * 0.15 / width**0.5
    basis = _orthogonal(generator, width)
    return basis @ (torch.diag(values) + upper) @ basis.T


def _clustered(generator: torch.Generator, width: int) -> torch.Tensor:
    """Real eigenvalues that crowd at 1, in a basis that is not orthogonal."""
    values = torch.rand(width, generator=generator, dtype=torch.float64) ** 0.1
    basis = _normal(generator, width, width) / width**0.5 + 2 * torch.eye(width, dtype=torch.float64)
    return basis @ torch.diag(values) @ torch.linalg.inv(basis)


BLOCKS: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "orthogonal": _orthogonal,
    "non-normal": _non_normal,
    "clustered": _clustered,
}


def trained(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The model after some steps of Adam on repeating its input after a delay."""
    torch.manual_seed(0)
    module = to_torch(model)
    parameters = [own for own in module.parameters() if own.requires_grad]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    x_size, *others = [[dim.dim_value for dim in own.type.tensor_type.shape.dim] for own in model.graph.input]
    width = x_size[-1]
    starts = [torch.zeros(dims[0], BATCH, dims[-1]) for dims in others]
    for _ in range(max(15, 6_400 // size)):
        x = torch.randn(3 * DELAY, BATCH, width)
        outputs = module(x, *starts)
        y = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        y = y.reshape(*y.shape[:1], BATCH, -1)[..., :width]
        loss = (y[DELAY:] - x[:-DELAY, :, : y.shape[-1]]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    return model


def cell_of(model: onnx.ModelProto, count: int) -> tuple[CellModule, Trajectory]:
    """The top layer of a model, and a trajectory of so many steps through it."""
    prepared = prepare(model, Request(count, {}, {}, (), {}))
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=[],
        num_steps=None,
        num_samples=1,
        seed=0,
    )
    with torch.no_grad():
        view = Sequences(prepared, "cpu", torch.Generator().manual_seed(0))
        trajectory = view.run(sample).trajectories[-1]
    module = view.program.sites[-1].cells[-1]
    assert isinstance(module, CellModule)
    return module, trajectory


def jacobians(module: CellModule, trajectory: Trajectory, numbers: torch.Tensor) -> torch.Tensor:
    """The baseline's at some of the points: vmap(jacrev)."""
    points = chosen_points(cell_points(module, trajectory), numbers)
    own = tuple(module.reads.index(("before", state.name)) for state in module.cell.layer.states)
    jacobian = torch.func.jacrev(lambda *values: flatten(module(*values)), argnums=own)
    parts = torch.func.vmap(jacobian)(*points)
    return torch.cat([part.flatten(2) for part in parts], 2)


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, the least of several where they are short, and what came out."""
    spent: list[float] = []
    while not spent or (sum(spent) < SHORT and len(spent) < MOST_TIMES):
        start = time.process_time()
        found = function()
        spent.append(time.process_time() - start)
    return min(spent), found


def cost_of(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor time, MiB beyond what was held before, and what came out."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed is not to be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    seconds, found = seconds_of(function)
    return seconds, round(status_mib("VmHWM") - before, 1), found


def measure(name: str, size: int, kind: str) -> Row | None:
    """Both ways on the same points."""
    model = build(name, size, kind)
    if model is None:
        return None
    warm_up(name)
    module, trajectory = cell_of(model, NUM_POINTS)
    del model
    numbers = baseline_points(size, kind)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ours, our_mib, found = cost_of(lambda: time_radii(module, trajectory, generator))
        assembly, baseline_mib, matrices = cost_of(lambda: jacobians(module, trajectory, numbers))
        double, exact = seconds_of(lambda: torch.linalg.eigvals(matrices.double()).abs().amax(1))
        single = None
        if is_single_measured(size, kind):
            single, _ = seconds_of(lambda: torch.linalg.eigvals(matrices).abs().amax(1))
    each, few = ours / len(found), len(numbers)
    row: Row = {
        "cell": name,
        "size": size,
        "state_size": module.cell.layer.state_size,
        "spectrum": kind,
        "num_points": len(found),
        "num_converged": int(found.converged.sum()),
        "num_baseline_points": few,
        "mean_radius": round(float(exact.mean()), 6),
        **errors(found.at(numbers), exact),
        "methods": found.counts(),
        "ours_seconds": round(ours, 4),
        "baseline_seconds": round(assembly + double, 4),
        "ratio": round((assembly + double) / few / each, 1),
    }
    if single is not None:
        row["single_baseline_seconds"] = round(assembly + single, 4)
        row["single_ratio"] = round((assembly + single) / few / each, 1)
    if size >= SMALLEST_MEASURED:
        row |= {"ours_mib": our_mib, "baseline_mib": baseline_mib}
    return row


def errors(found: Estimate, exact: torch.Tensor) -> Row:
    """Over the points that converged: the others count as unknown."""
    kept = found.converged
    if not bool(kept.any()):
        return dict.fromkeys(("error_of_mean", "largest_error", "largest_error_claimed"))
    off = (found.values / exact - 1).abs()
    return {
        "num_under_claimed": int((kept & (off > found.errors + ROUNDING)).sum()),
        "error_of_mean": float(found.values[kept].mean() / exact[kept].mean() - 1),
        "largest_error": float(off[kept].max()),
        "largest_error_claimed": float(found.errors[kept].max()),
    }


def warm_up(name: str) -> None:
    """What is only done once in a process."""
    torch.set_num_threads(1)
    module, trajectory = cell_of(
        registry.build(name, hidden_size=64, **({} if name in FUSED else {"form": Form.SCAN})), 8
    )
    with torch.no_grad():
        time_radii(module, trajectory, torch.Generator().manual_seed(0))
        torch.linalg.eigvals(jacobians(module, trajectory, torch.arange(2)))


def status_mib(key: str) -> float:
    """What Linux says of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1024


def describe(row: Row) -> str:
    """One line."""
    error = "none" if row["error_of_mean"] is None else format(row["error_of_mean"], "+.1e")
    parts = [
        f"{row['cell']:13} n={row['state_size']:5} {row['spectrum']:10}: {row['ratio']:6}x",
        f"error of the mean {error}, {row['num_converged']} of {row['num_points']} converged",
        str(row["methods"]),
    ]
    if "single_ratio" in row:
        parts[1:1] = [f"{row['single_ratio']}x single"]
    if "ours_mib" in row:
        parts += [f"MiB {row['ours_mib']} against {row['baseline_mib']}"]
    return ", ".join(parts)


def page(machine: Row, rows: list[Row]) -> str:
    """The results as a page of tables, one for each kind of spectrum, and one of memory."""
    sizes = sorted({row["size"] for row in rows})
    few = [f"{len(baseline_points(size, 'trained'))} at {size}" for size in sizes]
    head = HEAD.format(ours=NUM_POINTS, few=", ".join(few) + " (more with random weights)")
    lines = [head + f"torch {machine['torch']}, {machine['processor']}. {states(rows)}", "", *summary(rows)]
    for kind in KINDS:
        lines += [
            "",
            f"## {kind.capitalize()}",
            "",
            *_table(sizes, [r for r in rows if r["spectrum"] == kind], _cell),
        ]
    words = (
        "MiB that the process takes on top: ours, the most of all spectra, for all points, against the least "
        "that the\nbaseline takes for the Jacobians of its few points alone, in single precision."
    )
    lines += ["", "## Memory", "", words, "", *_table(sizes, memory(rows), _memory)]
    return "\n".join(lines) + "\n"


def summary(rows: list[Row]) -> list[str]:
    """What holds for all rows: the least gain for each size, errors, claims, memory."""
    lines = ["| size | rows | least gain | largest error of a mean | of a point |", "|---|---|---|---|---|"]
    for size in sorted({row["size"] for row in rows}):
        own = [row for row in rows if row["size"] == size and row["error_of_mean"] is not None]
        least = min(own, key=lambda row: row["ratio"])
        worst = [max(abs(row[key]) for row in own) for key in ("error_of_mean", "largest_error")]
        gain = f"{least['ratio']}x ({least['cell']}, {least['spectrum']})"
        lines.append(f"| {size} | {len(own)} | {gain} | {100 * worst[0]:.2f} % | {100 * worst[1]:.2f} % |")
    compared = sum(row["num_baseline_points"] for row in rows)
    under = sum(row.get("num_under_claimed", 0) for row in rows)
    more = [row for row in rows if row.get("ours_mib", 0) >= row.get("baseline_mib", 1)]
    words = ", ".join(f"{row['cell']} {row['size']} {row['spectrum']}" for row in more) or "none"
    return [
        *lines,
        "",
        f"Of {compared} points whose eigenvalues were computed, {under} were off by more than the estimate "
        f"claimed.\nRows in which ours took as much memory as the baseline, or more: {words}. "
        f"Spectra of which rows are missing: {missing(rows)}.",
    ]


def missing(rows: list[Row]) -> str:
    """Kinds of spectra that rows are missing of, by size."""
    sizes = sorted({row["size"] for row in rows})
    found = {(row["cell"], row["size"], row["spectrum"]) for row in rows}
    lacking = [
        f"{kind} at {size}"
        for size in sizes
        for kind in KINDS
        if any((name, size, kind) not in found for name in STATES if name not in DIAGONAL)
    ]
    return ", ".join(lacking) or "none"


def memory(rows: list[Row]) -> list[Row]:
    """For each cell and size the most that ours took, and the least that the baseline did."""
    found: dict[tuple[str, int], Row] = {}
    for row in rows:
        if "ours_mib" not in row:
            continue
        own = found.setdefault((row["cell"], row["size"]), {**row})
        own["ours_mib"] = max(own["ours_mib"], row["ours_mib"])
        own["baseline_mib"] = min(own["baseline_mib"], row["baseline_mib"])
    return list(found.values())


def code_state() -> str | None:
    """The commit that is checked out; None where that is not known or files differ from it."""
    here = Path(__file__).parent
    try:
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if changed else found.stdout.strip()


def states(rows: list[Row]) -> str:
    """Which rows were measured with which state of the code; kinds of spectra where a size has several."""
    groups: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        state = row.get("code")
        sizes = groups.setdefault(f"commit {state}" if state else "earlier states", {})
        sizes.setdefault(row["size"], []).append(row)
    parts = [
        f"{name}: " + ", ".join(_measured(size, own, rows) for size, own in sorted(sizes.items()))
        for name, sizes in groups.items()
    ]
    return "Measured with " + "; ".join(parts) + "."


def _measured(size: int, own: list[Row], rows: list[Row]) -> str:
    """A size, and which of its rows, where these are not all: those that lack, if fewer."""
    others = [row for row in rows if row["size"] == size and row not in own]
    if not others:
        return str(size)
    fewer, word = (others, "all but ") if len(others) < len(own) else (own, "")
    kinds: dict[str, list[str]] = {}
    for row in fewer:
        kinds.setdefault(row["spectrum"], []).append(row["cell"])
    return f"{size} ({word}" + ", ".join(f"{kind}: {' '.join(cells)}" for kind, cells in kinds.items()) + ")"


def _table(sizes: list[int], rows: list[Row], show: Callable[[Row], str]) -> list[str]:
    found = {(row["cell"], row["size"]): row for row in rows}
    sizes = [size for size in sizes if any(row["size"] == size for row in rows)]
    lines = ["| | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in STATES:
        cells = [show(found[name, size]) if (name, size) in found else "" for size in sizes]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: Row) -> str:
    single = f" ({row['single_ratio']}x)" if "single_ratio" in row else ""
    lost = row["num_points"] - row["num_converged"]
    words = f"; **{lost} of {row['num_points']}**" if lost else ""
    if row["error_of_mean"] is None:
        return f"{row['ratio']}x{single}{words}"
    errors = f"{1e3 * row['error_of_mean']:+.2f}, {1e3 * row['largest_error']:.2f}"
    return f"{row['ratio']}x{single}; {errors}{words}"


def _memory(row: Row) -> str:
    return f"{row['ours_mib']:.0f} : {row['baseline_mib']:.0f}"


def main() -> None:
    """Measure, print and write row by row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="64,128,256,512,1024,2048")
    parser.add_argument("--cells", default=",".join(STATES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--resume", action="store_true", help="keep the rows of the output file")
    parser.add_argument("--page", action="store_true", help="only write docs/radii.md from the output file")
    arguments = parser.parse_args()
    if arguments.page:
        known = json.loads(arguments.output.read_text())
        PAGE.write_text(page(known["machine"], known["cells"]))
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    machine = {
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
        "num_threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "baseline": "vmap(jacrev) in float32, torch.linalg.eigvals in float64 (single: in float32)",
        "seconds": "processor time",
    }
    state = code_state()
    rows: list[Row] = []
    if arguments.resume and arguments.output.exists():
        rows = json.loads(arguments.output.read_text())["cells"]
    done = {(row["cell"], row["size"], row["spectrum"]) for row in rows}
    for size in (int(size) for size in arguments.sizes.split(",")):
        for kind in arguments.kinds.split(","):
            for name in arguments.cells.split(","):
                row = None if (name, size, kind) in done else measure(name, size, kind)
                if row is None:
                    continue
                rows.append({**row, "code": state})
                print(describe(row), flush=True)
                arguments.output.parent.mkdir(exist_ok=True)
                arguments.output.write_text(json.dumps({"machine": machine, "cells": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
