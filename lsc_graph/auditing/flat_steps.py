"""Values that move with the states, although their derivatives are zero wherever they are taken.

u - Mod(u, 1) and |u| / u are thresholds that no single operator shows. So the parts of a program are run
once more, in double precision and with the derivative along a random direction beside every value, at states
as far apart as a run's own are: where a value depends on what has a derivative, differs from state to state,
and has none itself at any of them, the gradient is cut. Differences tell first whether there is anything to
look for, as derivatives of this kind take torch a second to get ready for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.to_torch.converted import Converted
from lsc_graph.to_torch.loop import Call, CellModule, SiteModule
from lsc_graph.to_torch.parity import on_host
from lsc_graph.to_torch.program import ChainProgram, Run, SequenceProgram, StreamingProgram, writes_of
from lsc_graph.to_torch.segment import Segment

_Look = Iterator[tuple[torch.fx.Node, Tensor, Tensor]]
Program = SequenceProgram | StreamingProgram | ChainProgram
# How far the states that are looked at lie from one of a run, over the spread of its elements.
_DISTANCES = (0.0, 0.03, 0.1, 0.3, 1.0, 1.0, 2.0, 4.0)
# At fewer of them nothing is said. Derivatives over the spread below this part of what values move are none.
_LEAST, _NOTHING = 4, 1e-8
# Parts that read more elements are not looked at: twice their values would be held in double precision.
_MAX_ELEMENTS = 2**25
# Of differences, over the spread.
_STEP = 1e-6


@torch.no_grad()
def flat_steps(parts: Sequence[Part]) -> tuple[str, ...]:
    """Names of the nodes where the gradient between states, or layers, is cut without a threshold.

    Args:
        parts: those of the model that gradients pass through, as of `moving_parts`.
    """
    return tuple(dict.fromkeys(name for part in parts for name in part.flat()))


@torch.no_grad()
def moving_parts(program: Program, run: Run, inputs: dict[str, Tensor]) -> list[Part]:
    """The parts of a program that gradients between states or layers pass through, at one of their calls.

    Args:
        program: the model in torch.
        run: what it computed.
        inputs: from what.
    """
    found = []
    calls: dict[str, list[Call]] = {}
    for call in program.calls(run, inputs):
        calls.setdefault(call.path, []).append(call)
    for path, own in calls.items():
        part = program.get_submodule(path)
        graph = _graph_of(part)
        moving = _moving(program, path, part)
        given = own[len(own) // 2].given
        if graph is not None and any(moving) and _num_elements(graph, given) <= _MAX_ELEMENTS:
            found.append(Part(graph, _held(given), moving))
    return found


def _held(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Values on the host, numbers in double precision: for those it waits once."""
    numbers = iter(on_host([value for value in values if value.is_floating_point()]))
    return tuple(
        torch.from_numpy(next(numbers)) if value.is_floating_point() else value.detach().cpu()
        for value in values
    )


def _graph_of(part: nn.Module) -> torch.fx.GraphModule | None:
    """A part in torch operators; None where it runs elsewhere, or does nothing."""
    segment = part.segment if isinstance(part, CellModule) else part
    if not isinstance(segment, Segment) or segment.is_empty or not isinstance(segment.module, Converted):
        return None
    return segment.module.graph


def _num_elements(graph: torch.fx.GraphModule, given: tuple[Tensor, ...]) -> int:
    return sum(own.numel() for own in (*given, *graph.parameters(), *graph.buffers()))


def _moving(program: Program, path: str, part: nn.Module) -> list[bool]:
    """Which of a part's inputs gradients between states or layers come through."""
    if isinstance(program, ChainProgram):
        assert isinstance(part, Segment)
        return [number == 0 and path != "blocks.0" for number in range(len(part.inputs))]
    names = set(_carried(program, path))
    if isinstance(part, CellModule):
        return [kind in ("before", "after") or name in names for kind, name in part.reads]
    assert isinstance(part, Segment)
    return [name in names for name in part.inputs]


def _carried(program: SequenceProgram | StreamingProgram, path: str) -> Iterator[str]:
    """Names of values of the main graph or a body that depend on states."""
    if path.startswith(("preludes", "postlude")):
        for site in program.sites:
            assert isinstance(site, SiteModule)
            yield from writes_of(site.site)
        return
    number = int(path.split(".")[1]) if path.startswith("sites") else 0
    module = program.sites[number]
    assert isinstance(module, SiteModule)
    for state in module.site.states:
        yield from (state.before, state.after)
    if isinstance(program, SequenceProgram):
        yield from _from_below(module.site, program.reads_from_below[number])


def _from_below(site: RecurrentSite, below: tuple[str, ...]) -> Iterator[str]:
    yield from (own.body for own in site.inputs if own.main in below)
    yield from (inner for inner, main in site.captures.items() if main in below)


@dataclass
class _Seen:
    """What the values of one node did so far; none are kept that are not finite."""

    num_looks: int = 0
    first: Tensor | None = None
    largest: float = 0.0
    moved: float = 0.0
    slope: float = 0.0

    @property
    def may_be_flat(self) -> bool:
        return self.slope <= _NOTHING * self.largest

    @property
    def is_flat(self) -> bool:
        return self.num_looks >= _LEAST and self.slope <= _NOTHING * self.moved and self.moved > 0

    def note(self, value: Tensor, tangent: Tensor) -> None:
        """At one more state."""
        if not (value.numel() and bool(value.isfinite().all()) and bool(tangent.isfinite().all())):
            return
        self.num_looks += 1
        self.largest = max(self.largest, float(value.abs().amax()))
        self.slope = max(self.slope, float(tangent.abs().amax()))
        if self.first is None:
            self.first = value
        elif self.first.shape == value.shape:
            moved = float((value - self.first).abs().amax())
            self.moved = max(self.moved, moved if moved > _NOTHING * self.largest else 0.0)


