"""Time until every radius is at its target: the table of models, and rescaling against gradient descent.

Run as `python benchmarks/pretrain.py [table] [compare] [hand] [pages]`. Rows that the results already have
are kept, so that an interrupted run goes on; `pages` writes docs/pretraining_table.md from them.
One thread; all methods start from the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from by_hand import adjacent, rescale_by_hand
from lsc_graph.models import registry

from lsc_graph.errors import LscGraphError
from lsc_graph.files import write_text
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.methods import fit
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.to_torch.surrogates import parse_surrogate

NOT_RUN = ("checkpoint.py", "pretrain_file.py", "pretrain_model.py", "reporting.py", "stabilize_module.py")
"""What handles files and modules around a fit, and takes no part in one."""

RESULTS = Path(__file__).parent / "results" / "pretrain.json"
PAGE = Path(__file__).parents[1] / "docs" / "pretraining_table.md"
PARTS = ("table", "compare", "hand", "pages")
METHODS = ("rescale", "both", "gradient", "paper")
BY_HAND = "by hand"
RECURRENT = ("tanh_rnn", "gru", "lstm", "alif_smooth", "lru")
FEED_FORWARD = ("feed_forward_sin", "feed_forward_relu", "feed_forward_cos")
TARGETS = {"half": 0.5, "sqrt": 0.5**0.5, "one": 1.0}
MAX_STEPS = 300
KEYS = ("part", "model", "num_layers", "hidden_size", "num_steps", "target", "method")
Case = dict[str, Any]


def cases(wanted: str) -> Iterator[Case]:
    """What is measured, the quickest first."""
    if wanted == "compare":
        sizes = [(name, 3, 32, 16, "half") for name in RECURRENT]
        sizes.insert(1, ("feed_forward_relu", 10, 64, None, "one"))
        sizes += [("tanh_rnn", 5, 128, 32, "half"), ("feed_forward_relu", 30, 128, None, "one")]
        for size in sizes:
            for method in METHODS:
                yield dict(zip(KEYS, (wanted, *size, method), strict=True))
        return
    if wanted == "hand":
        for name, layers in itertools.product(RECURRENT, (2, 5, 7)):
            for method in ("rescale", BY_HAND):
                yield dict(zip(KEYS, (wanted, name, layers, 128, 32, "half", method), strict=True))
        return
    sizes = [(name, 2, 128, 32) for name in RECURRENT[:4]]
    sizes += [(name, 30, 128, None) for name in FEED_FORWARD]
    sizes += [(name, None, None, 32) for name in registry.names() if name not in FEED_FORWARD]
    sizes += [(name, n, 128, 32) for n in (7, 5) for name in RECURRENT[:4]]
    sizes += [("lru", n, 128, 32) for n in (2, 5, 7)]
    for size in sizes:
        for target in TARGETS:
            yield dict(zip(KEYS, (wanted, *size, target, "rescale"), strict=True))


def problem_of(case: Case) -> Problem:
    """The model of a case, at the options that its row names."""
    options = {name: case[name] for name in ("num_layers", "hidden_size") if case[name] is not None}
    card = registry.card(case["model"], **options)
    has_length = not card.forms or card.num_steps is not None
    surrogate = parse_surrogate("fast-sigmoid" if case["model"] == "alif" else None)
    return prepare_job(
        registry.build(case["model"], **options),
        Wish(case["target"]),
        num_steps=None if has_length else case["num_steps"],
        surrogate=surrogate,
    ).problem


def measured(problem: Problem, case: Case, max_iterations: int) -> dict[str, Any]:
    """Seconds and iterations of one fit, and the largest error at points that it never saw."""
    wall, cpu = time.perf_counter(), time.process_time()
    values, method, only = as_trained(problem.weights), case["method"], None
    if method == BY_HAND:
        found = rescale_by_hand(problem, case["model"], values, max_iterations)
        only = adjacent(list(problem.reader.layers))
    else:
        found = fit(problem, method, values, max_iterations, lambda progress: None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    readings = problem.estimate(found.values, 987_654_321, problem.tolerance / 4, only)
    by_error = sorted(readings, key=lambda edge: -abs(readings[edge].mean - problem.targets[edge]))
    worst = readings[by_error[0]]
    reasons = [f"{' -> '.join(edge)}: {found.reasons[edge]}" for edge in by_error if edge in found.reasons]
    return {
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "iterations": found.iterations,
        "num_radii": len(readings),
        "largest_error": abs(worst.mean - problem.targets[worst.edge]),
        "std_error": worst.std_error,
        "is_reached": all(map(problem.is_reached, readings.values())),
        "stop_reason": found.stop_reason,
        "reasons": reasons,
    }


def code_state() -> str:
    """What the sources of pre-training are, by git: results of other states are marked on the page."""
    found = subprocess.run(
        ["git", "ls-tree", "HEAD:lsc_graph/pretraining"],
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    run = [line for line in found.stdout.splitlines() if line.split("\t")[1] not in NOT_RUN]
    return hashlib.sha1("\n".join(run).encode()).hexdigest()


def row_of(case: Case) -> dict[str, Any]:
    """A case with what was measured, or why nothing could be."""
    try:
        problem = problem_of(case)
        limit = MAX_STEPS if case["part"] == "compare" else 60
        return case | measured(problem, case, limit)
    except LscGraphError as error:
        return case | {"error": str(error)}


def name_of(row: dict[str, Any]) -> str:
    size = "" if row["num_layers"] is None else f" {row['num_layers']} x {row['hidden_size']}"
    return row["model"] + size


def outcome(row: dict[str, Any]) -> str:
    """Iterations, seconds of one core, and the largest error; or why not."""
    if "error" in row:
        return row["error"].splitlines()[0]
    numbers = f"{row['iterations']} it, {row['cpu_seconds']:.1f} s, {row['largest_error']:.3f}"
    if row["largest_error"] > 0.02:
        numbers += f" ± {row['std_error']:.3f}"
    if row["is_reached"]:
        return numbers
    first, *more = row["reasons"] or [row["stop_reason"]]
    return f"**{numbers}**: {first}" + (f" (and {len(more)} more)" if more else "")


def mark(row: dict[str, Any], head: dict[str, Any]) -> str:
    return "" if row.get("code") == head["code"] else " °"


def page(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Pre-training the reference models",
        "",
        "Made by `python benchmarks/pretrain.py`: iterations (each one set of derivatives, by which up to",
        "three steps are taken, six without recurrence), seconds of one core for the fit, and the",
        "largest error of any mean radius at points that the fit never saw, with its standard error where",
        "that is above 0.02. Recurrent models at T = 32, seed 0. What was not reached is in bold, with",
        "the reason. A degree sign marks what was measured with an earlier state of the code.",
        f"torch {head['torch']}, {head['machine']}, one thread.",
        "",
    ]
    lines += _table(rows, "table", "target", {name: f"{value:.4g}" for name, value in TARGETS.items()}, head)
    lines += [
        "",
        "The same models, weights and points by each method (`--method`), at most 300 iterations:",
        "",
    ]
    lines += _table(rows, "compare", "method", {name: name for name in METHODS}, head)
    lines += [
        "",
        "Against rescaling by hand (`benchmarks/by_hand.py`) at 0.5: someone knows the architecture, says",
        "which weight sets which radius, and multiplies by the ratios, until 8 points or running means say",
        "that all are within tolerance. It is for the radii in time and from one layer to the next: what LRU",
        "layers read of those further below (6 radii at 5 layers, 15 at 7) it leaves alone.",
        "",
    ]
    lines += _table(rows, "hand", "method", {name: name for name in ("rescale", BY_HAND)}, head)
    return "\n".join(lines) + "\n"


def _table(
    rows: list[dict[str, Any]], part: str, key: str, columns: dict[str, str], head: dict[str, Any]
) -> list[str]:
    """The models of a part, a line each; its columns by their values of a key, with their titles."""
    lines = ["| model | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    chosen = [row for row in rows if row["part"] == part]
    for name in dict.fromkeys(map(name_of, chosen)):
        own = {row[key]: outcome(row) + mark(row, head) for row in chosen if name_of(row) == name}
        lines.append(f"| {name} | " + " | ".join(own.get(column, "-") for column in columns) + " |")
    return lines


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """The cases of the parts asked for, as far as they are not left out."""
    found = [case for own in PARTS[:-1] if own in options.parts for case in cases(own)]
    found = [case for case in found if not options.target or case["target"] in options.target]
    return [case for case in found if not options.only or name_of(case) in options.only]


def main(options: argparse.Namespace) -> None:
    """Run the parts asked for."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if RESULTS.exists() and not options.fresh:
        rows = json.loads(RESULTS.read_text()).get("rows", [])
    head = {"python": platform.python_version(), "torch": torch.__version__}
    head |= {"machine": platform.machine(), "cores": os.cpu_count(), "code": code_state()}
    for case in chosen_cases(options):
        before = [row for row in rows if all(row[key] == case[key] for key in KEYS)]
        if before and (not options.stale or before[0].get("code") == head["code"]):
            continue
        row = row_of(case) | {"code": head["code"]}
        at = rows.index(before[0]) if before else len(rows)
        rows[at : at + 1] = [row]
        print(f"{name_of(case):28} {case['target']:5} {case['method']:9} {outcome(row)}", flush=True)
        write_text(RESULTS, json.dumps(head | {"rows": rows}, indent=1) + "\n")
    if "pages" in options.parts:
        measured_last = json.loads(RESULTS.read_text())["code"]
        write_text(PAGE, page(rows, head | {"code": measured_last}))


def part(text: str) -> str:
    """A part by its name."""
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(PARTS)}")
    return text


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", type=part, metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--stale", action="store_true", help="measure rows of other states of the code again")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    parser.add_argument("--only", action="append", metavar="NAME", help='such as "gru 7 x 128"; repeatable')
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="repeatable")
    options = parser.parse_args()
    options.parts = options.parts or PARTS
    return options


if __name__ == "__main__":
    main(parsed())
