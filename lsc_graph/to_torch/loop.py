"""A recurrent site in torch: one module per cell, one for what the step emits, and the loop over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.func import vmap

from lsc_graph.errors import AnalysisError
from lsc_graph.layers.cells import Cell
from lsc_graph.recurrence.site import RecurrentSite, StepSequence
from lsc_graph.running.deadline import in_time
from lsc_graph.to_torch.segment import Parameters, Segment

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trajectory:
    """What one sample did in one site. Every tensor has time first, in true time order, length T.

    `before` and `after` are keyed by state name, `slices` by body input, `captures` by body input
    (no time axis). `outputs` and `final` are keyed by main-graph value. `cells` holds the very tensors
    that the run passed on as states, one per step: gradients are taken with respect to them.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    slices: dict[str, Tensor]
    captures: dict[str, Tensor]
    outputs: dict[str, Tensor]
    final: dict[str, Tensor]
    cells: dict[str, list[Tensor]] = field(default_factory=dict)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Trajectory:
        """The same with a function of every tensor in its place; states of steps are parts of all of them."""
        after = mapped(self.after, function)
        return Trajectory(
            mapped(self.before, function),
            after,
            mapped(self.slices, function),
            mapped(self.captures, function),
            mapped(self.outputs, function),
            mapped(self.final, function),
            {name: list(after[name]) if steps else [] for name, steps in self.cells.items()},
        )


class Call(NamedTuple):
    """What a part of a program, by its path as of `get_submodule`, was given in a run."""

    path: str
    given: tuple[Tensor, ...]

    def within(self, path: str) -> Call:
        """The same, where the part belongs to another one."""
        return Call(f"{path}.{self.path}", self.given)


class CellModule(nn.Module):
    """One layer's step: own states, states below (now, before), counters, slices, captures -> own states."""

    def __init__(self, cell: Cell, opsets: dict[str, int], parameters: Parameters, scope: str) -> None:
        super().__init__()
        self.cell = cell
        states = cell.layer.states
        self.reads = (
            *(("before", state.name) for state in states),
            *(("after", state.name) for state in cell.below_now),
            *(("before", state.name) for state in (*cell.below_before, *cell.carried)),
            *(("slice", name) for name in cell.slices),
            *(("capture", name) for name in cell.captures),
        )
        inputs = [
            *(state.before for state in states),
            *(state.after for state in cell.below_now),
            *(state.before for state in (*cell.below_before, *cell.carried)),
            *cell.slices,
            *cell.captures,
        ]
        outputs = [state.after for state in states]
        graph = cell.site.body.graph
        self.segment = Segment(graph, inputs, outputs, opsets=opsets, parameters=parameters, scope=scope)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """New own states from values in the order of `reads`."""
        written: tuple[Tensor, ...] = self.segment(*values)
        return written


