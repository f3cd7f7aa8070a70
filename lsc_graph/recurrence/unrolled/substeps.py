"""Steps that apply one weight several times, as those of ODE solvers: all these uses are one step.

What tells is the input: where every slice of a sequence is there for as many uses of a weight in a row, these
uses belong together. A step that was written as a loop is one step as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.unrolled.chains import MIN_STEPS, Chain, Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.sequence_chains import find_slices


class Substeps:
    """Chains of uses, cut down to one use for each step that the slices of sequences tell apart."""

    def __init__(self, order: Order, constants: Constants) -> None:
        self.order, self.constants = order, constants
        self._found: list[dict[ir.Value, int]] | None = None
        self._reversed: list[dict[ir.Value, int]] | None = None

    def first_uses(self, chain: Chain) -> Chain:
        """The chain, or every p-th of its uses where each slice is there for p of them."""
        if len(chain.nodes) < 2 * MIN_STEPS or chain.is_strided:
            return chain
        periods = [_first_uses(self._num_slices(chain.nodes, behind)) for behind in self.behind()]
        known = [uses for uses in periods if uses is not None]
        if not known or any(uses != known[0] for uses in known):
            return chain
        return Chain(chain.constant, tuple(chain.nodes[use] for use in known[0]), chain.is_sequence)

    def _num_slices(self, nodes: Iterable[ir.Node], behind: Mapping[ir.Value, int]) -> list[int]:
        return [behind.get(node.outputs[0], 0).bit_count() for node in nodes]

    def behind(self) -> list[dict[ir.Value, int]]:
        """For each sequence, the slices that every value is computed from, as bits."""
        if self._found is None:
            self._found = [
                self._spread({value: 1 << index for value, index in slices.items()})
                for _, slices in find_slices(self.order, self.constants)
            ]
        return self._found

    def behind_in_reverse(self) -> list[dict[ir.Value, int]]:
        """The same with the last slice of each sequence as the first bit."""
        if self._reversed is None:
            self._reversed = [_mirrored(behind) for behind in self.behind()]
        return self._reversed

    def _spread(self, behind: dict[ir.Value, int]) -> dict[ir.Value, int]:
        for node in self.order.nodes:
            union = reduce(or_, (behind.get(value, 0) for value in inputs_of(node)), 0)
            if union:
                for value in node.outputs:
                    behind.setdefault(value, union)
        return behind


def _mirrored(behind: Mapping[ir.Value, int]) -> dict[ir.Value, int]:
    width = max(mask.bit_length() for mask in behind.values())
    return {value: int(f"{mask:0{width}b}"[::-1], 2) for value, mask in behind.items()}


def _first_uses(num_slices: Sequence[int]) -> list[int] | None:
    """Which uses are the first ones of their step, by how many slices each depends on; None if that is open.

    The uses before the first slice and after the last one may be fewer, but not more.
    """
    steps = [k for k, (a, b) in enumerate(itertools.pairwise(num_slices), start=1) if b > a]
    lengths = {b - a for a, b in itertools.pairwise(steps)}
    if len(steps) < MIN_STEPS - 1 or len(lengths) != 1:
        return None
    (length,) = lengths
    if length == 1:
        return list(range(len(num_slices)))
    if steps[0] > length or len(num_slices) - steps[-1] > length:
        return None
    return [*([0] if steps[0] == length else []), *steps]
