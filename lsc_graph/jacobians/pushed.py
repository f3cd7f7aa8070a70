"""Local Jacobians of a whole run by products with directions: where differences by elements are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from lsc_graph.jacobians.built import has_black_box
from lsc_graph.jacobians.cell import at_points, cell_points, chosen_points, flat_from, flatten
from lsc_graph.jacobians.delayed import STATES
from lsc_graph.jacobians.pushes import PushAt, Pushes, push_at
from lsc_graph.layers.cells import DepthEdge, Layer, size
from lsc_graph.to_torch import black_box
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory, Values
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram, site_inputs

Program = SequenceProgram | StreamingProgram
# States are moved by so much of their scale to see what reads them.
_NEAR = 0.1


def too_many_elements(program: Program, run: Run) -> int:
    """How many elements a black box would be differentiated by, if these are too many; else 0.

    Delays are read through pulls alone.
    """
    counts = [0]
    if any(site.delays for site in program.sites if isinstance(site, SiteModule)):
        return 0
    for index, (site, trajectory) in enumerate(zip(program.sites, run.trajectories, strict=True)):
        assert isinstance(site, SiteModule)
        for module in site.cells:
            assert isinstance(module, CellModule)
            if has_black_box(module):
                reads = [name for kind, name in module.reads if kind in STATES]
                counts.append(sum(trajectory.before[name][0].numel() for name in reads))
        if isinstance(program, SequenceProgram) and index and program.reads_from_below[index]:
            boxes = [own for own in program.preludes[index].modules() if isinstance(own, BlackBox)]
            counts += [own.num_elements for own in boxes]
    largest = max(counts)
    return largest if largest > black_box.MAX_INPUT_ELEMENTS else 0


def pushed_jacobians(program: Program, run: Run, inputs: Values) -> tuple[Pushes, ...]:
    """All local Jacobians along the trajectories of one run.

    Args:
        program: the model.
        run: what the sample did in it.
        inputs: the sample's inputs, as they were given to `program`.
    """
    found: list[Pushes] = []
    lower: list[Layer] = []
    for index, (site, trajectory) in enumerate(zip(program.sites, run.trajectories, strict=True)):
        assert isinstance(site, SiteModule)
        modules = [module for module in site.cells if isinstance(module, CellModule)]
        for module in modules:
            found += _within_site(module, trajectory, [own.cell.layer for own in modules])
            if isinstance(program, SequenceProgram) and lower and program.reads_from_below[index]:
                glue = _Glue(program, index, run, inputs, module)
                found += [own for source in lower for own in glue.pushes(source)]
        lower += [module.cell.layer for module in modules]
    return tuple(found)


def _within_site(module: CellModule, trajectory: Trajectory, layers: Sequence[Layer]) -> list[Pushes]:
    """What a layer reads of its own old state, and of other layers of the same step."""
    points, layer = cell_points(module, trajectory), module.cell.layer
    num_steps, found = points[0].shape[0], []
    for source in layers:
        for lag, kind in ((1, "before"), (0, "after")):
            which = [
                module.reads.index((kind, own.name))
                for own in source.states
                if (kind, own.name) in module.reads
            ]
            if not which:
                continue
            shift = lag * layer.time_step
            times = [time for time in range(num_steps) if 0 <= time - shift < num_steps]
            pairs = tuple((time - shift, time) for time in times)
            push = _of_read(push_at(module, points, which, times), source, module, which)
            edge = None if source is layer else DepthEdge(source.id, layer.id, shift)
            shape = (layer.state_size, source.state_size)
            found.append(Pushes(source.id, layer.id, pairs, shape, push, points[which[0]], edge))
    return found


def _of_read(push: PushAt, source: Layer, module: CellModule, which: Sequence[int]) -> PushAt:
    """Of directions of all states of a layer, those of the ones that are read."""
    read = {module.reads[index][1] for index in which}
    sizes = [size(state.shape) for state in source.states]
    if len(read) == len(source.states):
        return push

    def chosen(numbers: Sequence[int], directions: Tensor) -> Tensor:
        parts = torch.split(directions, sizes, 2)
        own = [part for part, state in zip(parts, source.states, strict=True) if state.name in read]
        return push(numbers, torch.cat(own, 2))

    return chosen


@dataclass(frozen=True)
class _Glue:
    """From states of earlier sites to a layer's new state, where its own old one and its site's stay."""

    program: SequenceProgram
    index: int
    run: Run
    inputs: Values
    module: CellModule

    @property
    def site(self) -> SiteModule:
        site = self.program.sites[self.index]
        assert isinstance(site, SiteModule)
        return site

    def states(self) -> dict[str, Tensor]:
        """Of all earlier sites [T, ...]."""
        found: dict[str, Tensor] = {}
        for number in range(self.index):
            site = self.program.sites[number]
            assert isinstance(site, SiteModule)
            after = self.run.trajectories[number].after
            found |= {state.name: after[state.name] for state in site.layered}
        return found

    def points(self, states: Values) -> list[Tensor]:
        """What the cell reads at every step, as of `cell_points`, where the states below are these."""
        own = self.run.trajectories[self.index]
        read = self.program.reads_given_states(self.index, states, self.run, self.inputs)
        slices, initial, captures = site_inputs(self.site, read)
        before = dict(own.before)
        for name, value in initial.items():
            rest = before[name][:-1] if self.site.is_reverse else before[name][1:]
            parts = [rest, value[None]] if self.site.is_reverse else [value[None], rest]
            before[name] = torch.cat(parts)
        return cell_points(self.module, Trajectory(before, own.after, slices, captures, {}, {}))

    def pushes(self, source: Layer) -> list[Pushes]:
        """The edges from one earlier layer, by how many steps later it is read."""
        pairs = self._pairs(source)
        layer, shape = self.module.cell.layer, (self.module.cell.layer.state_size, source.state_size)
        like = self.states()[source.states[0].name]
        lags = sorted({target - tail for tail, target in pairs})
        if len(lags) <= 1:
            groups = [pairs] if pairs else []
        else:
            groups = [[pair for pair in pairs if pair[1] - pair[0] == lag] for lag in lags]
        found = []
        for own in groups:
            ends = tuple(sorted(own, key=lambda pair: pair[1]))
            edge = DepthEdge(source.id, layer.id, time_pairs=ends)
            push = self._push(source, ends, is_apart=len(lags) == 1)
            found.append(Pushes(source.id, layer.id, ends, shape, push, like, edge))
        return found

    def _pairs(self, source: Layer) -> list[tuple[int, int]]:
        """Which times of a layer below are read at which steps: seen where it is moved at one of them."""
        states, generator = self.states(), torch.Generator().manual_seed(0)
        usual, found = self.points(states), []
        for time in range(len(states[source.states[0].name])):
            moved = dict(states)
            for state in source.states:
                value = states[state.name].clone()
                scale = _NEAR * value[time].abs().mean().clamp_min(_NEAR)
                value[time] += scale * torch.randn(value[time].shape, generator=generator).to(value)
                moved[state.name] = value
            others = self.points(moved)
            is_other = [flat_from(a != b, 1).any(1) for a, b in zip(usual, others, strict=True)]
            found += [(time, at) for at in torch.stack(is_other).any(0).nonzero()[:, 0].tolist()]
        return found

    def _push(self, source: Layer, ends: Sequence[tuple[int, int]], *, is_apart: bool) -> PushAt:
        """Directions at the tails of pairs, pushed to their heads; together where no two of them meet."""
        sizes = [size(state.shape) for state in source.states]
        states = self.states()

        def push(numbers: Sequence[int], directions: Tensor) -> Tensor:
            groups = [list(range(len(numbers)))] if is_apart else [[row] for row in range(len(numbers))]
            found = directions.new_empty(*directions.shape[:2], self.module.cell.layer.state_size)
            for rows in groups:
                own = [ends[numbers[row]] for row in rows]
                found[rows] = self._moved(source, sizes, states, own, directions[rows]).to(found)
            return found

        return push

    def _moved(
        self,
        source: Layer,
        sizes: Sequence[int],
        states: Values,
        ends: Sequence[tuple[int, int]],
        directions: Tensor,
    ) -> Tensor:
        """Directions [P, K, n] at the tails, pushed to the new states at the heads, alike."""
        given, tangents = [], []
        for state, part in zip(source.states, torch.split(directions, list(sizes), 2), strict=True):
            value = states[state.name]
            tangent = value.new_zeros(directions.shape[1], *value.shape)
            own = part.transpose(0, 1).reshape(directions.shape[1], len(ends), *value.shape[1:])
            tangent[:, [tail for tail, _ in ends]] = own.to(value)
            given.append(value)
            tangents.append(tangent)

        def function(*values: Tensor) -> Tensor:
            names = [state.name for state in source.states]
            points = self.points({**states, **dict(zip(names, values, strict=True))})
            here = chosen_points(points, torch.tensor([head for _, head in ends]))
            stepped: Tensor = at_points(lambda *own: flatten(self.module(*own)), here)
            return stepped

        def one(*moving: Tensor) -> Tensor:
            moved: Tensor = jvp(function, tuple(given), moving)[1]
            return moved

        pushed: Tensor = vmap(one)(*tangents)
        return pushed.transpose(0, 1)
