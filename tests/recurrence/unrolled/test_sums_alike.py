"""First steps whose sums an exporter has nested in another way are steps like the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from unrolled_models import Network, at

from lsc_graph.audit_model import audit
from lsc_graph.recurrence.unrolled.sums_alike import nest_sums_alike
from lsc_graph.results import Analysis

T, D, H = 6, 3, 4
APART = "computed in another way"
Constants = dict[str, np.ndarray]
First = Callable[[Network, str, Constants], str]
Later = Callable[[Network, str, str, Constants], str]


def named(net: Network, known: Constants, name: str) -> str:
    return name if name in net.initializers else net.constant(known[name], name)


def gemm(net: Network, known: Constants, x: str, w: str, added: str) -> str:
    return net.op("Gemm", x, named(net, known, w), added)


def biased_first(net: Network, x: str, known: Constants) -> str:
    """(x W + h0 U) + b"""
    return net.op("Add", gemm(net, known, x, "w", named(net, known, "start")), named(net, known, "b"))


def merged_first(net: Network, x: str, known: Constants) -> str:
    """x W + (b + h0 U)"""
    whole = net.constant(known["b"] + known["start"], "whole")
    return net.op("Add", net.op("MatMul", x, named(net, known, "w")), whole)


def plain_first(net: Network, x: str, known: Constants) -> str:
    """h0 U + (x W + b)"""
    return net.op("Add", named(net, known, "start"), gemm(net, known, x, "w", named(net, known, "b")))


def biased(net: Network, x: str, h: str, known: Constants) -> str:
    """(x W + b) + h U"""
    product = net.op("MatMul", h, named(net, known, "u"))
    return net.op("Add", gemm(net, known, x, "w", named(net, known, "b")), product)


def nested(net: Network, x: str, h: str, known: Constants) -> str:
    """(x W + b) + h U, of Adds alone"""
    drive = net.op("Add", net.op("MatMul", x, named(net, known, "w")), named(net, known, "b"))
    return net.op("Add", drive, net.op("MatMul", h, named(net, known, "u")))


def in_product(net: Network, x: str, h: str, known: Constants) -> str:
    """h U + (x W + b), all in one Gemm"""
    return gemm(net, known, h, "u", gemm(net, known, x, "w", named(net, known, "b")))


def network(first: First, later: Later, start: np.ndarray, *, is_given: bool = False) -> onnx.ModelProto:
    """Steps h' = tanh(x W + h U + b), the first of which reads what h0 U is."""
    generator = np.random.default_rng(0)
    known = {
        name: generator.standard_normal(shape).astype(np.float32) / 2
        for name, shape in (("w", (D, H)), ("u", (H, H)), ("b", (H,)))
    }
    known["start"] = (start @ known["u"]).reshape(H)
    net = Network(is_given=False, num_steps=T)
    x, h, rows = net.input("z", T, 1, D), net.constant(start, "h0") if is_given else "", list[str]()
    for time in range(T):
        now = at(net, x, time)
        h = net.op("Tanh", later(net, now, h, known) if h else first(net, now, known))
        rows.append(h)
    return net.done(rows, rows)


def radii(found: Analysis) -> list[float]:
    return [layer.time_radius.mean for layer in found.layers if layer.time_radius is not None]


ZEROS, LEARNED = np.zeros((1, H), np.float32), np.float32([[0.5, -0.3, 0.2, 0.9]])


@pytest.mark.parametrize("start", [ZEROS, LEARNED], ids=["zeros", "learned"])
@pytest.mark.parametrize("later", [biased, nested, in_product])
@pytest.mark.parametrize("first", [biased_first, merged_first, plain_first])
def test_a_first_step_that_adds_its_constants_in_another_order_is_one_of_the_steps(
    first: First, later: Later, start: np.ndarray
) -> None:
    data = {name: np.random.default_rng(1).standard_normal((T, 1, D), np.float32) for name in ("x", "z")}
    found = audit(network(first, later, start), data=data, num_samples=1)
    given = audit(network(first, later, start, is_given=True), data=data, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T]
    assert radii(found) == pytest.approx(radii(given), rel=1e-5)
    assert not any(APART in text for text in found.warnings)


def test_sums_of_steps_that_are_alike_stay_as_they_are() -> None:
    for first, later in ((plain_first, nested), (biased_first, biased)):
        graph = ir.from_proto(network(first, later, LEARNED, is_given=True)).graph
        before = [(node.op_type, node.name) for node in graph]
        nest_sums_alike(graph)
        assert [(node.op_type, node.name) for node in graph] == before


