"""Written-out layers that take a step or two fewer than those that they read, or more."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lsc_graph.layers.cells import CellGraph, Layer
from lsc_graph.prepare import Prepared
from lsc_graph.results import Form

# A layer that loses a step at either end is as much shorter at most; others are meant to be.
_FEW = 2


def uneven_steps(prepared: Prepared, cells: CellGraph) -> tuple[str, ...]:
    """What the difference may mean, unless a warning of the finders names the shorter layer.

    Args:
        prepared: the model.
        cells: its layers with all edges between them.
    """
    sites = zip(prepared.findings.sites, prepared.cells, strict=True)
    written = {c.layer.id: c.layer for site, own in sites if site.form is Form.UNROLLED for c in own}
    edges = dict.fromkeys((edge.source, edge.target) for edge in cells.depth_edges)
    pairs = [[written[name] for name in ends] for ends in edges if written.keys() >= set(ends)]
    found = (sorted(pair, key=cells.steps_of) for pair in pairs)
    return tuple(
        _words(cells, shorter, longer)
        for shorter, longer in found
        if 0 < cells.steps_of(longer) - cells.steps_of(shorter) <= _FEW
        and not _is_named(shorter, prepared.findings.warnings)
    )


def _is_named(layer: Layer, said: Iterable[str]) -> bool:
    """Whether its name stands in any of the texts, and not as a part of another one."""
    name = re.compile(rf"(?<![\w./]){re.escape(layer.name)}(?![\w./])")
    return any(name.search(words) for words in said)


def _words(cells: CellGraph, shorter: Layer, longer: Layer) -> str:
    return (
        f"{shorter.id} ({shorter.name}) takes {cells.steps_of(shorter)} steps beside the "
        f"{cells.steps_of(longer)} of {longer.id}: if the file computes another step of it in another way, "
        "that one is in none of its numbers"
    )
