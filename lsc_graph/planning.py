"""Shapes and values for all inputs of a model: as the user asked for them, or such that it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from lsc_graph.canonical.normalize import normalize, simplify
from lsc_graph.canonical.rewiring import RECURRENT_OPS
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError, InputError, UsageError
from lsc_graph.recurrence.layered.write_out import write_out_layers
from lsc_graph.recurrence.loops.lists import read_lists_as_tensors
from lsc_graph.recurrence.loops.rewrite import length_of
from lsc_graph.running.inputs import (
    Domain,
    InputPlan,
    OpenInput,
    apply_shapes,
    batch_dims,
    candidate_sizes,
    check_names,
    declared_inputs,
    domains,
    first_that_runs,
    open_dims,
    parse_value,
    shapes_for,
    size_for_steps,
    step_dims,
    synthetic,
)
from lsc_graph.running.reference import Array, Reference
from lsc_graph.running.sampling import shape_from_data
from lsc_graph.running.weight_sizes import weight_sizes

DEFAULT_NUM_STEPS = 32
MAX_LENGTH_TRIED = 257
MAX_SIZE_OF_ALL = 1024
_FIRST_THAT_RUNS = "the first size tried with which the model runs"


@dataclass(frozen=True)
class Request:
    """What the user asked for, as given."""

    num_steps: int | None
    values: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    states: Sequence[tuple[str, str]]
    data: Mapping[str, Array]


Feed = Callable[[Mapping[str, tuple[int, ...]], int], dict[str, Array]]
"""Synthetic values of all inputs, by their shapes and a seed."""


def plan_inputs(proto: onnx.ModelProto, request: Request) -> tuple[InputPlan, Feed]:
    """Concrete shapes for a model's inputs, and a source of synthetic values."""
    declared = declared_inputs(proto)
    check_names(request.shapes, declared, "--input-shape")
    planner = Planner(proto, declared, domains(proto), request)
    plan, _ = planner.plan()
    return plan, planner.feed