class SiteModule(nn.Module):
    """A recurrent site that can be run over time, its states kept apart at every step.

    What delays carry takes part in a run as it is, and is no state that gradients are taken of.

    Args:
        site: the recurrence.
        cells: its layers in depth order.
        opsets, parameters: as in `Segment`.
        scope: prefix for the body's own initializers ("" where the body is the model itself).
    """

    def __init__(
        self,
        site: RecurrentSite,
        cells: Sequence[Cell],
        *,
        opsets: dict[str, int],
        parameters: Parameters,
        scope: str = "",
    ) -> None:
        super().__init__()
        self.site = site
        self.is_reverse = site.is_reverse
        self.cells = nn.ModuleList(CellModule(cell, opsets, parameters, scope) for cell in cells)
        layered = {state.name for cell in cells for state in cell.layer.states}
        self.layered = [state for state in site.states if state.name in layered]
        self.counters = [state for state in site.states if state.name not in layered]
        delays = cells[0].delays if cells else ()
        self.delays = nn.ModuleList(CellModule(delay, opsets, parameters, scope) for delay in delays)
        inputs = [
            *(state.after for state in self.layered),
            *(state.before for state in site.states),
            *(sequence.body for sequence in site.inputs),
            *site.captures,
        ]
        outputs = [*(s.body for s in site.outputs), *(state.after for state in self.counters)]
        self.is_mapped = site.num_steps > 1
        self.forgets = False
        """Whether gradients end at the step before: values are the same, derivatives a step's own effect."""
        self.emits = True
        """Whether a run computes its outputs, too, where no state needs to be computed with them."""
        self.shifts: Values | None = None
        """What is added to the states [T, ...] after each step, for derivatives by it."""
        self.emit = Segment(
            site.body.graph,
            list(dict.fromkeys(inputs)),
            outputs,
            opsets=opsets,
            parameters=parameters,
            scope=scope,
        )

    def run(self, slices: Values, initial: Values, captures: Values) -> Trajectory:
        """Loop over time.

        Args:
            slices: per body input, the slices [T, ...] in true time order.
            initial: per state name, the first state.
            captures: per body input, the captured value.
        """
        state = dict(initial)
        steps: list[tuple[int, dict[str, Tensor], dict[str, Tensor], tuple[Tensor, ...]]] = []
        for time in self.times():
            in_time()
            now = {name: value[time] for name, value in slices.items()}
            shifts = None if self.shifts is None else _at(self.shifts, time)
            after = self.step(state, now, captures, shifts)
            self._check_shapes(state, after)
            emitted = self._emit(captures, after, state, now) if self.emits or self.counters else ()
            counters = emitted[len(self.site.outputs) :]
            after_all = after | {s.name: v for s, v in zip(self.counters, counters, strict=True)}
            steps.append((time, state, after_all, emitted))
            state = detached(after_all) if self.forgets else after_all
        steps.sort(key=lambda step: step[0])
        before, after = self._stacked([own[1] for own in steps], [own[2] for own in steps])
        return Trajectory(
            before=before,
            after=after,
            slices=dict(slices),
            captures=dict(captures),
            outputs=self._collect([emitted for _, _, _, emitted in steps]) if self.emits else {},
            final={s.final: state[s.name] for s in self.site.states if s.final},
            cells=self._passed_on([own[2] for own in steps], after),
        )

    def _passed_on(self, steps: Sequence[Values], after: Values) -> dict[str, list[Tensor]]:
        """The states of each step, as tensors to take gradients by; without gradients no second copy."""
        if torch.is_grad_enabled():
            return {state.name: [own[state.name] for own in steps] for state in self.layered}
        return {state.name: list(after[state.name]) if steps else [] for state in self.layered}

    def _stacked(
        self, before: Sequence[Values], after: Sequence[Values]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """States before and after each step, in one memory: what a step reads the one before it wrote."""
        if not before:
            return {}, {}
        if self.forgets:
            return _over_time(before), _over_time(after)
        if self.is_reverse:
            whole = _over_time([*after, before[-1]])
            return {k: v[1:] for k, v in whole.items()}, {k: v[:-1] for k, v in whole.items()}
        whole = _over_time([before[0], *after])
        return {k: v[:-1] for k, v in whole.items()}, {k: v[1:] for k, v in whole.items()}

    def _check_shapes(self, before: Values, after: Values) -> None:
        """Caches may grow although the file declares one shape for what goes in and what comes out."""
        for name, value in after.items():
            if value.shape != before[name].shape:
                raise AnalysisError(
                    "A state changes its shape from step to step, as a cache that grows does",
                    where=name,
                    got=f"{tuple(before[name].shape)}, then {tuple(value.shape)}",
                    expected="a state of one shape",
                    do="declare the model's states with --state INPUT:OUTPUT, or --state none if it has none",
                )

    def times(self) -> range:
        """Time indices in the order in which they are processed."""
        steps = range(self.site.num_steps)
        return steps[::-1] if self.is_reverse else steps

    def step(
        self, before: Values, slices: Values, captures: Values, shifts: Values | None = None
    ) -> dict[str, Tensor]:
        """One step through all layers: state name -> new state, each a tensor of its own."""
        after: dict[str, Tensor] = {}
        for module in self.cells:
            assert isinstance(module, CellModule)
            pools = {
                "before": before,
                "after": after,
                "slice": slices,
                "capture": captures,
            }
            written = module(*(pools[kind][name] for kind, name in module.reads))
            states = module.cell.layer.states
            after |= {state.name: own_tensor(value) for state, value in zip(states, written, strict=True)}
            if shifts is not None:
                after |= {state.name: after[state.name] + shifts[state.name] for state in states}
        return after

    def emit_all(self, after: Values, trajectory: Trajectory) -> dict[str, Tensor]:
        """Main-graph outputs of the site when its states are `after` ([T, ...] per state name).

        What counts the steps ends as it did in the run.
        """
        before, new = dict(trajectory.before), dict(after)
        for name, value in after.items():
            before[name] = self._before(name, value, trajectory)
        for module in self.delays:
            assert isinstance(module, CellModule)
            name = module.cell.layer.name
            pools = {"before": before, "after": new, "slice": trajectory.slices}
            read = [pools[kind][own] for kind, own in module.reads if kind != "capture"]
            held = [trajectory.captures[own] for kind, own in module.reads if kind == "capture"]
            (new[name],) = self._each(partial(_with_captures, module, held), *read)
            before[name] = self._before(name, new[name], trajectory)
        emitted = self._emit_each(after, before, trajectory.slices, trajectory.captures)
        outputs = self._collect(emitted)
        last = self.times()[-1]
        counted = {s.name: trajectory.after[s.name] for s in self.counters if s.name in trajectory.after}
        ends = counted | new
        return outputs | {s.final: ends[s.name][last] for s in self.site.states if s.final and s.name in ends}

    def _before(self, name: str, value: Tensor, trajectory: Trajectory) -> Tensor:
        """A step reads what the one before it wrote; the first one its initial state."""
        kept = trajectory.before[name][self.times()[0]][None]
        return torch.cat([value[1:], kept] if self.is_reverse else [kept, value[:-1]])

    def _emit_each(
        self, after: Values, before: Values, slices: Values, captures: Values
    ) -> Sequence[tuple[Tensor, ...]]:
        """What every step emits."""
        states = {state.name: after[state.name] for state in self.layered}
        given = {state.name: before[state.name] for state in self.site.states}
        emitted = self._each(partial(self._emit, dict(captures)), states, given, dict(slices))
        return list(zip(*(value.unbind() for value in emitted), strict=True))

    def _each(
        self, function: Callable[..., tuple[Tensor, ...]], *given: Values | Tensor
    ) -> tuple[Tensor, ...]:
        """What a function of what is given at a step has for every one: they wait for no other step.

        They are taken all at once where `vmap` can do that.
        """
        if self.is_mapped:
            try:
                together: tuple[Tensor, ...] = vmap(function)(*given)
                return together
            except (RuntimeError, ValueError, TypeError):
                self.is_mapped = False
        steps = [function(*(_at(values, time) for values in given)) for time in range(self.site.num_steps)]
        return tuple(torch.stack(parts) for parts in zip(*steps, strict=True))

    def _emit(self, captures: Values, after: Values, before: Values, slices: Values) -> tuple[Tensor, ...]:
        emitted: tuple[Tensor, ...] = self.emit(*self._emit_reads(captures, after, before, slices))
        return emitted

    def _emit_reads(
        self, captures: Values, after: Values, before: Values, slices: Values
    ) -> tuple[Tensor, ...]:
        values: dict[str, Tensor] = {state.after: after[state.name] for state in self.layered}
        values |= {state.before: before[state.name] for state in self.site.states}
        values |= {name: slices[name] for name in slices} | {name: captures[name] for name in captures}
        return tuple(values[name] for name in self.emit.inputs)

    def calls(self, trajectory: Trajectory) -> Iterator[Call]:
        """What the run of a trajectory computed, step by step."""
        pools = {"before": trajectory.before, "after": trajectory.after, "slice": trajectory.slices}
        for time in self.times():
            now = {kind: {name: value[time] for name, value in pool.items()} for kind, pool in pools.items()}
            now["capture"] = trajectory.captures
            for number, module in enumerate(self.cells):
                assert isinstance(module, CellModule)
                yield Call(f"cells.{number}", tuple(now[kind][name] for kind, name in module.reads))
            yield Call("emit", self._emit_reads(now["capture"], now["after"], now["before"], now["slice"]))

    def _collect(self, emitted: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
        collected = {}
        for index, sequence in enumerate(self.site.outputs):
            stacked = torch.stack([values[index] for values in emitted])
            if sequence.reverse != self.is_reverse:
                stacked = stacked.flip(0)
            collected[sequence.main] = stacked if sequence.axis < 0 else stacked.movedim(0, sequence.axis)
        return collected


def _with_captures(module: CellModule, held: Sequence[Tensor], *read: Tensor) -> tuple[Tensor, ...]:
    """A cell's new states from what it reads at one step, in order, and what it captures."""
    written: tuple[Tensor, ...] = module(*read, *held)
    return written


@overload
def _at(values: Tensor, time: int) -> Tensor: ...
@overload
def _at(values: Values, time: int) -> Values: ...
def _at(values: Values | Tensor, time: int) -> Values | Tensor:
    """What is there at one time of what has time first."""
    if isinstance(values, Tensor):
        return values[time]
    return {name: value[time] for name, value in values.items()}


def own_tensor(value: Tensor) -> Tensor:
    """A copy whose gradient is that of the state itself, not of what else was computed with it.

    It takes part in differentiation even where all of its own history is cut, as by a threshold.
    """
    if torch.is_grad_enabled() and value.is_floating_point() and not value.requires_grad:
        # Not requires_grad_(), which torch.func refuses inside its transforms.
        return value + torch.zeros((), dtype=value.dtype, device=value.device, requires_grad=True)
    return value.clone()


def slices_of(sequence: StepSequence, main: Tensor, *, is_reverse: bool) -> Tensor:
    """The slices [T, ...] of a main-graph value, in true time order of a site that runs `is_reverse`."""
    slices = main.movedim(sequence.axis, 0)
    return slices if sequence.reverse == is_reverse else slices.flip(0)


def detached(values: Values) -> dict[str, Tensor]:
    """The same numbers, of which no gradients are taken."""
    return mapped(values, Tensor.detach)


def mapped(values: Values, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A function of every value."""
    return {name: function(value) for name, value in values.items()}


def _over_time(steps: Sequence[Values]) -> dict[str, Tensor]:
    return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
