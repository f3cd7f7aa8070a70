"""Gradient growth: backpropagation over the grid of local Jacobians, plain and with random signs.

Cotangents are kept as unit vectors with a decimal logarithm beside them, so that neither explosion nor
decay over any number of steps leaves the floating-point range.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.grid import EdgeMap, MapsPull
from lsc_graph.running.deadline import in_time


@dataclass(frozen=True)
class Cotangents:
    """A batch of cotangents [K, n] of unit length (or zero), and log10 of their lengths [K]."""

    unit: Tensor
    log10_norm: Tensor

    @staticmethod
    def of(vectors: Tensor) -> Cotangents:
        """From plain vectors [K, n]."""
        vectors = vectors.double()
        norms = vectors.norm(dim=1)
        safe = torch.where(norms > 0, norms, torch.ones_like(norms))
        return Cotangents(vectors / safe[:, None], norms.log10())

    def vectors(self) -> Tensor:
        """The plain vectors [K, n]; beyond the range of floats they are zero or infinite."""
        return self.unit * torch.pow(10.0, self.log10_norm)[:, None]

    def through(self, edge: EdgeMap, signs: Tensor | None) -> Cotangents:
        """The cotangents pulled back along an edge, multiplied by `signs` [K] if given."""
        return self.moved(edge.pull(self.unit), signs)

    def moved(self, pulled_units: Tensor, signs: Tensor | None) -> Cotangents:
        """The same, where the unit vectors have become others [K, n_tail]."""
        pulled = Cotangents.of(pulled_units)
        unit = pulled.unit if signs is None else pulled.unit * signs[:, None]
        return Cotangents(unit, pulled.log10_norm + self.log10_norm)

    def __add__(self, other: Cotangents) -> Cotangents:
        top = torch.maximum(self.log10_norm, other.log10_norm)
        top = torch.where(top.isfinite(), top, torch.zeros_like(top))
        scaled = [c.unit * torch.pow(10.0, c.log10_norm - top)[:, None] for c in (self, other)]
        total = Cotangents.of(scaled[0] + scaled[1])
        return Cotangents(total.unit, total.log10_norm + top)


def swept(
    edges: Iterable[EdgeMap],
    order: Sequence[GridNode],
    start: Mapping[GridNode, Tensor],
    sign_generator: torch.Generator | None = None,
) -> Iterator[tuple[GridNode, Cotangents]]:
    """Gradients of <start, s> by products and sums of local Jacobians: at each grid node that they reach.

    Nodes come last to first, each when all paths to it are in, and no cotangents are kept behind.

    Args:
        edges: all edges of the grid.
        order: the grid's nodes in topological order.
        start: cotangents [K, n] at the nodes to start from.
        sign_generator: if given, the cotangents crossing each edge are multiplied by independent
            random signs, which makes all cross terms between paths vanish in expectation (theory
            section 4).
    """
    into = _into(edges)
    arrived = _Arrived(start)
    for node in reversed(order):
        in_time()
        here = arrived.take(node)
        if here is None:
            continue
        for edge in into[node]:
            signs = None if sign_generator is None else random_signs(here.log10_norm, sign_generator)
            arrived.send(here, edge, signs)
        yield node, here


class _Arrived:
    """Cotangents at the nodes that are still to come.

    Those that cross edges known by their products wait until one of them is needed: then all go together.
    """

    def __init__(self, start: Mapping[GridNode, Tensor]) -> None:
        self._start = start
        self._found: dict[GridNode, Cotangents] = {}
        self._waiting: defaultdict[int, list[_Crossing]] = defaultdict(list)
        self._awaited: defaultdict[GridNode, list[int]] = defaultdict(list)

    def send(self, here: Cotangents, edge: EdgeMap, signs: Tensor | None) -> None:
        if not isinstance(edge.pull, MapsPull):
            self._add(edge.tail, here.through(edge, signs))
            return
        key = id(edge.pull.maps)
        self._waiting[key].append(_Crossing(here, edge.pull, signs, edge.tail))
        self._awaited[edge.tail].append(key)

    def take(self, node: GridNode) -> Cotangents | None:
        """Those of a node, when all paths to it are in."""
        for key in self._awaited.pop(node, ()):
            for group in _of_unlike_numbers(self._waiting.pop(key, [])):
                for crossing, passed in zip(group, _all_through(group), strict=True):
                    self._add(crossing.tail, passed)
        if node in self._start:
            self._add(node, Cotangents.of(self._start[node]))
        return self._found.pop(node, None)

    def _add(self, node: GridNode, passed: Cotangents) -> None:
        self._found[node] = self._found[node] + passed if node in self._found else passed


@dataclass(frozen=True)
class _Crossing:
    """Cotangents on their way to a node."""

    here: Cotangents
    pull: MapsPull
    signs: Tensor | None
    tail: GridNode


def _of_unlike_numbers(waiting: Sequence[_Crossing]) -> Iterator[list[_Crossing]]:
    """In groups that cross each block once: predictors may draw one for several times."""
    rest = list(waiting)
    while rest:
        group = {crossing.pull.number: crossing for crossing in reversed(rest)}
        rest = [crossing for crossing in rest if group[crossing.pull.number] is not crossing]
        yield list(group.values())


def _all_through(group: Sequence[_Crossing]) -> Iterator[Cotangents]:
    """The cotangents of a group, pulled back along its edges."""
    numbers = [crossing.pull.number for crossing in group]
    pulled = group[0].pull.of_all(numbers, torch.stack([crossing.here.unit for crossing in group]))
    return (crossing.here.moved(rows, crossing.signs) for crossing, rows in zip(group, pulled, strict=True))


def _into(edges: Iterable[EdgeMap]) -> defaultdict[GridNode, list[EdgeMap]]:
    """The edges by the node that they lead to."""
    into: defaultdict[GridNode, list[EdgeMap]] = defaultdict(list)
    for edge in edges:
        into[edge.head].append(edge)
    return into


def backpropagate(
    edges: Iterable[EdgeMap],
    order: Sequence[GridNode],
    start: Mapping[GridNode, Tensor],
    sign_generator: torch.Generator | None = None,
    *,
    with_vectors: bool = True,
) -> dict[GridNode, Cotangents]:
    """The cotangents at each node that the gradient reaches; arguments are those of `swept`.

    Without `with_vectors` their lengths alone are kept.
    """
    passes = swept(edges, order, start, sign_generator)
    if with_vectors:
        return dict(passes)
    # In place: small results that are kept among large vectors would break up the heap.
    kept = torch.empty(len(order), len(next(iter(start.values()))), dtype=torch.float64)
    nodes = []
    for row, (node, here) in enumerate(passes):
        kept[row] = here.log10_norm
        nodes.append(node)
    nothing = kept.new_empty(kept.shape[1], 0)
    return {node: Cotangents(nothing, lengths) for node, lengths in zip(nodes, kept, strict=False)}


def path_lengths(
    edges: Iterable[EdgeMap], order: Sequence[GridNode], start: Mapping[GridNode, Tensor]
) -> dict[GridNode, float]:
    """What the lengths of the gradients would be if nothing cancelled where paths meet.

    Rounding errors are relative to these. Arguments are those of `swept`.
    """
    edges = list(edges)
    into = _into(edges)
    logs = {node: float(Cotangents.of(vectors).log10_norm[0]) for node, vectors in start.items()}
    for node, here in swept(edges, order, start):
        own = float(here.log10_norm[0])
        for edge in into[node]:
            passed = float(here.through(edge, None).log10_norm[0]) + logs[node] - own
            logs[edge.tail] = _log10_sum(logs.get(edge.tail, -math.inf), passed)
    return defaultdict(float, {node: 10**value for node, value in logs.items()})


def rounding_lengths(
    edges: Iterable[EdgeMap],
    order: Sequence[GridNode],
    start: Mapping[GridNode, Tensor],
    rounding: float,
    seed: int = 0,
) -> dict[GridNode, float]:
    """How long a gradient may be that is made of rounding errors alone, at every node.

    At each node a random vector is added to what earlier ones have become on their way, as long as so small
    a part of the gradient there, or of what random vectors as long as the gradients at the heads of its
    edges become along these: where the products of the Jacobians themselves fall to nothing, as those
    of a nilpotent matrix do, that is what is left. Arguments are those of `swept`, cotangents [1, n].
    """
    generator = torch.Generator().manual_seed(seed)
    into, found = _into(edges), dict[GridNode, float]()
    # Of each node: the gradient, the errors so far, and what a random vector has become on one edge.
    three = {node: torch.cat([own, torch.zeros_like(own).expand(2, -1)]) for node, own in start.items()}
    arrived = _Arrived(three)
    for node in reversed(order):
        here = arrived.take(node)
        if here is None:
            continue
        here = _with_errors(here, math.log10(rounding), generator)
        found[node] = 10 ** float(here.log10_norm[1])
        for edge in into[node]:
            arrived.send(here, edge, None)
    return defaultdict(float, found)


def _with_errors(here: Cotangents, log10_rounding: float, generator: torch.Generator) -> Cotangents:
    """The errors of a node added to those so far, and a random vector to go on with."""
    normal = torch.randn(2, here.unit.shape[1], generator=generator, dtype=here.unit.dtype)
    random = Cotangents.of(normal).unit
    own, _, crossed = here.log10_norm
    none, size = torch.full_like(own, -math.inf), torch.maximum(own + log10_rounding, crossed)
    added = Cotangents(torch.cat([torch.zeros_like(random[:1]), random[:1]]), torch.stack([none, size]))
    both = Cotangents(here.unit[:2], here.log10_norm[:2]) + added
    fresh = both.log10_norm.amax() + log10_rounding
    return Cotangents(torch.cat([both.unit, random[1:]]), torch.cat([both.log10_norm, fresh[None]]))


def _log10_sum(first: float, second: float) -> float:
    """log10 of a sum of two numbers given by their logarithms."""
    top, low = max(first, second), min(first, second)
    return top if math.isinf(low) else top + math.log10(1 + 10 ** (low - top))


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent signs +1 or -1, in the shape of `like`."""
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1


