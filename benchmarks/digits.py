"""Does pre-training to a radius help training? Test accuracy on scikit-learn's digits, by initialisation.

Run as `python benchmarks/digits.py [--quick]`; writes benchmarks/results/digits.json after every run, goes on
from it, and prints the table. Needs the extras `dev` (scikit-learn, onnxscript). Nothing is tuned: one
learning rate, one number of epochs for all.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lsc_graph
from lsc_graph.errors import LscGraphError
from lsc_graph.files import write_text

RESULTS = Path(__file__).parent / "results" / "digits.json"
NUM_TEST = 397
INITIALISATIONS = ("default", "half", "sqrt", "one")
Split = tuple[Tensor, Tensor, Tensor, Tensor]


class Rows(nn.Module):
    """A stack of recurrent layers that reads an image row by row."""

    def __init__(self, kind: type[nn.RNNBase], depth: int = 5, width: int = 64) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, width, depth, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Cosine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(x)


def layers(activation: type[nn.Module], depth: int = 30, width: int = 128) -> nn.Module:
    """A feed-forward net that reads the whole image, still given as rows."""
    widths = [64] + [width] * depth
    hidden = [
        part for size, following in pairwise(widths) for part in (nn.Linear(size, following), activation())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "RNN 5x64": lambda: Rows(nn.RNN),
    "GRU 5x64": lambda: Rows(nn.GRU),
    "LSTM 5x64": lambda: Rows(nn.LSTM),
    "relu 30x128": lambda: layers(nn.ReLU),
    "sin 30x128": lambda: layers(Sine),
    "cos 30x128": lambda: layers(Cosine),
}


def digits(seed: int) -> Split:
    """Standardised images [N, 8, 8] and labels, split at random: training, then test."""
    data = load_digits()
    images = torch.tensor((data.images - data.images.mean()) / data.images.std(), dtype=torch.float32)
    labels = torch.tensor(data.target)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return images[train], labels[train], images[test], labels[test]


def train(module: nn.Module, split: Split, epochs: int, seed: int) -> float:
    """Adam with a clipped gradient; the accuracy on the test images after the last epoch, in percent."""
    images, labels, test_images, test_labels = split
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
    with torch.no_grad():
        return 100 * float((module(test_images).argmax(1) == test_labels).double().mean())


def run(model: str, initialisation: str, seed: int, epochs: int) -> dict[str, Any]:
    """One network: initialised, pre-trained if asked, trained."""
    torch.manual_seed(seed)
    module, split = MODELS[model](), digits(seed)
    found: dict[str, Any] = {"model": model, "initialisation": initialisation, "seed": seed, "epochs": epochs}
    start = time.perf_counter()
    if initialisation != "default":
        try:
            report = lsc_graph.stabilize(
                module, split[0][:1], initialisation, seed=seed, data=data_of(model, split)
            )
        except LscGraphError as error:
            return found | {"error": str(error)}
        found |= {
            "is_reached": report.is_reached,
            "iterations": report.iterations,
            "largest_error": max(abs(c.after.mean - c.target) for c in report.radii),
        }
    found["pretraining_seconds"] = time.perf_counter() - start
    start = time.perf_counter()
    found["accuracy"] = train(module, split, epochs, seed)
    return found | {"training_seconds": time.perf_counter() - start}


def data_of(model: str, split: Split) -> dict[str, np.ndarray]:
    """The training images, under the name that the exporter gives the model's input."""
    name = "x" if "x64" in model else "input"
    return {name: split[0][:, None].numpy()}


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Mean accuracy and standard deviation over seeds, as Markdown."""
    yield "| network | " + " | ".join(INITIALISATIONS) + " |"
    yield "|---" * (1 + len(INITIALISATIONS)) + "|"
    for model in MODELS:
        cells = []
        for initialisation in INITIALISATIONS:
            own = [r for r in results if (r["model"], r["initialisation"]) == (model, initialisation)]
            cells.append(cell([r["accuracy"] for r in own if "accuracy" in r]))
        yield f"| {model} | " + " | ".join(cells) + " |"


def cell(accuracies: list[float]) -> str:
    """Mean, standard deviation and number of seeds."""
    if not accuracies:
        return "-"
    spread = f" ± {np.std(accuracies, ddof=1):.1f}" if len(accuracies) > 1 else ""
    return f"{np.mean(accuracies):.1f}{spread} ({len(accuracies)})"


def machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


@click.command()
@click.option("--quick", is_flag=True, help="One seed, two networks, three epochs; nothing is written.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=30, show_default=True)
def main(quick: bool, seeds: int, epochs: int) -> None:
    """Make the table."""
    torch.set_num_threads(max(1, math.floor((os.cpu_count() or 2) / 2)))
    results: list[dict[str, Any]] = []
    if RESULTS.exists() and not quick:
        results = [r for r in json.loads(RESULTS.read_text())["runs"] if r["epochs"] == epochs]
    done = {(r["model"], r["initialisation"], r["seed"]) for r in results}
    names = ["RNN 5x64", "sin 30x128"] if quick else list(MODELS)
    for seed in range(1 if quick else seeds):
        for model in names:
            for initialisation in INITIALISATIONS:
                if (model, initialisation, seed) in done:
                    continue
                results.append(run(model, initialisation, seed, 3 if quick else epochs))
                click.echo(json.dumps(results[-1]))
                if not quick:
                    write_text(RESULTS, json.dumps({"machine": machine(), "runs": results}, indent=1) + "\n")
    click.echo("\n".join(table(results)))


if __name__ == "__main__":
    main()
