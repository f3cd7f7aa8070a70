"""Small pre-training problems for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from lsc_graph.models.registry import build

from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming, measured_model
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare
from lsc_graph.pretraining.points import Points
from lsc_graph.pretraining.problem import Effort, Problem
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.trainable import choose


def prepared_model(model: str | onnx.ModelProto, num_steps: int | None = 8, **options: Any) -> Prepared:
    proto = build(model, **options) if isinstance(model, str) else model
    return prepare(proto, Request(num_steps, {}, {}, (), {}))


def reader_of(prepared: Prepared) -> Reader:
    view = measured_model(prepared, "cpu", torch.Generator().manual_seed(0))
    assert isinstance(view, Sequences | Streaming | FeedForward)
    return Reader(view, torch.Generator().manual_seed(0))


def problem_of(
    model: str | onnx.ModelProto,
    target: float | Mapping[tuple[str, str], float] = 0.5,
    *,
    num_steps: int | None = 8,
    effort: Effort | None = None,
    **options: Any,
) -> Problem:
    prepared = prepared_model(model, num_steps, **options)
    reader, points = reader_of(prepared), Points(prepared, {})
    looks = list(enumerate(points.draw(0, 1)))
    edges = [r.edge for r in reader.read({}, looks, 4, 0, with_derivative=False)]
    targets = target if isinstance(target, Mapping) else dict.fromkeys(edges, target)
    weights = choose(prepared, reader.model.parameters).weights
    return Problem(reader, weights, targets, points.draw, 0.02, 0, effort or Effort())