def isotropic(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random vectors v [K, size] with E[v v^T] = 1, in float64: an orthogonal frame, or whole bases.

    Mean squares over a basis are exact: ||J||_F^2 = sum_i ||J^T v_i||^2 / size. Rows of a frame of K vectors
    are less alike than independent ones, which lowers the variance (K. Choromanski, M. Rowland, A. Weller,
    "The Unreasonable Effectiveness of Structured Random Orthogonal Embeddings", NeurIPS 2017).

    Args:
        count: as many vectors, or where that is more than `size`, as many as there are in whole bases.
        size: their length.
        generator: of the frame's random orientation.
    """
    if count >= size:
        return (math.sqrt(size) * torch.eye(size, dtype=torch.float64)).repeat(count // size, 1)
    normal = torch.randn(size, count, generator=generator, dtype=torch.float64)
    frame, upper = torch.linalg.qr(normal)
    # With the signs of the diagonal, the frame is uniformly distributed (F. Mezzadri, Notices AMS 2007).
    found: Tensor = (frame * upper.diagonal().sign() * math.sqrt(size)).T.contiguous()
    return found


def log10_isotropic(start: Mapping[GridNode, Tensor]) -> float:
    """log10 of the root mean square length of isotropic cotangents [K, n] at several nodes."""
    return 0.5 * math.log10(sum(vectors.shape[1] for vectors in start.values()) / len(start))


def log10_rms(log10_norms: Tensor) -> float:
    """log10 of the root mean square of lengths given by their logarithms; -inf if all are zero."""
    twice = 2 * log10_norms.double().flatten()
    top = float(twice.max())
    if math.isinf(top):
        return top
    return 0.5 * (top + math.log10(float(torch.pow(10.0, twice - top).mean())))
