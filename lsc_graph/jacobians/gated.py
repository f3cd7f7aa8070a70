"""Time Jacobians of cells in which units meet in products with shared matrices alone, as in gated cells.

M_time = D + sum_k diag(g_k) W_k: between the products everything acts unit by unit, so that a few pulls give
the diagonals, and products with all Jacobians at once are products with the weights. Which products these are
is seen in the step as it runs; what was found is verified at every point by pulling back random cotangents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.overrides import TorchFunctionMode

from lsc_graph.jacobians.cell import at_points, flat_from, flatten
from lsc_graph.spectra.operator import Operator
from lsc_graph.to_torch.loop import CellModule

_PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})
_CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})
_AGREEMENT = 1e-4
# Derivatives of results of products that are held at once while dense matrices are made.
_MAX_BYTES = 2**26
Call = tuple[Callable[..., Tensor], Tensor, Tensor]


@dataclass(frozen=True)
class Piece:
    """A unitwise derivative at P points: source element e moves target element rows[e] by values[:, e].

    `num_rows` is the size of the target; `is_periodic` tells that rows[e] is e modulo that size.
    """

    rows: Tensor
    values: Tensor
    num_rows: int
    is_periodic: bool

    def pull(self, cotangents: Tensor) -> Tensor:
        """Cotangents of the target [P, num_rows], as cotangents of the source [P, E]."""
        if not self.is_periodic:
            return cotangents[:, self.rows] * self.values
        if self.values.shape[1] == self.num_rows:
            return cotangents * self.values
        folded = self.values.reshape(len(self.values), -1, self.num_rows)
        return (folded * cotangents[:, None]).flatten(1)

    def push(self, matrices: Tensor, onto: Tensor) -> None:
        """Add the piece times matrices [P, E, F] to `onto` [P, num_rows, F]."""
        if not self.is_periodic:
            onto.index_add_(1, self.rows, matrices * self.values[:, :, None])
            return
        for start in range(0, self.values.shape[1], self.num_rows):
            part = slice(start, start + self.num_rows)
            onto.addcmul_(matrices[:, part], self.values[:, part, None])

    def add_to(self, onto: Tensor) -> None:
        """Add the piece as a matrix to `onto` [P, num_rows, E]."""
        onto[:, self.rows, torch.arange(len(self.rows), device=onto.device)] += self.values

    def at(self, numbers: Tensor) -> Piece:
        """At some of the points."""
        return Piece(self.rows, self.values[numbers], self.num_rows, self.is_periodic)


@dataclass(frozen=True)
class GatedJacobians:
    """P matrices [n, n], known by unitwise pieces and shared weights.

    `sizes` are those of the state variables, `weights` [out, in] those of the products in their order.
    Targets of `pieces` are the new states and then what the products read, sources the old states and then
    what the products give.
    """

    sizes: tuple[int, ...]
    weights: tuple[Tensor, ...]
    pieces: dict[tuple[int, int], Piece]
    num_points: int

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def at(self, numbers: Tensor) -> GatedJacobians:
        """Some of the matrices."""
        here = numbers.to(next(iter(self.pieces.values())).values.device)
        pieces = {key: piece.at(here) for key, piece in self.pieces.items()}
        return GatedJacobians(self.sizes, self.weights, pieces, len(numbers))

    def pull(self, cotangents: Tensor) -> Tensor:
        """Rows [P, n] times the matrices."""
        parts: list[Tensor | None] = [
            *torch.split(cotangents, list(self.sizes), 1),
            *(None for _ in self.weights),
        ]
        num_states = len(self.sizes)
        for product in reversed(range(len(self.weights))):
            given = self._pulled(parts, num_states + product)
            parts[num_states + product] = None if given is None else given @ self.weights[product]
        found = [self._pulled(parts, source) for source in range(num_states)]
        zero = cotangents[:, :1]
        filled = [
            zero.new_zeros(len(zero), size) if own is None else own
            for own, size in zip(found, self.sizes, strict=True)
        ]
        return torch.cat(filled, 1)

    def _pulled(self, parts: Sequence[Tensor | None], source: int) -> Tensor | None:
        """What the cotangents of all targets are for one source."""
        total: Tensor | None = None
        for target, cotangents in enumerate(parts):
            piece = self.pieces.get((target, source))
            if piece is not None and cotangents is not None:
                pulled = piece.pull(cotangents)
                total = pulled if total is None else total + pulled
        return total

    def operator(self) -> Operator:
        """Products with the transposed matrices."""
        like = next(iter(self.pieces.values())).values

        def at(numbers: Tensor) -> Operator:
            return self.at(numbers).operator()

        return Operator(self.pull, self.num_points, self.size, like.dtype, like.device, at)

    def dense(self) -> Tensor:
        """The matrices [P, n, n]."""
        like = next(iter(self.pieces.values())).values
        widest = max([1, *(max(weight.shape) for weight in self.weights)])
        step = max(1, _MAX_BYTES // (widest * self.size * like.element_size()))
        if self.num_points > step:
            numbers = torch.arange(self.num_points)
            return torch.cat([self.at(part).dense() for part in torch.split(numbers, step)])
        whole = like.new_zeros(self.num_points, self.size, self.size)
        results: list[dict[int, Tensor]] = []
        for product in range(len(self.weights)):
            results.append(self._product_rows(product, results))
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        for target, (end, size) in enumerate(zip(ends, self.sizes, strict=True)):
            for source, (right, width) in enumerate(zip(ends, self.sizes, strict=True)):
                self._fill(whole[:, end - size : end, right - width : right], target, source, results)
        return whole

    def _fill(self, onto: Tensor, target: int, source: int, results: Sequence[dict[int, Tensor]]) -> None:
        """Add the derivative of one target by one old state to `onto`."""
        piece = self.pieces.get((target, source))
        if piece is not None:
            piece.add_to(onto)
        for product, rows in enumerate(results):
            through = self.pieces.get((target, len(self.sizes) + product))
            if through is not None and source in rows:
                through.push(rows[source], onto)

    def _product_rows(self, product: int, before: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
        """Derivatives [P, out, size] of the result of a product by every old state that moves it."""
        weight, target = self.weights[product], len(self.sizes) + product
        found = {}
        for source, size in enumerate(self.sizes):
            piece = self.pieces.get((target, source))
            earlier = [
                number
                for number, rows in enumerate(before)
                if source in rows and (target, len(self.sizes) + number) in self.pieces
            ]
            if earlier:
                inputs = weight.new_zeros(self.num_points, weight.shape[1], size)
                self._fill(inputs, target, source, before)
                found[source] = torch.matmul(weight, inputs)
            elif piece is not None:
                columns = weight if piece.is_periodic and size == weight.shape[1] else weight[:, piece.rows]
                found[source] = columns * piece.values[:, None, :]
        return found


class _Products(TorchFunctionMode):
    """Hands every product of two matrices, in their order, to a function that gives the result."""

    def __init__(self, handle: Callable[[int, Call], Tensor]) -> None:
        super().__init__()
        self._handle, self._count = handle, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call, bias = _product(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        self._count += 1
        found = self._handle(self._count - 1, call)
        return found if bias is None else found + bias


def _product(
    function: Any, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Call | None, Tensor | None]:
    """A call as one of a function that is linear in each of two operands, if it is one, and what is added."""
    if function in _CONVOLUTIONS and len(given) in (2, 3):
        return _convolution(function, *given, **named)
    if named:
        return None, None
    if function is torch.functional.einsum and len(given) == 3 and isinstance(given[0], str):
        return (partial(torch.einsum, given[0]), given[1], given[2]), None
    return ((function, *given) if function in _PRODUCTS and len(given) == 2 else None), None


def _convolution(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None, **named: Any
) -> tuple[Call | None, Tensor | None]:
    """A convolution that mixes the channels of one place, as which exporters write products of states."""
    is_of_one_place = x.dim() == weight.dim() and x.numel() == x.shape[1]
    is_of_all_channels = weight.numel() == weight.shape[0] * weight.shape[1] and named.get("groups", 1) == 1
    if not (is_of_one_place and is_of_all_channels):
        return None, None
    added = None if bias is None else bias.reshape(-1, *[1] * (x.dim() - 2))
    return (partial(function, **named), x, weight), added


@dataclass(frozen=True)
class _Cut:
    """A product that moves with the states: its number, the operand that moves, and the matrix [out, in]."""

    number: int
    moving: int
    weight: Tensor
    shape: torch.Size


def gated_jacobians(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int], generator: torch.Generator
) -> GatedJacobians | None:
    """Time Jacobians of a cell as unitwise pieces and shared weights.

    Args:
        module: the cell.
        points: what it reads at P points, as of `cell_points`.
        own: which of these are its own old states.
        generator: of the probes that find and verify the structure.

    Returns:
        None if the step has no such form.
    """
    cuts = _find_cuts(module, [point[0] for point in points], own, generator)
    if not cuts:
        return None
    found, true_pull = _assembled(module, points, own, cuts)
    if not found.pieces:
        return None
    probes = torch.randn(found.num_points, found.size, generator=generator).to(points[own[0]])
    expected = true_pull(probes)
    off = (found.pull(probes) - expected).norm(dim=1)
    return found if bool((off <= _AGREEMENT * expected.norm(dim=1)).all()) else None


def _find_cuts(
    module: CellModule, values: Sequence[Tensor], own: Sequence[int], generator: torch.Generator
) -> list[_Cut] | None:
    """The products whose operands change with the states; None where both do, or it is not by one matrix."""
    runs: list[list[Call]] = []
    for moves in (False, True):
        given = list(values)
        for index in own if moves else ():
            given[index] = values[index] + torch.randn(values[index].shape, generator=generator).to(
                values[index]
            )
        calls: list[Call] = []

        def record(_: int, call: Call, calls: list[Call] = calls) -> Tensor:
            calls.append(call)
            return call[0](*call[1:])

        with _Products(record), torch.no_grad():
            module(*given)
        runs.append(calls)
    cuts = []
    for number, (call, moved) in enumerate(zip(*runs, strict=True)):
        moving = [index for index in (1, 2) if not torch.equal(call[index], moved[index])]
        if not moving:
            continue
        weight = _weight(call, moving[0]) if len(moving) == 1 else None
        if weight is None:
            return None
        cuts.append(_Cut(number, moving[0], weight, call[0](*call[1:]).shape))
    return cuts


def _weight(call: Call, moving: int) -> Tensor | None:
    """The matrix [out, in] that a product multiplies one operand by; None if the other is not that matrix."""
    function, *operands = call
    operand, shared = operands[moving - 1], operands[2 - moving].detach()
    result = function(*operands)
    if shared.numel() != operand.numel() * result.numel():
        return None
    if function in _PRODUCTS and shared.dim() == 2:
        return shared.T if moving == 1 else shared

    def column(unit: Tensor) -> Tensor:
        given = list(operands)
        given[moving - 1] = unit.reshape(operand.shape)
        return function(*given).reshape(-1)

    units = torch.eye(operand.numel(), dtype=operand.dtype, device=operand.device)
    columns: Tensor = vmap(column)(units)
    return columns.T


def _assembled(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int], cuts: Sequence[_Cut]
) -> tuple[GatedJacobians, Callable[[Tensor], Tensor]]:
    """The pieces by pulls of ones and of numbered rows, and the true products with the Jacobians."""
    num_points, num_states = points[own[0]].shape[0], len(own)
    states = [points[index] for index in own]
    zeros = [states[0].new_zeros(num_points, *cut.shape) for cut in cuts]
    by_number = {cut.number: (place, cut) for place, cut in enumerate(cuts)}

    def step(deltas: Sequence[Tensor], *values: Tensor) -> tuple[Tensor, ...]:
        read: list[Tensor] = []

        def handle(number: int, call: Call) -> Tensor:
            function, *operands = call
            if number not in by_number:
                return function(*operands)
            place, cut = by_number[number]
            read.append(operands[cut.moving - 1].reshape(-1))
            operands[cut.moving - 1] = operands[cut.moving - 1].detach()
            return function(*operands) + deltas[place]

        with _Products(handle):
            new = module(*values)
        return (*(value.reshape(-1) for value in new), *read)

    def cut_function(*sources: Tensor) -> tuple[Tensor, ...]:
        given = list(points)
        for index, value in zip(own, sources[:num_states], strict=True):
            given[index] = value
        moved: tuple[Tensor, ...] = at_points(
            lambda *read: step(read[: len(cuts)], *read[len(cuts) :]), given, *sources[num_states:]
        )
        return moved

    targets, pullback, *_ = vjp(cut_function, *states, *zeros)
    pulled = _pulled_rows(pullback, targets)
    pieces = {}
    for target, value in enumerate(targets):
        for source, rows in enumerate(pulled):
            piece = _piece(rows[2 * target], rows[2 * target + 1], value.shape[1])
            if piece is not None:
                pieces[target, source] = piece
    sizes = tuple(value[0].numel() for value in states)
    found = GatedJacobians(sizes, tuple(cut.weight for cut in cuts), pieces, num_points)
    return found, _true_pull(module, points, own)


def _pulled_rows(pullback: Callable[..., Sequence[Tensor]], targets: Sequence[Tensor]) -> list[Tensor]:
    """Per source [2 K, P, E]: for each of K targets its rows' sum, and that weighted by their numbers."""
    given = [value.new_zeros(2 * len(targets), *value.shape) for value in targets]
    for target, value in enumerate(targets):
        given[target][2 * target] = 1
        given[target][2 * target + 1] = torch.arange(1, value.shape[1] + 1, device=value.device)
    return [flat_from(value, 2) for value in vmap(pullback)(tuple(given))]


