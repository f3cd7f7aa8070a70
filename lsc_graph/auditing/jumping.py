"""Values that jump where the states pass a point, so that derivatives tell one part of what they do.

Of 2 u - Mod(u, 1) and Where(u > 0, u + 1, u) the derivative is never zero, and yet it leaves out a threshold.
So what each part of a program puts out is looked at along a line through its states, in double precision.
Where it changes by something else than next to there, the place is halved again and again: what is steep or
has a kink changes by less each time, and a pole by more; a jump stays. The first value that jumps there is
the one to be named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.auditing.flat_steps import DoubleRun, Part, name_of
from lsc_graph.to_torch.spike import sign, spike

# Operators that make no jump of what has none; those that compare are what makes others choose.
# fmt: off
_CONTINUOUS = frozenset(
    (
        "Abs", "Add", "AveragePool", "Celu", "Clip", "Concat", "Constant", "Conv", "Cos", "Elu", "Erf",
        "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GroupNormalization", "HardSigmoid",
        "HardSwish", "Identity", "Initializer", "Input", "InstanceNormalization", "LayerNormalization",
        "LeakyRelu", "LogSoftmax", "MatMul", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Pad", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Selu", "Sigmoid", "Sin", "Slice",
        "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tanh", "Tile",
        "Transpose", "Unsqueeze", "Where",
    )
)
# fmt: on
# Parts that read more elements are not looked at: a hundred runs of them take seconds.
_MAX_ELEMENTS = 2**21

# How far the line goes to both sides, over the spread of the states' elements, and in how many pieces.
_REACH, _PIECES = 2.0, 32
# Pieces that are looked at, and how often these are halved before smooth ones are given up, and in all.
_TRIED, _SOON, _HALVINGS = 4, 6, 20
# The least jump, relative to how far the element moves along the line, or to the largest element of a value.
_LEAST = 1e-3
# What is left of a jump where smooth changes are gone, and by how much it may still grow.
_STAYS, _GROWS = 0.5, 1.5


@torch.no_grad()
def jumping(parts: Sequence[Part], flat: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Nodes where values jump as states change: each by its name, and those of the flags that make it jump.

    Thresholds that have a surrogate's derivative are none of them.

    Args:
        parts: those of the model that gradients pass through, as of `moving_parts`.
        flat: nodes that are known to have no derivative; what jumps beside them is a piece of these.
    """
    found = (names for part in parts if _may_jump(part, flat) for names in _jumps(part))
    return tuple(dict.fromkeys(found))


def _may_jump(part: Part, flat: Collection[str]) -> bool:
    nodes = part.graph.graph.nodes
    kinds = {node.meta.get("onnx_op_type") for node in nodes} - {None}
    is_looked_at = part.num_elements <= _MAX_ELEMENTS and not kinds <= _CONTINUOUS
    return is_looked_at and not any(name_of(node) in flat for node in nodes)


def _jumps(part: Part) -> Iterator[tuple[str, ...]]:
    try:
        line = _Line.through(part)
        for place in line.suspicious():
            narrow = line.narrowed(place)
            root = None if narrow is None else line.root(*narrow)
            if root is not None and root.target not in (spike, sign):
                yield (name_of(root), *(name_of(own) for own in line.flags(root)))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
        return  # an operator that does not take double precision, or no such values


@dataclass(frozen=True)
class _Place:
    """A piece of the line, an element of all that is put out, and by how much that changes there at once."""

    start: float
    stop: float
    element: int
    size: float


@dataclass(frozen=True)
class _Line:
    """A part along a line through its states."""

    part: Part
    middle: list[Tensor]
    way: list[Tensor]

    @staticmethod
    def through(part: Part) -> _Line:
        generator = torch.Generator().manual_seed(0)
        ends = [part.moved(number, 0.0, generator) for number in range(len(part.given))]
        return _Line(part, [own for own, _ in ends], [own for _, own in ends])

    def at(self, place: float) -> dict[torch.fx.Node, Tensor]:
        """All values."""
        given = [
            own + place * way if own.is_floating_point() and moves else own
            for own, way, moves in zip(self.middle, self.way, self.part.moving, strict=True)
        ]
        return DoubleRun(self.part.graph, self.part.constants).values_of(given)

    def put_out(self, place: float) -> Tensor:
        """What the part puts out, as one vector."""
        (last,) = (node for node in self.part.graph.graph.nodes if node.op == "output")
        values = self.at(place)
        return torch.cat([values[own].flatten() for own in last.all_input_nodes if own in values])

    def suspicious(self) -> list[_Place]:
        """Where an element changes by something else than in the pieces beside."""
        places = torch.linspace(-_REACH, _REACH, _PIECES + 1, dtype=torch.float64).tolist()
        values = torch.stack([self.put_out(place) for place in places]).nan_to_num(0.0, 0.0, 0.0)
        changes = values.diff(dim=0)
        odd = (changes[1:-1] - (changes[:-2] + changes[2:]) / 2).abs()
        moved = values.amax(0) - values.amin(0)
        share, elements = torch.where(moved > 0, odd / moved, 0.0).max(1)
        order = share.argsort(descending=True)[:_TRIED].tolist()
        return [
            _Place(places[i + 1], places[i + 2], int(elements[i]), float(odd[i, elements[i]]))
            for i in order
            if share[i] > _LEAST
        ]

    def narrowed(self, place: _Place) -> tuple[float, float] | None:
        """The ends of a place so small that nothing but a jump is left; None if there is none."""
        start, stop, number = place.start, place.stop, place.element
        first, last = (float(self.put_out(own)[number]) for own in (start, stop))
        soon = 0.0
        for count in range(_HALVINGS):
            between = (start + stop) / 2
            value = float(self.put_out(between)[number])
            if abs(value - first) >= abs(last - value):
                stop, last = between, value
            else:
                start, first = between, value
            size = abs(last - first)
            if count == _SOON:
                soon = size
            if count >= _SOON and not _STAYS * place.size <= size <= _GROWS * soon:
                return None
        return start, stop

    def root(self, start: float, stop: float) -> torch.fx.Node | None:
        """The first value that jumps there."""
        before, after = self.at(start), self.at(stop)
        for node, value in before.items():
            other = after.get(node)
            if other is None or other.shape != value.shape or not value.numel():
                continue
            largest = float(torch.maximum(value.abs(), other.abs()).amax())
            if float((other - value).abs().amax()) > _LEAST * largest:
                return node
        return None

    def flags(self, node: torch.fx.Node) -> list[torch.fx.Node]:
        """What a value is computed from that is no floating-point number, also by others of the kind."""
        numbers = self.at(0.0)
        found: list[torch.fx.Node] = []
        left = [own for own in node.all_input_nodes if own not in numbers]
        while left:
            own = left.pop()
            if own not in found:
                found.append(own)
                left += [other for other in own.all_input_nodes if other not in numbers]
        return found
