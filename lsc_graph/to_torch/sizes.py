"""Constants that say sizes, axes or padding alone: they stay on the host, which reads them at every step.

On another device it would wait for that each time.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

# Where operators read what onnx2fx turns into Python numbers and nothing else.
_READ = {"Reshape": {1}, "Squeeze": {1}, "Unsqueeze": {1}, "Split": {1}, "Slice": {1, 2, 3, 4}, "Pad": {1, 2}}


def lift_constants(graph: ir.Graph) -> None:
    """Make initializers of the constants that nodes hold, in place: sizes are told from others by name."""
    if not any(node.op_type == "Constant" for node in graph):
        return
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(
        ir.Model(graph, ir_version=10)
    )


def sizes_in(graph: ir.Graph) -> list[str]:
    """The initializers of a graph, by name, that operators read as sizes or axes alone."""
    others = {str(value.name) for value in graph.outputs}
    found: set[str] = set()
    for node in graph.all_nodes():
        places = _READ.get(node.op_type, set()) if node.domain in ("", "ai.onnx") else set()
        for place, value in enumerate(node.inputs):
            if value is not None:
                (found if place in places else others).add(str(value.name))
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                others |= {str(value.name) for value in attribute.as_graph().outputs}
    return [str(name) for name in graph.initializers if name in found - others]
