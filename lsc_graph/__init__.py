"""lsc-graph: will the gradients of this ONNX model survive depth and time?

`lsc_graph.audit(model)` measures, `lsc_graph.inspect(model)` only looks, `lsc_graph.reroll(model, output)`
rewrites unrolled recurrences as loops. All are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from lsc_graph import errors, results

__all__ = ["audit", "errors", "inspect", "reroll", "results"]


def audit(*arguments: Any, **options: Any) -> results.Analysis:
    """Whether a model's gradients survive its depth and time: see `lsc_graph.audit_model.audit`."""
    found: results.Analysis = importlib.import_module("lsc_graph.audit_model").audit(*arguments, **options)
    return found


def inspect(*arguments: Any, **options: Any) -> results.Inspection:
    """What `audit` would analyse: see `lsc_graph.audit_model.inspect`."""
    module = importlib.import_module("lsc_graph.audit_model")
    found: results.Inspection = module.inspect(*arguments, **options)
    return found


def reroll(*arguments: Any, **options: Any) -> results.Rerolling:
    """Rewrite unrolled recurrences as loops: see `lsc_graph.rerolling.reroll`."""
    module = importlib.import_module("lsc_graph.rerolling")
    found: results.Rerolling = module.reroll(*arguments, **options)
    return found
