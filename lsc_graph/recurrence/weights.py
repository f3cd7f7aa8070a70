"""What one step of a recurrence consists of: its nodes, and the tensors of the file that it trains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import onnx_ir as ir

from lsc_graph.canonical.origins import label_of, origin_of, place_of
from lsc_graph.model_file.provenance import STANDS_FOR
from lsc_graph.recurrence.dataflow import body_values, copied, inputs_of
from lsc_graph.recurrence.not_weights import running_statistics, why_not_a_weight
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.unrolled.constants import is_offset
from lsc_graph.results import StepNode

_NO_STEP = ("Identity", "Constant")


def step_nodes(site: RecurrentSite) -> tuple[StepNode, ...]:
    """The nodes that the new states of one step are computed by, in order, copies and constants aside."""
    behind = set(_behind(_new_states(site), is_step=True)[0])
    own = (node for node in site.body.graph if node in behind and node.op_type not in _NO_STEP)
    return tuple(StepNode(_called(node, site), node.op_type) for node in own)


def _called(node: ir.Node, site: RecurrentSite) -> str:
    """What a node was called in the file: of unrolled steps, the prefix with their name is ours."""
    return (node.name or str(node.outputs[0].name)).removeprefix(f"{site.node}.step.")


def trained_tensors(
    main: ir.Graph, site: RecurrentSite, others: Iterable[RecurrentSite] = ()
) -> tuple[str, ...]:
    """Names in the file of the weights that enter the next states before any other state.

    They are found against the gradient's way: what the new states are computed from, be it in the step,
    before the loop, or in the step of another recurrence behind that one's states.

    Args:
        main: the graph that the sites capture values from.
        site: the recurrence.
        others: the other ones of the model.
    """
    way = _Way(main, others)
    way.follow(site, _new_states(site), frozenset())
    statistics = running_statistics(main) | running_statistics(site.body.graph)
    tensors = [value for value in way.read if _is_trained(value, statistics)]
    return tuple(dict.fromkeys(_name_in_file(value) for value in tensors))


class _Way:
    """Everything that values are computed from, up to the states of recurrences that are passed."""

    def __init__(self, main: ir.Graph, sites: Iterable[RecurrentSite]) -> None:
        self.outer = {**dict(main.initializers.items()), **body_values(main)}
        self.emitted = {sequence.main: (site, sequence) for site in sites for sequence in site.outputs}
        self.read: dict[ir.Value, None] = {}
        self._seen: set[ir.Value] = set()

    def follow(self, site: RecurrentSite, values: Iterable[ir.Value], states: Collection[ir.Value]) -> None:
        """Values of one step, and what the step reads for them."""
        found = _behind(values, is_step=True, stops=states)[1]
        self.read |= dict.fromkeys(found)
        names = {str(value.name) for value in found} | {str(value.name) for value in values}
        read = [main for body, main in site.captures.items() if body in names]
        read += [sequence.main for sequence in site.inputs if sequence.body in names]
        self._follow_outside([self.outer[name] for name in read if name in self.outer])

    def _follow_outside(self, values: Sequence[ir.Value]) -> None:
        """Values of the main graph; where another recurrence emits them, what its step has for them."""
        new = [value for value in values if value not in self._seen]
        self._seen.update(new)
        found = [*new, *_behind(new)[1]]
        self.read |= dict.fromkeys(found)
        for value in found:
            site, sequence = self.emitted.pop(str(value.name), (None, None))
            if site is not None and sequence is not None:
                body = body_values(site.body.graph)
                self.follow(site, [body[sequence.body]], _states(site))


def _new_states(site: RecurrentSite) -> list[ir.Value]:
    values = body_values(site.body.graph)
    return [values[state.after] for state in site.states]


def _states(site: RecurrentSite) -> set[ir.Value]:
    """The new states of a step, under whatever name, and the old ones."""
    values = body_values(site.body.graph)
    found = {values[state.before] for state in site.states}
    for value in _new_states(site):
        found.add(value)
        while (source := copied(value)) is not None:
            value = source
            found.add(value)
    return found


def _behind(
    values: Iterable[ir.Value], *, is_step: bool = False, stops: Collection[ir.Value] = ()
) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that values are computed by as far as `stops`, and everything that these read.

    Other recurrences end it, unless they are part of one step, and so do offsets of first steps.
    """
    nodes: dict[ir.Node, None] = {}
    read: dict[ir.Value, None] = {}
    pending = list(values)
    while pending:
        value = pending.pop()
        node = None if value in stops or is_offset(value) else value.producer()
        if node is None or node in nodes or (node.op_type == "Scan" and not is_step):
            continue
        nodes[node] = None
        sources = list(inputs_of(node))
        read |= dict.fromkeys(sources)
        pending += sources
    return list(nodes), list(read)


def _is_trained(value: ir.Value, statistics: Collection[str]) -> bool:
    tensor = value.const_value
    if tensor is None or not value.is_initializer() or not tensor.dtype.is_floating_point():
        return False
    return tensor.size > 1 and why_not_a_weight(value, tensor.numpy(), statistics) is None


def _name_in_file(value: ir.Value) -> str:
    origin = origin_of(value)
    if origin is None:
        return str(value.name)
    return label_of((value.metadata_props.get(STANDS_FOR, origin[-1]),), place_of(value))
