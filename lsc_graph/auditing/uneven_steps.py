"""Written-out layers that take a step or two fewer than those that they read, or more."""

from __future__ import annotations

from collections.abc import Iterable

from lsc_graph.layers.cells import CellGraph, Layer
from lsc_graph.prepare import Prepared
from lsc_graph.results import Form

# A layer that loses a step at either end is as much shorter at most; others are meant to be.
_FEW = 2


def uneven_steps(prepared: Prepared, cells: CellGraph) -> tuple[str, ...]:
    """What the difference may mean, for every such pair that no warning of the finders names.

    Args:
        prepared: the model.
        cells: its layers with all edges between them.
    """
    said = prepared.findings.warnings
    sites = zip(prepared.findings.sites, prepared.cells, strict=True)
    written = {c.layer.id: c.layer for site, own in sites if site.form is Form.UNROLLED for c in own}
    pairs = dict.fromkeys((edge.source, edge.target) for edge in cells.depth_edges)
    return tuple(
        _words(cells, written[source], written[target])
        for source, target in pairs
        if source in written
        and target in written
        and 0 < abs(cells.steps_of(written[source]) - cells.steps_of(written[target])) <= _FEW
        and not any(_is_named(written[name], said) for name in (source, target))
    )


def _is_named(layer: Layer, said: Iterable[str]) -> bool:
    return any(name in words for words in said for name in (f"{layer.id} ", layer.name))


def _words(cells: CellGraph, source: Layer, target: Layer) -> str:
    shorter, longer = sorted((source, target), key=cells.steps_of)
    return (
        f"{shorter.id} ({shorter.name}) takes {cells.steps_of(shorter)} steps beside the "
        f"{cells.steps_of(longer)} of {longer.id}: if the file computes another step of it in another way, "
        "that one is in none of its numbers"
    )