@dataclass(frozen=True)
class Part:
    """A part of a program, as a function of those of its inputs that move."""

    graph: torch.fx.GraphModule
    given: tuple[Tensor, ...]
    moving: list[bool]
    constants: dict[torch.fx.Node, Tensor] = field(default_factory=dict)

    @property
    def num_elements(self) -> int:
        """How many elements it reads."""
        return _num_elements(self.graph, self.given)

    def flat(self) -> list[str]:
        """Names of the nodes that cut the gradient of what moves."""
        try:
            if not self._seen(self._differences):
                return []
            found = self._seen(self._derivatives)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return []  # an operator that does not take double precision, or no such values

        def has_a_derivative(node: torch.fx.Node) -> bool:
            return node in found and not found[node].is_flat

        return [
            name_of(node)
            for node, own in found.items()
            if own.is_flat and any(map(has_a_derivative, node.all_input_nodes))
        ]

    def _seen(self, look: Callable[[list[Tensor], list[Tensor]], _Look]) -> dict[torch.fx.Node, _Seen]:
        """What every value did, as far as it was looked at; none where no value may be flat."""
        generator = torch.Generator().manual_seed(0)
        seen: dict[torch.fx.Node, _Seen] = {}
        for distance in _DISTANCES:
            points = [self.moved(own, distance, generator) for own in range(len(self.given))]
            for node, value, slope in look([own for own, _ in points], [own for _, own in points]):
                seen.setdefault(node, _Seen()).note(value, slope)
            if not any(own.may_be_flat for own in seen.values()):
                return {}
        return seen if any(own.is_flat for own in seen.values()) else {}

    def moved(self, number: int, distance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An input some spreads of its elements away, in double precision, and a direction as long."""
        value = self.given[number]
        if not value.is_floating_point() or not value.numel() or not self.moving[number]:
            return value, torch.zeros_like(value)
        value = value.double()
        spread = float(value.std(correction=0)) or float(value.abs().amax()) or 1.0
        aside, along = (
            spread * torch.randn(value.shape, generator=generator, dtype=value.dtype) for _ in range(2)
        )
        return value + distance * aside, along

    def _differences(self, values: list[Tensor], along: list[Tensor]) -> _Look:
        there = [
            own + _STEP * way if moves and own.is_floating_point() else own
            for own, way, moves in zip(values, along, self.moving, strict=True)
        ]
        first, second = (DoubleRun(self.graph, self.constants).values_of(given) for given in (values, there))
        dependent = self._dependent()
        for node, value in first.items():
            if node in dependent and node in second and second[node].shape == value.shape:
                yield node, value, (second[node] - value) / _STEP

    def _dependent(self) -> set[torch.fx.Node]:
        """Nodes that depend on what moves."""
        inputs = (node for node in self.graph.graph.nodes if node.op == "placeholder")
        found = {node for node, moves in zip(inputs, self.moving, strict=True) if moves}
        for node in self.graph.graph.nodes:
            if any(own in found for own in node.all_input_nodes):
                found.add(node)
        return found

    def _derivatives(self, values: list[Tensor], along: list[Tensor]) -> _Look:
        with forward_ad.dual_level():
            duals = [
                _dual(own, way) if moves and own.is_floating_point() else own
                for own, way, moves in zip(values, along, self.moving, strict=True)
            ]
            for node, dual in DoubleRun(self.graph, self.constants).values_of(duals).items():
                value, slope = _parts(dual)
                if slope is not None:
                    yield node, value, slope


def name_of(node: torch.fx.Node) -> str:
    """A node as reports name it."""
    return f"{node.meta.get('onnx_name') or node.name} ({node.meta.get('onnx_op_type', node.target)})"


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]  # torch's is untyped
    return dual


def _parts(dual: Tensor) -> tuple[Tensor, Tensor | None]:
    """A value, and its derivative if it has one."""
    value, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]  # as above
    return value, tangent


class DoubleRun(torch.fx.Interpreter):
    """Runs a part in double precision, and keeps every value; constants leave the device at the first run."""

    def __init__(self, graph: torch.fx.GraphModule, constants: dict[torch.fx.Node, Tensor]) -> None:
        super().__init__(graph)
        self._constants = constants
        self._values: dict[torch.fx.Node, Tensor] = {}

    def values_of(self, given: list[Tensor]) -> dict[torch.fx.Node, Tensor]:
        """Numbers, by the nodes that compute them."""
        self.run(*given)
        return self._values

    def run_node(self, n: torch.fx.Node) -> Any:
        if n in self._constants:
            self._values[n] = self._constants[n]
            return self._values[n]
        try:
            result = super().run_node(n)
        except (RuntimeError, NotImplementedError):
            result = self._unknown(n)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if n.op == "get_attr":
            self._constants[n] = result = result.detach().cpu().double()
        self._values[n] = result.double()
        return self._values[n]

    def _unknown(self, node: torch.fx.Node) -> Any:
        """A node that is not differentiated forwards, as surrogates are not: any derivative will do."""
        args, kwargs = tree_map_only(
            Tensor, lambda own: _parts(own)[0], self.fetch_args_kwargs_from_env(node)
        )
        result = getattr(self, node.op)(node.target, args, kwargs)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        return _dual(result, torch.ones_like(result))
