"""What the chain of a feed-forward model leaves out: other inputs and outputs, and weights on their ways."""

from __future__ import annotations

from collections.abc import Iterator

from lsc_graph.layers.gradient_flow import FromInputs, GradientFlow
from lsc_graph.prepare import Prepared
from lsc_graph.wording import few


def beside_chain(prepared: Prepared) -> tuple[str, ...]:
    """Inputs that are held, outputs that part from the chain, and operators in no block, in words."""
    chain = prepared.chain
    if chain is None:
        return ()
    flow = GradientFlow(prepared.findings.model.graph)
    layer_of = dict(zip(chain.boundaries, (layer.id for layer in chain.cells.layers), strict=True))
    return (
        *_held(flow, chain.inputs),
        *_parting(flow, layer_of, chain.output),
        *_outside(flow, layer_of, FromInputs(flow, chain.inputs)),
    )


def _held(flow: GradientFlow, sources: tuple[str, ...]) -> Iterator[str]:
    """Inputs that gradients of outputs lead to, but not by way of the first layer."""
    reached = {own for name in flow.outputs for own in flow.stops_before(name, flow.inputs)}
    names = sorted((reached & flow.carrying) - set(sources))
    if names:
        verb = "is" if len(names) == 1 else "are"
        yield (
            f"The layers are those on the way from {', '.join(sources)}: {few(names)} {verb} read past the "
            "first layer and held, so the gradient is not followed there"
        )


def _parting(flow: GradientFlow, layer_of: dict[str, str], followed: str | None) -> Iterator[str]:
    last = list(layer_of)[-1]
    for name in flow.outputs:
        read = flow.stops_before(name, {*layer_of, *flow.inputs})
        if name == followed or name in layer_of or read <= {last}:
            continue
        places = [layer_of[own] for own in layer_of if own in read] + sorted(read - set(layer_of))
        yield (
            f"Output {name} is computed from {few(places)}, not from the last layer alone: the layers are "
            f"those on the way to {followed}, the first output with the most of them; to analyse the other "
            f"one, audit a copy of the model in which {name} is the only output"
        )


def _outside(flow: GradientFlow, layer_of: dict[str, str], ways: FromInputs) -> Iterator[str]:
    inside = set(layer_of)
    pending = list(layer_of)
    while pending:
        for source in flow.before(pending.pop()):
            if source not in inside and ways.reach(source):
                inside.add(source)
                pending.append(source)
    outside = [name for name in flow.values if name not in inside and flow.depends_on_input(name)]
    weighted = [name for name in outside if flow.reads_weights(name)]
    if weighted:
        shown = few([_words(flow, name) for name in weighted])
        yield (
            f"{len(weighted)} operator(s) with weights stand beside the layers or behind the last ({shown}): "
            "the gradient is followed from layer to layer, and not through these"
        )


def _words(flow: GradientFlow, name: str) -> str:
    node = flow.values[name].producer()
    return f"{node.op_type if node is not None else ''} {name}".strip()
