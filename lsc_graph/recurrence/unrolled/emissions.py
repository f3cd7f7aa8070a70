"""Who reads what the steps computed: joins over time become the sequence itself, single steps a Gather."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.unrolled.steps import Images, Steps
from lsc_graph.recurrence.writer import GraphWriter, replace_output


@dataclass(frozen=True)
class Emission:
    """A value of each step that is read outside of the recurrence.

    `images` are in true time order. Where the readers join them along an axis of size one, that axis
    (`squeezed_axis`) is dropped in the step and is the time axis of the sequence (`scan_axis`).
    """

    key: ir.Value
    images: tuple[ir.Value | None, ...]
    squeezed_axis: int | None
    scan_axis: int


def replaced_nodes(steps: Steps) -> set[ir.Node]:
    """Nodes that nobody needs once the steps are a loop: theirs, and those of a simplified first step."""
    found = {node for images in steps.nodes.values() for node in images if node is not None}
    images = {image for lane in steps.values.values() for image in lane if image is not None}
    pending = [node for image in images if (node := image.producer()) is not None and node not in found]
    while pending:
        node = pending.pop()
        if node in found or any(v not in images and outside_uses(v, found) for v in node.outputs):
            continue
        found.add(node)
        pending += [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
    return found


def outside_uses(value: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether anything but the given nodes reads a value."""
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())


def find_emissions(steps: Steps, inside: set[ir.Node], *, is_reverse: bool) -> list[Emission]:
    """The values of a step that others read, at any of the steps; last states are outputs as it is."""
    found, handed_on = [], set(steps.after.values())
    for key, lane in steps.values.items():
        needed = lane[:-1] if key in handed_on else lane
        if any(image is not None and outside_uses(image, inside) for image in needed):
            images: Images = list(lane)[::-1] if is_reverse else list(lane)
            axis = _joining_axis(key, images, inside)
            found.append(Emission(key, tuple(images), axis, 0 if axis is None else axis))
    return found


def _joining_axis(key: ir.Value, images: Images, inside: set[ir.Node]) -> int | None:
    """The axis of size one along which most readers join the steps, if any do."""
    rank = len(key.shape or ())
    axes: Counter[int] = Counter()
    for image in images:
        for use in image.uses() if image is not None else ():
            if use.node.op_type == "Concat" and use.node not in inside:
                axes[use.node.attributes.get_int("axis", 0) % max(rank, 1)] += 1
    axis = axes.most_common(1)[0][0] if axes else None
    is_single = axis is not None and key.shape is not None and key.shape[axis] == 1
    return axis if is_single else None


def replace_joins(emission: Emission, sequence: ir.Value, writer: GraphWriter) -> None:
    """In every Concat of all steps, in their order or backwards, put the sequence in their place."""
    if emission.squeezed_axis is None:
        return
    flipped: ir.Value | None = None
    named: set[ir.Value] = set()
    for node in _joins(emission):
        inputs, count = list(node.inputs), len(emission.images)
        start = min(inputs.index(emission.images[0]), inputs.index(emission.images[-1]))
        part = tuple(inputs[start : start + count])
        if part == emission.images[::-1]:
            flipped = flipped or _backwards(emission, sequence, writer)
        elif part != emission.images:
            continue
        whole = sequence if part == emission.images else flipped
        joined = [*inputs[:start], whole, *inputs[start + count :]]
        for index, value in enumerate(joined):
            node.replace_input_with(index, value)
        node.resize_inputs(len(joined))
        if len(joined) == 1 and whole is not None:
            _put_in_place_of_join(node, whole, named)


def _put_in_place_of_join(node: ir.Node, whole: ir.Value, named: set[ir.Value]) -> None:
    """Let the readers of a join of nothing else read the sequence; the first time, it takes the name over."""
    output = node.outputs[0]
    if whole in named and output.is_graph_output():
        return
    if whole in named:
        ir.convenience.replace_all_uses_with(output, whole)
    else:
        replace_output(output, whole)
        named.add(whole)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _joins(emission: Emission) -> list[ir.Node]:
    """The Concat nodes that read both the first step and the last."""
    readers = [[use.node for use in v.uses()] if v is not None else [] for v in emission.images]
    return [n for n in dict.fromkeys(readers[0]) if n.op_type == "Concat" and n in readers[-1]]


def _backwards(emission: Emission, sequence: ir.Value, writer: GraphWriter) -> ir.Value:
    bounds = [writer.integers([k]) for k in (-1, -np.iinfo(np.int64).max, emission.scan_axis, -1)]
    return writer.op("Slice", [sequence, *bounds], "backwards", sequence.shape, sequence.dtype)


def replace_emission(
    emission: Emission, sequence: ir.Value, writer: GraphWriter, inside: set[ir.Node]
) -> None:
    """Let the readers of the single steps read the sequence."""
    for time, image in enumerate(emission.images):
        if image is not None and outside_uses(image, inside):
            replace_output(image, _at(emission, sequence, time, writer))


def _at(emission: Emission, sequence: ir.Value, time: int, writer: GraphWriter) -> ir.Value:
    index = writer.integers([time]) if emission.squeezed_axis is not None else writer.scalar(time)
    shape, dtype = emission.key.shape, emission.key.dtype
    return writer.op("Gather", [sequence, index], "at_step", shape, dtype, axis=emission.scan_axis)
