"""What a person says of steps that were written out: where they are cut apart, and what is no state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.errors import UsageError
from lsc_graph.recurrence.unrolled.phase import Choice

NO_STATE = "none"
"""VALUE:none says that a value is no state."""


@dataclass(frozen=True)
class Chosen:
    """Cuts between steps, and names of values that are computed again instead of handed on."""

    cuts: tuple[Choice, ...] = ()
    stateless: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """As they are given after --state."""
        cuts = (f"{cut.before}:{cut.after}" for cut in self.cuts)
        return (*cuts, *(f"{name}:{NO_STATE}" for name in self.stateless))


def told_by_hand(graph: ir.Graph, pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], Chosen]:
    """Pairs that speak of inputs and outputs, and what is chosen of unrolled steps."""
    computed = {str(value.name) for node in graph for value in node.outputs}
    streaming, cuts, stateless = [], [], []
    for before, after in pairs:
        if computed.issuperset((before, after)):
            cuts.append(Choice(before, after))
        elif after == NO_STATE and before in computed:
            stateless.append(before)
        else:
            streaming.append((before, after))
    return streaming, Chosen(tuple(cuts), tuple(stateless))


def check_made(chosen: Chosen, made: Iterable[Chosen]) -> None:
    """Refuse what no recurrence has taken up.

    Raises:
        UsageError: there is such a choice.
    """
    taken = {text for own in made for text in own.texts}
    for text in chosen.texts:
        if text not in taken:
            raise UsageError(
                "No unrolled recurrence computes what --state names",
                got=f"--state {text}",
                expected="a value that a step takes over, and one that the same step hands on, or none",
                do="see what `lsc-graph inspect` names as states",
            )
