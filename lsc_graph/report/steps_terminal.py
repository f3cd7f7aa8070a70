"""What the terminal says of the step of a recurrence: its nodes by kind or one by one, and what it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lsc_graph.results import Recurrence


def step_lines(found: Recurrence, *, is_verbose: bool) -> Iterator[str]:
    """How many nodes of which kind, from which to which (or all of them), and the trained tensors."""
    kinds = Counter(node.op_type for node in found.nodes)
    words = ", ".join(f"{kind} {count}" if count > 1 else kind for kind, count in sorted(kinds.items()))
    ends = f"; from {found.nodes[0].name} to {found.nodes[-1].name}" if found.nodes else ""
    yield f"{found.num_nodes} nodes a step: {words}{'' if is_verbose else ends}"
    if is_verbose:
        yield from (f"  {node.op_type} {node.name}" for node in found.nodes)
    yield f"trains {', '.join(found.weights) or 'none'}"
