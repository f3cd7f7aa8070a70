"""Recurrences in branches that the data decide are layers; the report says how often their branch counts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Unroller

from lsc_graph.audit_model import audit, inspect
from lsc_graph.errors import NoLayersError

T, H = 6, 4


def gru(net: Unroller, source: str, name: str) -> tuple[onnx.NodeProto, str]:
    weights = [net.weight(1, 3 * H, H), net.weight(1, 3 * H, H)]
    node = onnx.helper.make_node("GRU", [source, *weights], [f"{name}_y"], hidden_size=H, name=name)
    return node, f"{name}_y"


def branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    shaped = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None, None, None])
    return onnx.helper.make_graph(nodes, output, [], [shaped])


def choosing(*, is_alike: bool = True) -> onnx.ModelProto:
    """A GRU, then another one if the mean of x is positive, else what the first gave, or its last step."""
    net = Unroller()
    x = net.input("x", T, 1, H)
    below, sequence = gru(net, x, "below")
    net.nodes.append(below)
    squeezed = net.op("Squeeze", sequence, net.constant([1]))
    condition = net.op("Greater", net.op("ReduceMean", x, keepdims=0), net.constant(0.0))
    above, result = gru(net, squeezed, "above")
    then = branch([above, onnx.helper.make_node("Squeeze", [result, net.constant([1])], ["t"])], "t")
    last = onnx.helper.make_node("Gather", [squeezed, net.constant([T - 1])], ["e"], axis=0)
    other = branch([onnx.helper.make_node("Neg", [squeezed], ["e"]) if is_alike else last], "e")
    net.output(net.op("If", condition, then_branch=then, else_branch=other))
    return net.model()


def samples(*means: float) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).standard_normal((len(means), T, 1, H)).astype(np.float32)
    noise -= noise.mean((1, 2, 3), keepdims=True)
    return {"x": noise + np.array(means, dtype=np.float32).reshape(-1, 1, 1, 1)}


@pytest.mark.parametrize(("means", "count"), [((1.0, 1.0, -1.0), 2), ((-1.0, -2.0), 0)])
def test_the_recurrence_in_a_branch_is_a_layer_and_the_samples_that_take_it_are_counted(
    means: tuple[float, ...], count: int
) -> None:
    analysis = audit(choosing(), data=samples(*means), num_samples=len(means), black_box="never")
    assert [(layer.name, layer.depth_from) for layer in analysis.layers] == [
        ("below", ()),
        ("above", ("layer_0",)),
    ]
    (line,) = [line for line in analysis.warnings if "branch" in line]
    assert line.startswith("above stands in the then branch of if_")
    assert f"which {count} of {len(means)} samples take" in line


def test_inspect_names_the_branch() -> None:
    (line,) = [line for line in inspect(choosing()).warnings if "branch" in line]
    assert "samples" not in line


def written_out(net: Unroller, x: str, u: str, *, is_alike: bool = True) -> onnx.GraphProto:
    """h[t] = tanh(x[t] + h[t-1] u) for all steps, or their last state, as a branch of its own."""
    inner, h, rows = Unroller(), "", list[str]()
    inner.initializers = net.initializers
    prefix = f"b{len(net.nodes)}{is_alike}_"
    for time in range(T):
        row = inner.op("Gather", x, inner.constant(time), axis=0)
        h = inner.op("Tanh", inner.sum(row, h and inner.op("MatMul", h, u)))
        rows.append(inner.op("Unsqueeze", h, inner.constant([0])))
    output = inner.op("Concat", *rows, axis=0) if is_alike else rows[-1]
    for node in inner.nodes:
        made = {name for other in inner.nodes for name in other.output}
        node.input[:] = [prefix + name if name in made else name for name in node.input]
    for node in inner.nodes:
        node.output[:] = [prefix + name for name in node.output]
        node.name = prefix + node.name
    return branch(list(inner.nodes), prefix + output)


def choosing_steps(*, is_alike: bool = True) -> onnx.ModelProto:
    """Steps written out if the mean of x is positive, else x itself."""
    net = Unroller()
    x, u = net.input("x", T, 1, H), net.weight(H, H)
    condition = net.op("Greater", net.op("ReduceMean", x, keepdims=0), net.constant(0.0))
    then = written_out(net, x, u, is_alike=is_alike)
    other = branch([onnx.helper.make_node("Neg", [x], ["e"])], "e")
    net.output(net.op("If", condition, then_branch=then, else_branch=other))
    return net.model()


def test_the_branch_of_steps_that_are_written_out_is_named_too() -> None:
    analysis = audit(choosing_steps(), data=samples(1.0, -1.0), num_samples=2)
    assert [layer.state_size for layer in analysis.layers] == [H]
    (line,) = [line for line in analysis.warnings if "branch" in line]
    assert "the then branch of if_" in line
    assert "which 1 of 2 samples take" in line


def test_steps_in_a_branch_of_another_shape_are_named_as_not_looked_into() -> None:
    with pytest.raises(NoLayersError) as caught:
        audit(choosing_steps(is_alike=False), data=samples(1.0), num_samples=1)
    assert caught.value.got is not None
    assert "of shape (1, 1, 4) or" in caught.value.got


def test_a_branch_of_another_shape_stays_and_what_it_holds_is_named() -> None:
    found = audit(choosing(is_alike=False), data=samples(1.0), num_samples=1)
    assert [layer.name for layer in found.layers] == ["below"]
    assert any("above" in line and "branch" in line for line in found.warnings)
