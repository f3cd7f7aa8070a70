"""A piece for ONNX Runtime in parts that share no input: what depends on none has no derivative to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor, nn

from lsc_graph.recurrence.dataflow import inputs_of

_NOTHING: frozenset[int] = frozenset()
_MOVES = frozenset(("Concat", "Constant", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"))
_MOVES |= {"Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Group:
    """Outputs of a piece by their numbers, and the numbers of the inputs that they depend on."""

    outputs: tuple[int, ...]
    inputs: frozenset[int]

    def with_(self, others: Sequence[Group]) -> Group:
        """One group of several."""
        outputs = [*self.outputs, *(number for own in others for number in own.outputs)]
        return Group(tuple(sorted(outputs)), self.inputs.union(*(own.inputs for own in others)))

    def meets(self, other: Group) -> bool:
        """Whether they share an input, or depend on none."""
        return bool(self.inputs & other.inputs) or not (self.inputs or other.inputs)


class Parts(nn.Module):
    """Outputs of several modules of the same inputs, in the order of the whole.

    Args:
        modules: the parts.
        numbers: of each part, which outputs of the whole its own are.
    """

    def __init__(self, modules: Sequence[nn.Module], numbers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.parts, self._numbers = nn.ModuleList(modules), numbers

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found: dict[int, Tensor] = {}
        for part, numbers in zip(self.parts, self._numbers, strict=True):
            result = part(*values)
            results = result if isinstance(result, (tuple, list)) else (result,)
            found |= dict(zip(numbers, results, strict=True))
        return tuple(found[number] for number in sorted(found))


def apart(piece: ir.Graph) -> list[Group]:
    """The outputs in groups that share no input; constants are a group, too."""
    known = {value: frozenset((number,)) for number, value in enumerate(piece.inputs)}
    for node in piece:
        read = frozenset().union(*(known.get(value, _NOTHING) for value in inputs_of(node)))
        known |= dict.fromkeys(node.outputs, read)
    groups: list[Group] = []
    for number, output in enumerate(piece.outputs):
        new = Group((number,), known.get(output, _NOTHING))
        met = [own for own in groups if own.meets(new)]
        groups = [*(own for own in groups if not own.meets(new)), new.with_(met)]
    return groups


def moves_only(piece: ir.Graph) -> bool:
    """Whether all that a piece does is to put elements somewhere else: nothing is computed."""
    return all(node.domain in ("", "ai.onnx") and node.op_type in _MOVES for node in piece)


def outputs_of(piece: ir.Graph, numbers: Sequence[int]) -> ir.Graph:
    """A copy of a piece with some of its outputs, and all of its inputs."""
    names = [str(value.name) for value in piece.inputs]
    part = ir.convenience.extract(piece, names, [str(piece.outputs[number].name) for number in numbers])
    part.opset_imports.update(piece.opset_imports)
    return part
