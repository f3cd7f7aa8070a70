"""The sites of a model's loops: those over time, those over depth, and those that are no layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from lsc_graph.recurrence.delays import only_delays
from lsc_graph.recurrence.fused_ops import LoweredOp
from lsc_graph.recurrence.loops.rewrite import LoweredLoop
from lsc_graph.recurrence.reversal import reads_in_reverse
from lsc_graph.recurrence.scan import site_of_scan
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.totals import is_running_total
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.roll import RolledSteps
from lsc_graph.recurrence.weights import trained_tensors
from lsc_graph.results import Direction, Form, Refusal


def sites_of_loops(
    model: ir.Model,
    looped: list[ir.Node],
    lowered: Sequence[LoweredOp],
    rolled: Sequence[RolledSteps],
    loops: Sequence[LoweredLoop],
) -> tuple[RecurrentSite, ...]:
    """One for each Scan of the main graph, whatever it stands for; in their order.

    Args:
        model: its recurrences are Scans.
        looped: these Scans.
        lowered, rolled, loops: what some of them were before.
    """
    origin = {scan: op for op in lowered for scan in op.scans}
    unrolled = {steps.rolled.scan: steps for steps in rolled}
    written = {loop.scan: loop for loop in loops}
    repeated = Counter(op.original_name for op in lowered)
    recurrences: dict[str, str] = {}
    sites: list[RecurrentSite] = []
    for node in looped:
        op = origin.get(node)
        name = str(node.name)
        if op is not None:
            name = op.node_name if repeated[op.original_name] > 1 else op.original_name
        elif node in unrolled:
            name = unrolled[node].name
        elif node in written:
            name = written[node].name
        recurrence = recurrences.setdefault(name, f"recurrence_{len(recurrences)}")
        if op is not None:
            sites.append(_fused_site(model, node, op, recurrence, name))
        elif node in unrolled:
            sites.append(_unrolled_site(model, unrolled[node], recurrence))
        elif node in written:
            sites.append(_loop_site(model, written[node], recurrence))
        else:
            sites.append(site_of_scan(model, node, recurrence=recurrence, name=name, form=Form.SCAN))
    return tuple(sites)


def _fused_site(model: ir.Model, node: ir.Node, op: LoweredOp, recurrence: str, name: str) -> RecurrentSite:
    both = op.direction is Direction.BIDIRECTIONAL
    suffix = (".reverse" if reads_in_reverse(node) else ".forward") if both else ""
    return site_of_scan(
        model,
        node,
        recurrence=recurrence,
        name=name + suffix,
        form=Form.FUSED_OP,
        direction=op.direction if both else None,
        state_names=op.state_names,
    )


def _loop_site(model: ir.Model, loop: LoweredLoop, recurrence: str) -> RecurrentSite:
    return site_of_scan(
        model,
        loop.scan,
        recurrence=recurrence,
        name=loop.name,
        form=Form.LOOP,
        state_names=loop.state_names,
    )


def _unrolled_site(model: ir.Model, steps: RolledSteps, recurrence: str) -> RecurrentSite:
    site = site_of_scan(
        model,
        steps.rolled.scan,
        recurrence=recurrence,
        name=steps.name,
        form=Form.UNROLLED,
        state_names=steps.rolled.state_names,
    )
    return replace(site, over_depth=steps.over_depth, watched=steps.rolled.watched, chosen=steps.made.texts)


def told_apart(
    model: ir.Model, looped: Sequence[ir.Node], sites: Sequence[RecurrentSite]
) -> tuple[tuple[RecurrentSite, ...], tuple[Refusal, ...]]:
    """Loops over time, loops over depth, and mere iterations, which train nothing and are refused."""
    constants = Constants(model.graph)
    found, refused = [], []
    is_any_layer = any(site.states and not only_delays(site) for site in sites)
    for node, site in zip(looped, sites, strict=True):
        if is_any_layer and only_delays(site):
            reason = (
                "what its steps carry only delays what they read, as in a causal convolution step by step: "
                "part of what is around it"
            )
            refused.append(Refusal(site.node, site.form.value, reason))
        elif site.form not in (Form.LOOP, Form.SCAN):
            found.append(site)
        elif not site.states:
            reason = "no step hands anything on to the next one: a map, part of what is around it"
            refused.append(Refusal(site.node, site.form.value, reason))
        elif is_running_total(site, _read_outputs(node)):
            reason = "its steps only add up: a running total, as in pooling"
            refused.append(Refusal(site.node, site.form.value, reason))
        elif not is_over_depth(node, constants):
            found.append(site)
        elif trained_tensors(model.graph, site):
            found.append(replace(site, over_depth=True))
        else:
            reason = "its steps read no sequence and train no weight: an iteration, part of what is around it"
            refused.append(Refusal(site.node, site.form.value, reason))
    return tuple(found), tuple(refused)


def _read_outputs(node: ir.Node) -> set[str]:
    """The names of a node's outputs that anybody reads."""
    used = (value for value in node.outputs if value.is_graph_output() or any(True for _ in value.uses()))
    return {str(value.name) for value in used}


def is_over_depth(node: ir.Node, constants: Constants) -> bool:
    """Whether a Scan reads no sequence but of constants (weights of its layers, say), and leaves none."""
    num_sequences = node.attributes.get_int("num_scan_inputs", 0)
    num_states = len(node.inputs) - num_sequences
    left = [v for v in node.outputs[num_states:] if v.is_graph_output() or any(True for _ in v.uses())]
    return not left and all(value in constants for value in node.inputs[num_states:])
