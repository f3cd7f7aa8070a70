"""A small builder of ONNX nodes with readable, unique value names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir


class Emitter:
    """Collects nodes whose names start with `prefix`; every value that it makes gets a dtype.

    Args:
        prefix: beginning of every name, unique in the model.
        dtype: type of the floating-point values.
    """

    def __init__(self, prefix: str, dtype: ir.DataType) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._count = 0

    def name(self, hint: str) -> str:
        """A fresh name."""
        self._count += 1
        return f"{self.prefix}.{hint}_{self._count}"

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        attributes: Mapping[str, object] | None = None,
        dtype: ir.DataType | None = None,
        shape: Sequence[int] | None = None,
        output: ir.Value | None = None,
    ) -> ir.Value:
        """One node with one output."""
        node = ir.node(op_type, list(inputs), dict(attributes or {}), name=self.name(op_type))  # type: ignore[arg-type]
        value = node.outputs[0]
        value.name, value.dtype = f"{node.name}.out", dtype or self.dtype
        value.shape = ir.Shape(shape) if shape is not None else None
        self.nodes.append(node)
        if output is not None:
            replace_output(value, output)
        return value

    def integers(self, numbers: Sequence[int] | int, hint: str = "ints") -> ir.Value:
        """An int64 initializer."""
        return self._initializer(np.array(numbers, dtype=np.int64), hint)

    def number(self, number: float, hint: str = "number") -> ir.Value:
        """A floating-point scalar initializer."""
        return self._initializer(np.array(number, dtype=self.dtype.numpy()), hint)

    def zeros(self, shape: Sequence[int], hint: str = "zeros") -> ir.Value:
        """A floating-point initializer of zeros."""
        return self._initializer(np.zeros(shape, dtype=self.dtype.numpy()), hint)

    def _initializer(self, array: np.ndarray, hint: str) -> ir.Value:
        name = self.name(hint)
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.initializers.append(value)
        return value

    def pick(self, value: ir.Value, index: int, axis: int) -> ir.Value:
        """The slice number `index` along `axis`, which is dropped."""
        return self.op("Gather", value, self.integers(index), attributes={"axis": axis})

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        return self.op("Unsqueeze", value, self.integers([axis]))

    def transpose(self, value: ir.Value, *permutation: int) -> ir.Value:
        shape = [value.shape[axis] for axis in permutation] if value.shape is not None else None
        static = shape if shape is not None and all(isinstance(dim, int) for dim in shape) else None
        return self.op("Transpose", value, attributes={"perm": permutation}, shape=static)  # type: ignore[arg-type]

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        """Consecutive pieces of the given sizes."""
        lengths = self.integers(sizes)
        node = ir.node("Split", [value, lengths], {"axis": axis}, num_outputs=len(sizes), name=self.name("Split"))
        for index, piece in enumerate(node.outputs):
            piece.name, piece.dtype = f"{node.name}.out{index}", self.dtype
        self.nodes.append(node)
        return list(node.outputs)


def replace_output(new: ir.Value, old: ir.Value) -> None:
    """Put `new` in the place of `old`, under the name and with the type and shape of `old`."""
    name = old.name
    new.dtype, new.shape = old.dtype, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name = f"{name}.replaced"
    new.name = name
