"""From a model file to its layers: everything that needs no run of the torch view."""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from lsc_graph.canonical.newer_opset import in_runnable_opset
from lsc_graph.canonical.normalize import normalize, simplify, upgrade_opset, upgraded
from lsc_graph.canonical.precision import in_single_precision, is_half
from lsc_graph.canonical.rewiring import RECURRENT_OPS
from lsc_graph.errors import NoLayersError, UnsupportedOpsetError, UsageError
from lsc_graph.layers.cells import Cell, CellGraph, cells_of_site, depth_edges_within
from lsc_graph.layers.chain import Chain, find_chain, why_no_chain
from lsc_graph.layers.exposure import structural_depth_edges
from lsc_graph.model_file.load import LoadedModel, load
from lsc_graph.planning import DEFAULT_NUM_STEPS, Planner, Request
from lsc_graph.quantized.dequantize import dequantized, is_quantized
from lsc_graph.recurrence.find import Findings, find_recurrences
from lsc_graph.recurrence.layered.write_out import write_out_layers
from lsc_graph.recurrence.observed_shapes import observe_shapes
from lsc_graph.recurrence.streaming import UNDECIDED
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.roll import MIN_OPSET, has_steps
from lsc_graph.recurrence.written.reads import read_what_was_written
from lsc_graph.results import Form, Refusal
from lsc_graph.running.inputs import (
    Domain,
    InputPlan,
    check_names,
    declared_inputs,
    domains,
)
from lsc_graph.running.reference import Array, Reference

NUM_COUNTED = 9
"""Samples on which loops that the data may end are counted."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to be measured.

    `proto` is the model as it was read, `normalized` what its recurrences were found in (before fused
    operators were lowered). Exactly one of `cells` (recurrent) and `chain` (feed-forward) is used.
    `reference` is the model that results are compared with: as it was read, but without quantisation, of
    which `dequantized` names what was replaced. `runnable` is the model as it was read, in an operator set
    that ONNX Runtime takes; `remarks` say what that needed.
    """

    request: Request
    loaded: LoadedModel
    proto: onnx.ModelProto
    plan: InputPlan
    domains: dict[str, Domain]
    fixed: dict[str, Array]
    normalized: onnx.ModelProto
    findings: Findings
    cells: tuple[tuple[Cell, ...], ...]
    chain: Chain | None
    cell_graph: CellGraph
    is_half: bool
    reference: onnx.ModelProto
    dequantized: tuple[str, ...]
    runnable: onnx.ModelProto
    remarks: tuple[str, ...]


def prepare(source: str | os.PathLike[str] | bytes | onnx.ModelProto, request: Request) -> Prepared:
    """Load, normalise, find recurrences, build the cell graph.

    Raises:
        LscGraphError: as described in `lsc_graph.errors`.
    """
    loaded = load(source, must_run=False)
    runnable, words = in_runnable_opset(loaded.proto)
    floats, replaced = dequantized(runnable) if is_quantized(runnable) else (runnable, ())
    half = is_half(floats)
    single = in_single_precision(floats) if half else floats
    proto = upgrade_opset(single)
    known = domains(proto)
    declared = declared_inputs(proto)
    for given, option in (
        (request.values, "--input"),
        (request.shapes, "--input-shape"),
        (request.data, "--data"),
    ):
        check_names(given, declared, option)
    planner = Planner(proto, declared, known, request)
    plan, fixed = planner.plan()
    model = _normalized(proto, plan)
    layered = write_out_layers(model, simplify)
    if observe_shapes(model, lambda whole: Reference(whole).run(planner.feed(plan.shapes))):
        simplify(model)
    if read_what_was_written(model):
        simplify(model)
    _show_final_states(model.graph)
    normalized = ir.to_proto(model)
    trials = [_trial(planner, plan, sample) for sample in range(NUM_COUNTED)]
    findings = find_recurrences(
        model,
        num_steps=request.num_steps or DEFAULT_NUM_STEPS,
        states=request.states,
        trial=trials[0],
        more_trials=trials[1:],
    )
    cells, chain, cell_graph = _layers(findings)
    _check_steps(findings, request, planner, plan)
    return Prepared(
        request=request,
        loaded=loaded,
        proto=single,
        plan=plan,
        domains=known,
        fixed=fixed,
        normalized=normalized,
        findings=findings,
        cells=cells,
        chain=chain,
        cell_graph=cell_graph,
        is_half=half,
        reference=floats,
        dequantized=replaced,
        runnable=runnable,
        remarks=(*words, *layered),
    )


