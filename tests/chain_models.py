"""Feed-forward networks of which layers read more than the layer before them."""

from __future__ import annotations

import onnx
from parsed_models import parsed

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (float[1, 4] x, float[1, 4] context, float low, int64[1, 4] keep) => (float[1, 4] y, float[1, 4] z)
<float[1, 4] places = {0, 1, 2, 3}, float zero = {0}> {
    h1 = MatMul(x, w)
    k = MatMul(context, u)
    a1 = Add(h1, k)
    s1 = Tanh(a1)
    h2 = MatMul(s1, u)
    a2 = Add(h2, k)
    t2 = Tanh(a2)
    s2 = Add(t2, s1)
    mask = Cast<to=1>(keep)
    m2 = Mul(s2, mask)
    h3 = MatMul(m2, w)
    is_kept = GreaterOrEqual(places, low)
    s3 = Where(is_kept, h3, zero)
    h4 = MatMul(s3, u)
    y = Tanh(h4)
    both = Add(s3, s1)
    z = MatMul(both, u)
}"""


def masked_chain() -> onnx.ModelProto:
    """Four layers that read masks, a held input and a bypass beside the layer before, and two heads."""
    return parsed(TEXT, w=(4, 4), u=(4, 4))