def _piece(values: Tensor, numbered: Tensor, num_rows: int) -> Piece | None:
    """From the sums over the rows of each column, plain and weighted by the rows' numbers."""
    squares = values.double().square().sum(0)
    if not bool((squares > 0).any()):
        return None
    size = values.shape[1]
    usual = torch.arange(size, device=values.device) % num_rows
    if size % num_rows == 0 and _is_weighted(values, numbered, usual):
        return Piece(usual, values, num_rows, True)
    means = (values.double() * numbered.double()).sum(0) / squares
    rows = torch.where(squares > 0, means.round() - 1, 0.0).nan_to_num(0.0).clamp(0, num_rows - 1).long()
    return Piece(rows, values, num_rows, False)


def _is_weighted(values: Tensor, numbered: Tensor, rows: Tensor) -> bool:
    off = (numbered - values * (rows + 1)).abs().amax(0)
    return bool((off <= 1e-3 * values.abs().amax(0)).all())


def _true_pull(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    def function(*states: Tensor) -> Tensor:
        given = list(points)
        for index, state in zip(own, states, strict=True):
            given[index] = state
        stepped: Tensor = at_points(lambda *values: flatten(module(*values)), given)
        return stepped

    def pull(rows: Tensor) -> Tensor:
        _, pullback, *_ = vjp(function, *(points[index] for index in own))
        return torch.cat([flat_from(part, 1) for part in pullback(rows)], 1)

    return pull