def test_a_layer_that_shares_a_weight_with_later_ones_but_leads_not_to_them_stays_as_it_is() -> None:
    """Parallel branches: one adds its bias after a constant, and none reads it."""
    net = Network(is_given=True, num_steps=4)
    w, u, b, x = net.weight(D, H), net.weight(H, H), net.weight(H), net.input("z", 4, 1, D)
    net.output(net.op("Add", net.op("Gemm", at(net, x, 0), w, net.weight(H)), b))
    for time in range(1, 4):
        drive = net.op("Gemm", at(net, x, time), w, b)
        net.output(net.op("Add", drive, net.op("MatMul", net.input(f"h{time}", 1, H), u)))
    graph = ir.from_proto(net.model()).graph
    before = [node.name for node in graph]
    nest_sums_alike(graph)
    assert [node.name for node in graph] == before


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_what_the_optimiser_of_onnx_runtime_fuses_in_all_steps_but_the_first_has_the_same_radius(
    level: str, tmp_path: Path
) -> None:
    """Also its products with an activation function inside."""
    proto = network(plain_first, nested, LEARNED)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = {name: np.random.default_rng(1).standard_normal((T, 1, D), np.float32) for name in ("x", "z")}
    one, other = (audit(own, data=data, num_samples=1) for own in (proto, tmp_path / "optimised.onnx"))
    assert [own.num_steps for own in other.recurrences] == [T]
    assert radii(one) == pytest.approx(radii(other), rel=1e-5)


def with_memory(*, is_given: bool) -> onnx.ModelProto:
    """h' = tanh(x W + b + h U + e V), e' = 0.9 e + 0.1 h', fused from the second step on."""
    generator = np.random.default_rng(0)
    shapes = {"w": (D, H), "u": (H, H), "v": (H, H), "b": (H,), "h": (1, H), "e": (1, H)}
    known = {k: generator.standard_normal(s).astype(np.float32) / 2 for k, s in shapes.items()}
    net = Network(is_given=False, num_steps=T)
    x, rows = net.input("z", T, 1, D), list[str]()
    h, e = (net.constant(known[name], f"{name}0") if is_given else "" for name in ("h", "e"))
    for time in range(T):
        drive = gemm(net, known, at(net, x, time), "w", named(net, known, "b"))
        if h:
            total = gemm(net, known, e, "v", gemm(net, known, h, "u", drive))
            kept = net.op("Mul", e, net.constant(0.9, f"decay{time}"))
        else:
            products = [net.constant(known[a] @ known[b]) for a, b in (("h", "u"), ("e", "v"))]
            total = net.op("Add", net.op("Add", drive, products[0]), products[1])
            kept = net.constant(0.9 * known["e"])
        h = net.op("Tanh", total)
        e = net.op("Add", kept, net.op("Mul", h, net.constant(0.1, f"rate{time}")))
        rows.append(net.op("Add", h, e))
    return net.done(rows, rows)


def test_constants_in_place_of_several_products_are_told_apart_by_the_order_in_which_they_are_added() -> None:
    data = {name: np.random.default_rng(1).standard_normal((T, 1, D), np.float32) for name in ("x", "z")}
    found, given = (audit(with_memory(is_given=own), data=data, num_samples=1) for own in (False, True))
    assert [own.num_steps for own in found.recurrences] == [T]
    assert radii(found) == pytest.approx(radii(given), rel=1e-5)
    assert not any("no start is known" in text for text in found.warnings)


def bilinear(*, is_given: bool) -> onnx.ModelProto:
    """h' = tanh((x W) (h U) + h V), the sum written into the last product from the second step on."""
    generator = np.random.default_rng(0)
    shapes = {"w": (D, H), "u": (H, H), "v": (H, H), "h": (1, H)}
    known = {k: generator.standard_normal(s).astype(np.float32) / 2 for k, s in shapes.items()}
    net = Network(is_given=False, num_steps=T)
    x, rows, h = net.input("z", T, 1, D), list[str](), ""
    for time in range(T):
        drive = net.op("MatMul", at(net, x, time), named(net, known, "w"))
        if h or is_given:
            h = h or named(net, known, "h")
            back = net.op("MatMul", h, named(net, known, "u"))
            total = gemm(net, known, h, "v", net.op("Mul", drive, back))
        else:
            gate, product = (net.constant(known["h"] @ known[name]) for name in ("u", "v"))
            total = net.op("Add", net.op("Mul", drive, gate), product)
        h = net.op("Tanh", total)
        rows.append(h)
    return net.done(rows, rows)


def test_a_term_that_a_constant_enters_instead_of_a_product_is_the_same_term() -> None:
    data = {name: np.random.default_rng(1).standard_normal((T, 1, D), np.float32) for name in ("x", "z")}
    found, given = (audit(bilinear(is_given=own), data=data, num_samples=1) for own in (False, True))
    assert [own.num_steps for own in found.recurrences] == [T]
    assert radii(found) == pytest.approx(radii(given), rel=1e-5)


def test_zeros_that_first_steps_of_layers_multiply_make_these_no_steps_of_one_another() -> None:
    """One begins with f 0 + i g, and two above it with i g + f 0: so each of them goes on."""
    net = Network(is_given=True)
    x, zeros = net.input("z", 1, H), net.constant(np.zeros((1, H), np.float32), "zeros")
    value = net.op("Add", net.op("Mul", x, zeros), net.op("Mul", x, x))
    for _ in range(2):
        value = net.op("Add", net.op("Mul", value, value), net.op("Mul", value, zeros))
    net.output(value)
    graph = ir.from_proto(net.model()).graph
    before = [node.name for node in graph]
    nest_sums_alike(graph)
    assert [node.name for node in graph] == before