class Planner:
    """Finds concrete shapes and constants for all inputs."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        declared: Sequence[OpenInput],
        known: dict[str, Domain],
        request: Request,
    ) -> None:
        self.proto, self.known, self.request = proto, known, request
        given = dict(request.shapes)
        self.data_shapes: dict[str, tuple[int, ...]] = {}
        for value in declared:
            if value.name in request.data and value.name not in given:
                self.data_shapes[value.name] = shape_from_data(value, request.data[value.name])
        self.declared = tuple(declared)
        self.inputs, _ = apply_shapes(declared, given | self.data_shapes)
        self.fixed = {
            value.name: parse_value(value.name, request.values[value.name], value.dtype)
            for value in declared
            if value.name in request.values
        }
        self._found: dict[tuple[tuple[str, int], ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def plan(self) -> tuple[InputPlan, dict[str, Array]]:
        dims = open_dims(self.inputs)
        batch = set(batch_dims(self.inputs))
        sizes = {dim: 1 if dim in batch else 16 for dim in dims}
        words = dict.fromkeys(dims, "a batch of one")
        num_steps = self.request.num_steps or DEFAULT_NUM_STEPS
        together = step_dims(dims, sizes, self._num_steps) if dims else ()
        spread = step_dims(dims, sizes, self._batch_sizes) if dims else ()
        timed = [*itertools.chain(*together)]
        batch |= {*itertools.chain(*spread)} - {*timed}
        sizes |= {dim: 1 for dim in batch if dim not in timed}
        for own in together:
            sizes |= dict.fromkeys(own, size_for_steps(own, num_steps, sizes, self._num_steps))
            words |= dict.fromkeys(own, f"{num_steps} steps")
        rest = [dim for dim in dims if dim not in timed and dim not in batch]
        loose = sorted(batch - set(timed))
        if rest or (loose and not timed and self._try(sizes) is not None):
            found = self._first_that_runs(sizes, rest, loose)
            sizes |= found
            words |= dict.fromkeys(found, _FIRST_THAT_RUNS)
        elif timed and self._try(sizes) is not None:
            # Exporters declare dimensions as open whose size they have written into the graph.
            lengths = (dict.fromkeys(timed, size) for size in range(2, MAX_LENGTH_TRIED))
            sizes |= first_that_runs(lengths, lambda steps: self._try({**sizes, **steps}))
            words |= dict.fromkeys(timed, _FIRST_THAT_RUNS)
        shapes = shapes_for(self.inputs, sizes)
        self._check_given(shapes)
        self._settle_lengths(sizes)
        constants = self._constants(shapes)
        plan = InputPlan(shapes, constants, self.inputs)
        return replace(plan, sources=self._sources(words)), self.fixed

    def has_fixed_length(self, plan: InputPlan) -> bool:
        """Whether the model runs with no other size of what it declares as open, batches aside."""
        sizes = {
            dim: size
            for value in self.inputs
            for dim, size in zip(value.dims, plan.shapes[value.name], strict=True)
            if isinstance(dim, str)
        }
        others = set(sizes) - batch_dims(self.inputs)
        return all(self._try({**sizes, dim: 2 * sizes[dim]}) is not None for dim in others)

    def _check_given(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Files take other sizes than they declare where an exporter has written those of its example in."""
        given = [name for name in shapes if name in self.data_shapes or name in self.request.shapes]
        if not given:
            return
        reference = self.reference
        try:
            reference.run(self.feed(shapes))
        except AnalysisError as error:
            raise InputError(
                "The model does not run on inputs of the given shapes",
                where=", ".join(f"{name} {list(shapes[name])}" for name in given),
                got=error.got,
                expected="shapes that every operator of the file takes, whatever sizes it declares as open",
                do="give the shapes that it was exported with; if it runs on none, export it again",
            ) from error

    def _first_that_runs(
        self, sizes: Mapping[str, int], rest: Sequence[str], batch: Sequence[str]
    ) -> dict[str, int]:
        """Sizes for dimensions of unknown meaning; if there are none, what looks like a batch is none."""

        def runs(extra: Mapping[str, int]) -> AnalysisError | None:
            return self._try({**sizes, **extra})

        asked = weight_sizes(self.proto)
        try:
            return first_that_runs(_with_ones(rest, asked) if rest else iter(({},)), runs)
        except InputError:
            if not batch:
                raise
            every = [*rest, *batch]
            lengths = _one_at_a_time(every, range(2, MAX_LENGTH_TRIED))
            return first_that_runs(itertools.chain(lengths, _with_ones(every, asked)), runs)

    def _settle_lengths(self, sizes: Mapping[str, int]) -> None:
        """Sequences are whole, unless lengths are given."""
        for name, domain in self.known.items():
            if domain.is_length:
                length = max(self._num_steps(sizes), default=1)
                self.known[name] = Domain(np.array([length]), f"{length}, the whole sequence")

    def _constants(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Integer and boolean inputs of a single element: their value decides what the graph does.

        Not so a token, which only picks a row of a table.
        """
        constants = {}
        for value in self.inputs:
            shape = shapes[value.name]
            if np.issubdtype(value.dtype, np.floating) or int(np.prod(shape)) != 1:
                continue
            domain = self.known[value.name]
            if domain.is_token and value.name not in self.fixed:
                continue
            choices = domain.choices
            given = self.request.data.get(value.name, self.fixed.get(value.name))
            if given is not None:
                choices = _the_same(value.name, given)
            if choices is None:
                continue
            constants[value.name] = np.asarray(choices, dtype=value.dtype).reshape(-1)[-1:].reshape(shape)
        return constants

    def _num_steps(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """How many steps each fused recurrent operator or Scan takes at these sizes."""
        return self._extents(sizes)[0]

    def _batch_sizes(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The batch of each fused recurrent operator at these sizes."""
        return self._extents(sizes)[1]

    def _extents(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        key = tuple(sorted(sizes.items()))
        if key not in self._found:
            shapes = shapes_for(self.inputs, sizes)
            try:
                model = normalize(self.proto, shapes, self._constants(shapes))
                write_out_layers(model, simplify)
            except AnalysisError:
                return (), ()
            self._found[key] = tuple(_lengths_in(model)), tuple(_batches_in(model.graph))
        return self._found[key]

    def _try(self, sizes: Mapping[str, int]) -> AnalysisError | None:
        """None if the model runs at these sizes."""
        reference = self.reference  # a file that cannot be loaded at all has an error of its own
        try:
            reference.run(self.feed(shapes_for(self.inputs, sizes)))
        except AnalysisError as error:
            return error
        return None

    def feed(self, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
        """One sample: given values, and synthetic ones where none are given."""
        generator = np.random.default_rng(seed)
        feed = {
            v.name: synthetic(self.known[v.name], shapes[v.name], v.dtype, generator) for v in self.inputs
        }
        feed |= {
            v.name: np.broadcast_to(self.fixed[v.name], shapes[v.name]).astype(v.dtype)
            for v in self.inputs
            if v.name in self.fixed
        }
        given = [v for v in self.inputs if shapes[v.name] == self.data_shapes.get(v.name)]
        for value in given:
            whole = self.request.data[value.name].reshape(-1, *shapes[value.name])
            feed[value.name] = whole[seed % len(whole)].astype(value.dtype)
        return feed | self._constants(shapes)

    @property
    def reference(self) -> Reference:
        if not hasattr(self, "_reference"):
            self._reference = Reference(self.proto)
        return self._reference

    def _sources(self, words: Mapping[str, str]) -> dict[str, str]:
        """Where each input's shape and values came from, in words."""
        sources = {}
        for value in self.declared:
            if value.name in self.request.data:
                sources[value.name] = "given data"
                continue
            text = self.known[value.name].words
            if value.name in self.fixed:
                text = f"given value {self.request.values[value.name]}"
            opened = [f"{dim}: {words[dim]}" for dim in value.open_dims if dim in words]
            if value.name in self.request.shapes:
                opened = ["given shape"]
            sources[value.name] = "; ".join([text, *dict.fromkeys(opened)])
        return sources


def _the_same(name: str, given: Array) -> Array:
    """Given values of an input that decides what the graph does: one value for all samples and steps."""
    values = np.unique(given)
    if len(values) > 1:
        raise UsageError(
            "The value of this input decides what the graph does, so it cannot change within one analysis",
            where=name,
            got=f"{len(values)} values, from {values[0]} to {values[-1]}",
            expected="the same value for all samples and steps",
            do="analyse the samples of each value by themselves",
        )
    return given


def _lengths_in(model: ir.Model) -> Iterator[int]:
    read_lists_as_tensors(model)
    for node in model.graph:
        if node.op_type in RECURRENT_OPS:
            shape, axis = static_shape(node.inputs[0]), node.attributes.get_int("layout", 0)
        elif node.op_type == "Scan":
            shape = static_shape(node.inputs[-1])
            axis = (node.attributes.get_ints("scan_input_axes", None) or [0])[-1]
        elif node.op_type == "Loop":
            if (length := length_of(model, node)) is not None:
                yield length
            continue
        else:
            continue
        if shape is not None:
            yield shape[axis]


def _batches_in(graph: ir.Graph) -> Iterator[int]:
    for node in graph:
        if node.op_type in RECURRENT_OPS and (shape := static_shape(node.inputs[0])) is not None:
            yield shape[1 - node.attributes.get_int("layout", 0)]


def _with_ones(dims: Sequence[str], asked: Sequence[int]) -> Iterator[dict[str, int]]:
    """Candidate sizes; for few dimensions also with all choices of some of them being 1.

    Large ones that are asked for come last, and for one dimension at a time: they are those of a flattened
    image more often than of its sides.
    """
    for sizes in candidate_sizes(dims, [size for size in asked if size <= MAX_SIZE_OF_ALL]):
        masks = (
            itertools.product((True, False), repeat=len(dims)) if len(dims) <= 3 else [(True,) * len(dims)]
        )
        for mask in masks:
            yield {dim: sizes[dim] if big else 1 for dim, big in zip(dims, mask, strict=True)}
    yield from _one_at_a_time(dims, [size for size in asked if size > MAX_SIZE_OF_ALL])


def _one_at_a_time(dims: Sequence[str], sizes: Sequence[int]) -> Iterator[dict[str, int]]:
    """Candidate sizes with all dimensions but one being 1."""
    for size in sizes:
        for dim in dims:
            yield dict.fromkeys(dims, 1) | {dim: size}
