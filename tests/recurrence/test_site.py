"""The direction of a recurrence that reads some of its sequences from the start and others from the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis, Direction

T, H = 5, 3
MASK = [1, 1, 1, 0, 0]


def audited(proto: onnx.ModelProto, constants: dict[str, np.ndarray], path: Path) -> Analysis:
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(proto, path)
    return audit(path, num_samples=1)


def masked_scan(
    x_direction: int, mask_direction: int, mask_type: str, mask: list[int], path: Path
) -> Analysis:
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]> m (float[{T},{H}] x) => (float[{T},{H}] y) {{
            last, y = Scan <num_scan_inputs = 2, scan_input_directions = [{x_direction}, {mask_direction}],
                scan_output_directions = [{x_direction}], body = step (float[{H}] h, float[{H}] xt,
                {mask_type}[1] m) => (float[{H}] h_new, float[{H}] o) {{
                u = MatMul(h, R) s = Add(u, xt) n = Tanh(s) k = Cast <to = 9> (m)
                h_new = Where(k, n, h) o = Identity(h_new) }}> (h0, x, mask) }}"""
    )
    kinds = {"float": np.float32, "bool": np.bool_, "int32": np.int32}
    weights = np.random.default_rng(0).standard_normal((H, H)).astype(np.float32)
    constants = {"R": weights, "h0": np.zeros(H, np.float32)}
    return audited(proto, constants | {"mask": np.array(mask, kinds[mask_type]).reshape(T, 1)}, path)


@pytest.mark.parametrize("mask_type", ["bool", "int32", "float"])
@pytest.mark.parametrize("x_direction", [0, 1])
def test_a_mask_that_is_read_the_other_way_is_read_as_if_it_were_flipped(
    tmp_path: Path, x_direction: int, mask_type: str
) -> None:
    one = masked_scan(x_direction, 1 - x_direction, mask_type, MASK, tmp_path / "one.onnx")
    two = masked_scan(x_direction, x_direction, mask_type, MASK[::-1], tmp_path / "two.onnx")
    radii = [[own.time_radius.mean for own in found.layers if own.time_radius] for found in (one, two)]
    assert radii[0] == pytest.approx(radii[1], abs=1e-6)
    assert one.grid == two.grid
    (found,) = one.recurrences
    is_told = x_direction and mask_type != "float"
    assert found.direction is (Direction.REVERSE if is_told else Direction.FORWARD)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_an_operator_with_lengths_may_read_a_flipped_sequence(tmp_path: Path, direction: str) -> None:
    """Its mask is not flipped with it."""
    generator = np.random.default_rng(0)
    weights = {"W": (1, 3 * H, H), "R": (1, 3 * H, H)}
    constants = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    constants["lengths"] = np.array([3], np.int32)
    numbers = {"minus_one": -1, "start": -(2**40), "zero": 0}
    flip = {name: np.array([number]) for name, number in numbers.items()}
    found = []
    for text, more in (("r = Slice(x, minus_one, start, zero, minus_one)", flip), ("r = Neg(x)", {})):
        proto = parse_model(
            f"""<ir_version: 10, opset_import: ["" : 18]> m (float[{T},1,{H}] x) => (float[{T},1,1,{H}] y) {{
                {text} y, h = GRU <hidden_size = {H}, direction = "{direction}"> (r, W, R, , lengths) }}"""
        )
        found.append(audited(proto, constants | more, tmp_path / "lengths.onnx"))
    one, two = (own.recurrences[0].direction for own in found)
    assert (one, two) == (
        (Direction.REVERSE, Direction.FORWARD)
        if direction == "forward"
        else (Direction.FORWARD, Direction.REVERSE)
    )
