"""Results as JSON: `docs/audit.schema.json` and `docs/paths.schema.json` describe it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from lsc_graph.path_results import PathReport
from lsc_graph.pretrain_results import PretrainReport
from lsc_graph.results import Analysis, Inspection, Rerolling


def to_json(result: Analysis | Inspection | PathReport | PretrainReport | Rerolling) -> str:
    """The result as indented JSON text; numbers that are not finite become null."""
    if isinstance(result, Rerolling):
        result = dataclasses.replace(result, model=None)
    return json.dumps(_plain(dataclasses.asdict(result)), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
