"""Each edge's local Jacobians as matrices: a range that they share, few rows that suffice, directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.jacobians.active import active_indices
from lsc_graph.jacobians.entries import among, own_blocks
from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.edge_rows import EdgeRows
from lsc_graph.pretraining.eigenpairs import (
    Direction,
    gain_direction,
    gains,
    mean_direction,
    unit_direction,
    unit_radii,
)
from lsc_graph.pretraining.joint_radii import Wanted, joint_directions, joint_radii
from lsc_graph.pretraining.narrow import Looks, Narrow, NarrowRange, NarrowUnits, saves_much
from lsc_graph.pretraining.reading import Edge, NotFiniteError
from lsc_graph.pretraining.reduction import (
    covers,
    joined_range,
    num_units,
    shared_range,
    unit_matrices,
)
from lsc_graph.pretraining.slots import Block
from lsc_graph.pretraining.smaller import InRange, Matrices, dependent_states, without

# How often other rows may be looked for where few were seen not to suffice.
_MOST_LOST = 3


class EdgeBlocks:
    """What is known of the matrices of each edge, and how a batch of them is read.

    Args:
        layers: by name.
        exposed: the states of each layer that others see.
        entries: of layers whose states are batches, where the elements of each entry lie [B, m].
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        exposed: Mapping[str, frozenset[str]],
        entries: Mapping[str, Tensor],
    ) -> None:
        self._layers, self._exposed, self._entries = layers, exposed, entries
        self._bases: dict[Edge, Tensor | None] = {}
        self._lost: defaultdict[Edge, int] = defaultdict(int)
        self._dependent: dict[Edge, tuple[int, ...]] = {}
        self.narrow: dict[Edge, Narrow] = {}
        """Which few rows suffice for an edge, at the weights of now."""
        self.sizes: dict[Edge, int] = {}
        """Of the matrices whose eigenvalues were needed for each edge, as far as any were read."""
        self.num_rows: dict[Edge, int] = {}
        """How many rows of each edge's Jacobians were looked at to read its radius, if not all of them."""

    def state(self) -> dict[Edge, Tensor | None]:
        """The ranges that matrices share: found anew at other points, they would be rounded otherwise."""
        return dict(self._bases)

    def restore(self, state: Mapping[Edge, Tensor | None]) -> None:
        """Go on from a state."""
        self._bases = dict(state)

    def forget_narrow(self) -> None:
        """Other weights: which few rows suffice depends on them."""
        self.narrow, self._lost = {}, defaultdict(int)

    def _may_be_narrow(self, edge: Edge, basis: Tensor | None = None) -> bool:
        """Whether few rows may suffice for an edge that they are not known for."""
        known = self.narrow.get(edge)
        is_known = known is not None and (not isinstance(known, NarrowRange) or known.basis is basis)
        return not is_known and self._lost[edge] < _MOST_LOST

    def lose(self, edge: Edge) -> None:
        """An edge's few rows were seen not to suffice."""
        if self.narrow.pop(edge, None) is not None:
            self._lost[edge] += 1
        self.num_rows.pop(edge, None)

    def narrow_radii(self, edge: EdgeRows, looks: Looks, rows: Tensor) -> Tensor | None:
        """[S, P] of rows [S, P, R, n]; None where they do not suffice."""
        narrow, rows = self.narrow[edge.source, edge.target], rows.cpu()
        self.num_rows[edge.source, edge.target] = len(narrow.looks)
        check_finite(rows, self._layers[edge.source], self._layers[edge.target])
        found = narrow.radii(looks.of(narrow, rows).flatten(0, 1))
        return None if found is None else found.reshape(rows.shape[:2])

    def _basis(self, edge: Edge, matrices: Tensor) -> Tensor | None:
        """A range that an edge's matrices share: that of the reading's first sample where it fits."""
        if edge in self._bases:
            kept = self._bases[edge]
            if kept is None or covers(kept, matrices):
                return kept
        beside = (
            kept
            for (_, target), kept in self._bases.items()
            if target == edge[1] and kept is not None and len(kept) == matrices.shape[-1]
        )
        found = next((kept for kept in beside if covers(kept, matrices)), None)
        if found is None:
            found = shared_range(matrices)
            kept = self._bases.get(edge)
            found = found if kept is None or found is None else joined_range(kept, found)
        self._bases[edge] = found
        return self._bases[edge]

    def blocks(
        self,
        edges: Sequence[EdgeRows],
        sizes: Sequence[Sequence[int]],
        generators: Sequence[torch.Generator],
        *,
        with_derivative: bool,
    ) -> list[Block]:
        """The radii of a batch of each edge's matrices, or their gains, and by which elements they are read.

        Of states that are batches of independent entries they are the means over the entries, as in audits.

        Args:
            edges: their matrices, sample after sample.
            sizes: how many points of each edge each sample has.
            generators: each sample's.
            with_derivative: whether to find by which vectors the values are differentiated.
        """
        looks = [
            self._look(edge, own, generators, with_derivative=with_derivative)
            for edge, own in zip(edges, sizes, strict=True)
        ]
        wanted = [look.found for look in looks if isinstance(look.found, Wanted)]
        radii = iter(joint_directions(wanted) if with_derivative else joint_radii(wanted))
        return [look.block(next(radii) if isinstance(look.found, Wanted) else look.found) for look in looks]

    def _look(
        self,
        edge: EdgeRows,
        sizes: Sequence[int],
        generators: Sequence[torch.Generator],
        *,
        with_derivative: bool,
    ) -> _Look:
        source, target = self._layers[edge.source], self._layers[edge.target]
        matrices = edge.rows.detach().cpu()
        check_finite(matrices, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        if source is target and source.id not in self._entries:
            found = self._by_units(matrices, target, with_derivative=with_derivative)
            if found is not None:
                return _Look(rows, columns, found, True)
        elif source is not target and target.time_step != 0:
            exposed = self._exposed.get(target.id, frozenset())
            rows, columns, _ = active_indices(matrices, source, target, exposed)
        is_whole = matrices.shape[1:] == (len(rows), len(columns))
        active = matrices if is_whole else matrices[:, rows][:, :, columns]
        entries = self._entries_among(source, target, rows, columns)
        parts = None if entries is None else own_blocks(active, *entries)
        if parts is None:
            entries = None
        else:
            active = torch.stack(parts, 1).flatten(0, 1)
            sizes, is_whole = [len(parts) * size for size in sizes], False
        key, is_radius = (source.id, target.id), active.shape[1] == active.shape[2]
        if is_radius:
            count = num_units(target) if source is target and is_whole else 0
            own: Direction | Wanted = self._wanted(key, active, sizes, count, may_be_narrow=is_whole)
        else:
            own = gain_direction(active, generators, sizes) if with_derivative else gains(active)
        size = own.matrices.size if isinstance(own, Wanted) else 1
        self.sizes[key] = size if parts is None else round(size * len(parts) ** (1 / 3))
        return _Look(rows, columns, own, is_radius, entries)

    def _by_units(self, matrices: Tensor, layer: Layer, *, with_derivative: bool) -> Direction | None:
        """By the units of a layer, if no two of them are coupled."""
        units, edge = unit_matrices(matrices, layer), (layer.id, layer.id)
        if units is None:
            return None
        self.sizes[edge] = units.shape[2]
        if self._may_be_narrow(edge):
            self.narrow[edge] = NarrowUnits(layer)
        return unit_direction(units) if with_derivative else unit_radii(units)

    def _entries_among(
        self, source: Layer, target: Layer, rows: Sequence[int], columns: Sequence[int]
    ) -> tuple[Tensor, Tensor] | None:
        """Where the elements of each entry lie among those that are looked at, if both states have any."""
        if source.id not in self._entries or target.id not in self._entries:
            return None
        return among(self._entries[target.id], rows), among(self._entries[source.id], columns)

    def _wanted(
        self, key: Edge, matrices: Tensor, sizes: Sequence[int], count: int, *, may_be_narrow: bool
    ) -> Wanted:
        """Square matrices [P, n, n] of an edge, of so many units or of 0, as small as they can be had."""
        basis = self._basis(key, matrices)
        if basis is None:
            return Wanted(self._independent(key, matrices, count), sizes)
        is_narrow = may_be_narrow and saves_much(basis)
        if is_narrow and self._may_be_narrow(key, basis):
            same = (n for n in self.narrow.values() if isinstance(n, NarrowRange) and n.basis is basis)
            self.narrow[key] = next(same, None) or NarrowRange(basis)
        return Wanted(InRange(matrices, basis), sizes, is_narrow)

    def _independent(self, key: Edge, matrices: Tensor, count: int) -> Matrices:
        """Without states that are functions of the others, as they were where the edge was seen before.

        Of units that rest each state is one: what was seen of these is looked at again.
        """
        if not count:
            return Matrices(matrices)
        if key not in self._dependent:
            self._dependent[key] = dependent_states(matrices, count)
        found = without(matrices, count, self._dependent[key])
        if found is None and self._dependent[key]:
            self._dependent[key] = dependent_states(matrices, count)
            found = without(matrices, count, self._dependent[key])
        return found or Matrices(matrices)


@dataclass(frozen=True)
class _Look:
    """One edge's block: by which elements it is read, and what it shows, or what is wanted to say so.

    `entries` is where the elements of each entry of a batch lie, if it is read entry by entry.
    """

    rows: list[int]
    columns: list[int]
    found: Direction | Wanted
    is_radius: bool
    entries: tuple[Tensor, Tensor] | None = None

    def block(self, direction: Direction) -> Block:
        own = direction if self.entries is None else mean_direction(direction, *self.entries)
        return Block(self.rows, self.columns, own, self.is_radius)


def check_finite(values: Tensor, source: Layer, target: Layer) -> None:
    if not bool(values.sum().isfinite()):  # a pass less over large matrices than isfinite().all()
        raise NotFiniteError("A local Jacobian is not finite", where=f"{source.name} -> {target.name}")
