"""Which constants may stand in one place at two steps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from unrolled_models import Unroller

from lsc_graph.recurrence.unrolled.constants import Constants

H = 4


def test_small_constants_of_one_shape_are_alike_however_they_are_computed() -> None:
    """A gate that a clock opens: which of two lines it is on has been folded."""
    net = Unroller()
    rise, fall = net.weight(H), net.weight(H)
    for flags in ([True, False, True, True], [False, False, True, False]):
        net.initializers[f"flags{flags}"] = np.array(flags)
        net.output(net.op("Where", f"flags{flags}", rise, net.op("Mul", rise, fall)))
    net.output(net.op("Concat", rise, fall, axis=0))
    graph = ir.from_proto(net.model()).graph
    one, other, longer = graph.outputs
    assert Constants(graph).alike(one, other)
    assert Constants(graph).alike(one, graph.initializers[rise])
    assert not Constants(graph).alike(one, longer)