def initializers_of(prepared: Prepared) -> dict[str, ir.Value]:
    """Initializers by the name that the torch view's store knows them by."""
    found = dict(prepared.findings.model.graph.initializers)
    for site in prepared.findings.sites:
        for name, value in site.body.graph.initializers.items():
            found.setdefault(name, value)
            found.setdefault(f"{site.id}/{name}", value)
    return {str(name): value for name, value in found.items()}


def _trial(planner: Planner, plan: InputPlan, sample: int) -> Trial:
    return lambda part: Reference(part).run(planner.feed(plan.shapes, sample))


def _normalized(proto: onnx.ModelProto, plan: InputPlan) -> ir.Model:
    """The normalised model, in a newer operator set if steps may have to be rolled up."""
    model = normalize(proto, plan.shapes, plan.constants)
    if model.opset_imports.get("", 0) < MIN_OPSET and has_steps(model):
        try:
            return normalize(upgraded(proto), plan.shapes, plan.constants)
        except UnsupportedOpsetError:
            return model  # the unrolled finder says that it is too old
    return model


def _show_final_states(graph: ir.Graph) -> None:
    """Give every fused operator all of its outputs, so that its final states can be compared."""
    for node in graph:
        if node.op_type in RECURRENT_OPS:
            node.resize_outputs(3 if node.op_type == "LSTM" else 2)
            for index, value in enumerate(node.outputs[1:]):
                if not value.name:
                    value.name = f"{node.outputs[0].name or node.name}.final_{'hc'[index]}"
                value.type = value.type or node.outputs[0].type


def _layers(findings: Findings) -> tuple[tuple[tuple[Cell, ...], ...], Chain | None, CellGraph]:
    cells: list[tuple[Cell, ...]] = []
    longest = max((site.num_steps for site in findings.sites), default=1)
    for site in findings.sites:
        own = site.num_steps if site.num_steps < longest else None
        cells.append(cells_of_site(site, sum(map(len, cells)), own))
    layers = tuple(cell.layer for own in cells for cell in own)
    if not layers:
        may_have_states = any(own.reason.startswith(UNDECIDED) for own in findings.refusals)
        chain = find_chain(findings.model, may_have_states=may_have_states)
        if not chain.boundaries:
            raise _no_layers(findings, may_have_states=may_have_states)
        return (), chain, chain.cells
    within = tuple(edge for own in cells for edge in depth_edges_within(own))
    edges = within + structural_depth_edges(findings, [own for own in cells if own])
    return tuple(cells), None, CellGraph(layers, edges, longest)


def _no_layers(findings: Findings, *, may_have_states: bool) -> NoLayersError:
    """The error for a model without any layer that is known: where weights are, and why they make none."""
    looped = [r for r in findings.refusals if r.finder == "loop"]  # what these hold has no known size
    others = [r for r in findings.refusals if r not in looped]
    weights = () if may_have_states else why_no_chain(findings.model)
    return NoLayersError(
        "Neither a recurrence nor a chain of blocks with weights was found",
        where=", ".join(str(value.name) for value in findings.model.graph.outputs),
        got="; ".join([*map(_words, looped), *weights, *map(_words, others)]),
        expected="a recurrent model, or one with a chain of weighted blocks from inputs to outputs",
        do="declare a streaming state with --state INPUT:OUTPUT, or with --state none that there is none; "
        "for a part of a feed-forward model, audit a copy of it that ends there",
    )


def _words(refusal: Refusal) -> str:
    return f"{refusal.candidate}: {refusal.reason}"


def _check_steps(findings: Findings, request: Request, planner: Planner, plan: InputPlan) -> None:
    taken = sorted({site.num_steps for site in findings.sites})
    if request.num_steps is None or not taken or request.num_steps in taken:
        return
    words = " or ".join(map(str, taken))
    expected = f"the {words} steps that the input shapes imply"
    do = "leave out --steps, or change the length with --input-shape"
    is_written_out = all(site.form is Form.UNROLLED for site in findings.sites)
    if is_written_out or (not (request.shapes or request.data) and planner.has_fixed_length(plan)):
        expected = f"{words}: the length is fixed in the file, as by an export with an example of this length"
        do = (
            "leave out --steps; for another length, export the model again with an open time axis "
            "(torch: dynamic_shapes or dynamic_axes) or with an example of that length"
        )
    raise UsageError(
        "The model does not take the number of steps that --steps asks for",
        got=f"--steps {request.num_steps}; the model's recurrences take {words}",
        expected=expected,
        do=do,
    )


def is_streaming(prepared: Prepared) -> bool:
    """Whether one run of the model is one time step."""
    return any(site.form is Form.STREAMING for site in prepared.findings.sites)
