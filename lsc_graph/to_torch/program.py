"""The whole model in torch, cut at its states: preludes, loops over time, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor, nn

from lsc_graph.layers.cells import Cell
from lsc_graph.layers.chain import Chain
from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.find import Findings
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.to_torch.loop import Call, SiteModule, Trajectory, Values, mapped, own_tensor, slices_of
from lsc_graph.to_torch.segment import Parameters, Segment


@dataclass(frozen=True)
class Run:
    """One sample through a program: its outputs by name, and a trajectory per site.

    Outputs of a streaming program have time first. `values` are the main-graph values that were computed
    on the way; `boundaries` are a feed-forward program's layer outputs, `sides` what each of its blocks
    reads past the one before it.
    """

    outputs: dict[str, Tensor]
    trajectories: tuple[Trajectory, ...] = ()
    values: dict[str, Tensor] | None = None
    boundaries: tuple[Tensor, ...] = ()
    sides: tuple[tuple[Tensor, ...], ...] = ()

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Run:
        """The same with a function of every tensor in its place."""
        return Run(
            mapped(self.outputs, function),
            tuple(trajectory.mapped(function) for trajectory in self.trajectories),
            None if self.values is None else mapped(self.values, function),
            tuple(function(value) for value in self.boundaries),
            tuple(tuple(function(value) for value in own) for own in self.sides),
        )

    def detached(self) -> Run:
        """The same numbers, of which no gradients are taken."""
        return self.mapped(Tensor.detach)


class SequenceProgram(nn.Module):
    """A model that maps whole sequences: for each site a prelude and a loop, then a postlude.

    Args:
        findings: the recurrences and the lowered model.
        cells: each site's layers.
        parameters: shared store of the floating-point initializers.
        observed: further values of the main graph to compute, such as final states.
    """

    def __init__(
        self,
        findings: Findings,
        cells: Sequence[Sequence[Cell]],
        parameters: Parameters,
        observed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        graph, opsets = findings.model.graph, dict(findings.model.opset_imports)
        self.input_names = [str(value.name) for value in graph.inputs]
        self.output_names = list(dict.fromkeys([*(str(value.name) for value in graph.outputs), *observed]))
        self.sites = nn.ModuleList(
            SiteModule(site, own, opsets=opsets, parameters=parameters, scope=f"{site.id}/")
            for site, own in zip(findings.sites, cells, strict=True)
        )
        known = list(self.input_names)
        preludes, self.reads_from_below = [], []
        for site in findings.sites:
            below = known[len(self.input_names) :]
            self.reads_from_below.append(_computed_from(graph, reads_of(site), below))
            preludes.append(Segment(graph, known, reads_of(site), opsets=opsets, parameters=parameters))
            known = known + writes_of(site)
        self.preludes = nn.ModuleList(preludes)
        self.postlude = Segment(graph, known, self.output_names, opsets=opsets, parameters=parameters)

    def forward(self, inputs: Values) -> Run:
        """Run one sample; `inputs` by name, in the model's own shapes."""
        values = dict(inputs)
        trajectories = []
        for prelude, site in zip(self.preludes, self.sites, strict=True):
            assert isinstance(prelude, Segment)
            assert isinstance(site, SiteModule)
            read = compute(prelude, values)
            trajectory = site.run(*site_inputs(site, read))
            trajectories.append(trajectory)
            values |= read | trajectory.outputs | trajectory.final
        outputs = compute(self.postlude, values)
        return Run(outputs, tuple(trajectories), values)

    def calls(self, run: Run, inputs: Values) -> Iterator[Call]:
        """What a run on these inputs computed, part by part."""
        values = {**inputs, **(run.values or {})}
        for number, (prelude, site) in enumerate(zip(self.preludes, self.sites, strict=True)):
            assert isinstance(prelude, Segment)
            assert isinstance(site, SiteModule)
            yield Call(f"preludes.{number}", tuple(values[name] for name in prelude.inputs))
            for call in site.calls(run.trajectories[number]):
                yield call.within(f"sites.{number}")
        yield Call("postlude", tuple(values[name] for name in self.postlude.inputs))

    def reads_given_states(self, target: int, states: Values, run: Run, inputs: Values) -> dict[str, Tensor]:
        """What site `target` reads from the main graph when the earlier sites' states are `states`.

        With the number of sites as `target` it is the outputs that are computed. This function has no
        recurrence in it: its derivative is that of the depth edges alone.
        """
        values = dict(inputs)
        for index in range(target):
            prelude, site = self.preludes[index], self.sites[index]
            assert isinstance(prelude, Segment)
            assert isinstance(site, SiteModule)
            read = compute(prelude, values)
            trajectory = run.trajectories[index]
            slices, _, captures = site_inputs(site, read)
            given = Trajectory(trajectory.before, trajectory.after, slices, captures, {}, {})
            own = {state.name: states[state.name] for state in site.layered}
            values |= read | site.emit_all(own, given)
        last = self.postlude if target == len(self.sites) else self.preludes[target]
        assert isinstance(last, Segment)
        return compute(last, values)


