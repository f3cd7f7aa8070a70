"""A torch module pre-trained in place: exported, pre-trained as ONNX, its values put back, both compared."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lsc_graph.errors import AnalysisError, LscGraphError, VerificationError
from lsc_graph.memory import memory_errors_named
from lsc_graph.pretrain_results import PretrainReport
from lsc_graph.pretraining.checkpoint import remove
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.device import whole_single_precision
from lsc_graph.to_torch.parity import ParityCheck, Tolerance
from lsc_graph.writeback.parameter_map import (
    Array,
    ParameterMap,
    evaluated,
    exported,
    exported_with_own,
    floats,
)
from lsc_graph.writeback.weights import with_values

_OF_STEPS = ("checkpoint", "resume", "keep_checkpoint", "progress", "stage")


@whole_single_precision()
@memory_errors_named()
def stabilize(
    module: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    target: str | None = None,
    *,
    dynamic_shapes: Any = None,
    freeze: Sequence[str] = (),
    **options: Any,
) -> PretrainReport:
    """Pre-train a torch module's parameters in place to the local stability condition.

    The module is exported without folding, the export is pre-trained, and the new values are put back into
    the parameters that they are copies of. It is exported in evaluation mode; parameters that require no
    gradient keep their values. Afterwards the module exports to exactly the pre-trained model and agrees
    with ONNX Runtime on the example inputs; otherwise its old parameters are restored.

    Args:
        module: any module that `torch.onnx.export(..., dynamo=True)` takes; needs the extra `stabilize`.
        example_inputs: its positional arguments, or the only one; best a batch of one, of the length T that
            it will be trained on, for radii depend on T.
        target: as in `lsc_graph.pretrain`.
        dynamic_shapes: as in `torch.onnx.export`, to leave dimensions open.
        freeze: patterns of parameter names that keep their values.
        options: further ones of `lsc_graph.pretrain`.

    Returns:
        The radii before and after, and the reason for each that was not reached.

    Raises:
        UsageError: the request is wrong.
        AnalysisError: the module cannot be exported, analysed or trained; `VerificationError` if its
            parameters cannot be mapped exactly, or the module then differs from the model.
    """
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    proto, own = exported_with_own(module, arguments, dynamic_shapes)
    _check_export(module, arguments, proto)
    mapping = ParameterMap(module, arguments, dynamic_shapes, proto, own)
    kept = [*freeze, *_kept(proto, mapping, module, target, freeze, options)]
    found = pretrain(proto, target=target, freeze=kept, **options | {"keep_checkpoint": True})
    new = mapping.loaded(module, found.values)
    old = [parameter.detach().clone() for parameter in module.parameters()]
    _assign(module, new)
    try:
        _verify(module, arguments, dynamic_shapes, with_values(proto, found.values))
    except BaseException:
        _assign(module, old)
        raise
    if options.get("checkpoint") is not None and not options.get("keep_checkpoint"):
        remove(options["checkpoint"])
    return found.report


def _check_export(module: nn.Module, arguments: tuple[Any, ...], proto: onnx.ModelProto) -> None:
    """The exporter wrote what the module computes: some modules, it writes wrongly."""
    try:
        _compare(module, arguments, proto)
    except LscGraphError as error:
        raise AnalysisError(
            "The ONNX model that torch exports is not what the module computes",
            where=type(module).__name__,
            got=str(error).splitlines()[0],
            do="write the layer in question in operations that torch exports rightly",
        ) from error


def _kept(
    proto: onnx.ModelProto,
    mapping: ParameterMap,
    module: nn.Module,
    target: str | None,
    freeze: Sequence[str],
    options: Mapping[str, Any],
) -> list[str]:
    """Patterns of the tensors that would be trained, but are no copies of trainable parameters."""
    unwanted = {*mapping.inexact(list(floats(proto))), *mapping.frozen(module)}
    if not unwanted:
        return []
    # A look takes no steps: what is kept of those, and said of them, is the fit's.
    looked = {name: options[name] for name in options if name not in _OF_STEPS} | {"max_iterations": 0}
    trained = pretrain(proto, target=target, freeze=freeze, **looked).report.trained
    whole = {name.partition("[")[0] for name in trained if name not in unwanted}
    return [glob.escape(name) for name in sorted(unwanted & {*trained, *whole})]


def _assign(module: nn.Module, values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)


def _verify(
    module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any, expected: onnx.ModelProto
) -> None:
    """The module exports to the expected model, bit by bit, and computes what that computes."""
    wanted, got = floats(expected), floats(exported(module, arguments, dynamic_shapes))
    for name, array in wanted.items():
        if name not in got or not np.array_equal(got[name], array):
            raise VerificationError("The module does not export to the pre-trained model", where=name)
    _compare(module, arguments, expected)


def _compare(module: nn.Module, arguments: tuple[Any, ...], expected: onnx.ModelProto) -> None:
    """The module computes what ONNX Runtime computes from the model, on the example inputs."""
    leaves = [leaf for leaf in _pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    names = [value.name for value in expected.graph.input]
    feed = {name: _numpy(leaf) for name, leaf in zip(names, leaves, strict=True)}
    reference = Reference(expected).run(feed)
    with evaluated(module), torch.no_grad():
        outputs = [leaf for leaf in _pytree.tree_leaves(module(*arguments)) if isinstance(leaf, Tensor)]
    check = ParityCheck(Tolerance())
    for name, output in zip(reference, outputs, strict=True):
        check.compare(name, output, reference[name])
    if check.failures:
        raise check.refusal(None)


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