class StreamingProgram(nn.Module):
    """A model that is one time step, run over time with its states fed back."""

    def __init__(self, findings: Findings, cells: Sequence[Sequence[Cell]], parameters: Parameters) -> None:
        super().__init__()
        (site,), (own,) = findings.sites, cells
        opsets = dict(findings.model.opset_imports)
        self.site = SiteModule(site, own, opsets=opsets, parameters=parameters)

    @property
    def sites(self) -> tuple[SiteModule, ...]:
        return (self.site,)

    def forward(self, inputs: Values, initial: Values) -> Run:
        """Run one sample: `inputs` by name with time first, `initial` by state name."""
        trajectory = self.site.run(inputs, initial, {})
        return Run(trajectory.outputs, (trajectory,))

    def calls(self, run: Run, inputs: Values) -> Iterator[Call]:
        """What a run computed, part by part."""
        return (call.within("site") for call in self.site.calls(run.trajectories[0]))


class ChainProgram(nn.Module):
    """A feed-forward model as the chain of its blocks.

    Args:
        model: normalised model.
        chain: its blocks.
        parameters: shared store of the floating-point initializers.
    """

    def __init__(self, model: ir.Model, chain: Chain, parameters: Parameters) -> None:
        super().__init__()
        graph, opsets = model.graph, dict(model.opset_imports)
        self.input_names = [str(value.name) for value in graph.inputs]
        self.output_names = [str(value.name) for value in graph.outputs]
        self.chain = chain
        sources = [self.input_names, *([name] for name in chain.boundaries)]
        targets = [*([name] for name in chain.boundaries), self.output_names]
        self.blocks = nn.ModuleList(
            Segment(graph, [*source, *own], target, opsets=opsets, parameters=parameters)
            for source, target, own in zip(sources, targets, chain.sides, strict=True)
        )
        known, parts = list(self.input_names), []
        for own, boundary in zip(chain.sides, (*chain.boundaries, ""), strict=True):
            new = [name for name in own if name not in known]
            parts.append(Segment(graph, known, new, opsets=opsets, parameters=parameters))
            known = [*known, *new, boundary]
        self.side_parts = nn.ModuleList(parts)
        self.shifts: Sequence[Tensor] | None = None
        """What is added to the value at each boundary, for derivatives by it."""

    def forward(self, inputs: Values) -> Run:
        """Run one sample; `inputs` by name, in the model's own shapes."""
        values = dict(inputs)
        given: tuple[Tensor, ...] = tuple(inputs[name] for name in self.input_names)
        sides = [self._sides(0, values)]
        for number, name in enumerate(self.chain.boundaries):
            (value,) = (own_tensor(own) for own in self.blocks[number](*given, *sides[number]))
            values[name] = value if self.shifts is None else value + self.shifts[number]
            given = (values[name],)
            sides.append(self._sides(number + 1, values))
        outputs = dict(zip(self.output_names, self.blocks[-1](*given, *sides[-1]), strict=True))
        boundaries = tuple(values[name] for name in self.chain.boundaries)
        return Run(outputs, boundaries=boundaries, sides=tuple(sides))

    def _sides(self, number: int, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What a block reads beside the boundary before it; kept in `values`."""
        part = self.side_parts[number]
        assert isinstance(part, Segment)
        if not part.is_empty:
            values |= compute(part, values)
        return tuple(values[name] for name in self.chain.sides[number])

    def block(self, number: int, run: Run) -> Callable[[Tensor], Sequence[Tensor]]:
        """A block behind the first as a function of the boundary before it; all else is as in a run."""

        def function(value: Tensor) -> Sequence[Tensor]:
            result: Sequence[Tensor] = self.blocks[number](value, *(run.sides[number] if run.sides else ()))
            return result

        return function

    def calls(self, run: Run, inputs: Values) -> Iterator[Call]:
        """What a run on these inputs computed, block by block."""
        first = tuple(inputs[name] for name in self.input_names)
        given = [first, *((boundary,) for boundary in run.boundaries)]
        sides = run.sides or ((),) * len(given)
        return (
            Call(f"blocks.{number}", (*own, *beside))
            for number, (own, beside) in enumerate(zip(given, sides, strict=True))
        )


def _computed_from(graph: ir.Graph, names: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` that are, or are computed from, any of `sources`."""
    values = body_values(graph)
    stops = {values[name] for name in sources}
    computed = (name for name in names if name in values)
    return tuple(n for n in computed if values[n] in stops or direct_sources(values[n], stops))


def reads_of(site: RecurrentSite) -> list[str]:
    """Main-graph values that a site reads: sequences, initial states, captures."""
    names = [*(sequence.main for sequence in site.inputs)]
    names += [state.initial for state in site.states if state.initial]
    return list(dict.fromkeys([*names, *site.captures.values()]))


def writes_of(site: RecurrentSite) -> list[str]:
    """Main-graph values that a site writes: sequences and final states."""
    names = [*(sequence.main for sequence in site.outputs)]
    return [*names, *(state.final for state in site.states if state.final)]


def compute(segment: Segment, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a segment on the values that it names."""
    outputs = segment(*(values[name] for name in segment.inputs))
    return dict(zip(segment.outputs, outputs, strict=True))


def site_inputs(
    site: SiteModule, read: Values
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Slices, initial states and captures of a site from the main-graph values that it reads."""
    slices = {
        sequence.body: slices_of(sequence, read[sequence.main], is_reverse=site.is_reverse)
        for sequence in site.site.inputs
    }
    initial = {state.name: read[state.initial] for state in site.site.states if state.initial}
    captures = {inner: read[outer] for inner, outer in site.site.captures.items()}
    return slices, initial, captures
