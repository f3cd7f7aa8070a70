"""A whole model as a torch module to train: its weights by their names in the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from lsc_graph.canonical.normalize import normalize, normalize_open, upgrade_opset
from lsc_graph.canonical.origins import origin_of
from lsc_graph.canonical.precision import in_single_precision, is_half
from lsc_graph.errors import AnalysisError, ConversionError, ParityError, UsageError
from lsc_graph.memory import memory_errors_named
from lsc_graph.model_file.load import load
from lsc_graph.planning import Request, plan_inputs
from lsc_graph.quantized.dequantize import is_quantized
from lsc_graph.recurrence.bases import is_basis
from lsc_graph.recurrence.fused_ops import lower_fused_ops
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.parity import ParityCheck, Tolerance
from lsc_graph.to_torch.segment import Parameters, Segment

_VIEW = "_view"
_COMPARED_STEPS = (5, 3)


class TorchModel(nn.Module):
    """An ONNX model in torch.

    Called with the model's inputs, by position or by name; returns its output, or a tuple of them in the
    model's order. Keys of `state_dict` and `named_parameters` are the names of the file's tensors, those
    inside inner graphs with the path to them before their name (`lsc_graph.origins`). It can be copied,
    pickled and saved as other modules can.

    Args:
        view: the whole graph as one segment.
        weights: its parameters by name.
    """

    def __init__(self, view: Segment, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.add_module(_VIEW, view)
        self.input_names, self.output_names = view.inputs, view.outputs
        # Names of initializers may hold dots, which `register_parameter` does not take.
        self._parameters.update(weights)
        self._ties = self._found_ties()
        self._register_state_dict_hook(_without_view)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The model's outputs.

        Raises:
            UsageError: an input is missing, unknown or given twice.
        """
        if len(inputs) + len(named) != len(self.input_names) or not set(named) <= set(
            self.input_names[len(inputs) :]
        ):
            raise UsageError(
                "The inputs given are not those of the model",
                got=f"{len(inputs)} by position, and {', '.join(named) or 'none'} by name",
                expected=", ".join(self.input_names),
            )
        rest = (named[name] for name in self.input_names[len(inputs) :])
        view = self._modules[_VIEW]
        assert view is not None
        outputs: tuple[Tensor, ...] = view(*inputs, *rest)
        return outputs[0] if len(outputs) == 1 else outputs

    def _found_ties(self) -> list[tuple[nn.Module, str, str]]:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        return [
            (module, key, names[id(parameter)])
            for view in self.children()
            for module in view.modules()
            for key, parameter in module._parameters.items()
            if id(parameter) in names
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_ties"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._ties = self._found_ties()

    def tie(self) -> None:
        """Let the graph use the parameters of this module, after some of them were replaced."""
        for module, key, name in self._ties:
            module._parameters[key] = self._parameters[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.tie()
        return self

    def _load_from_state_dict(
        self,
        state: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """As in torch, whose own method takes what stands before a dot for the name of a module."""
        keys = (key for key in state if key.startswith(prefix))
        unexpected += [key for key in keys if strict and key.removeprefix(prefix) not in self._parameters]
        for name, parameter in self._parameters.items():
            value = state.get(prefix + name)
            if value is None:
                missing += [prefix + name] if strict else []
            elif parameter is None or value.shape != parameter.shape:
                errors.append(f"the shape of {name} is another: {tuple(value.shape)}")
            elif metadata.get("assign_to_params_buffers", False):
                self._parameters[name] = nn.Parameter(value, parameter.requires_grad)
            else:
                with torch.no_grad():
                    parameter.copy_(value)


def _without_view(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """The graph's own names of the same parameters are nobody's business."""
    for key in [key for key in state if key.startswith(f"{prefix}{_VIEW}.")]:
        del state[key]


def _after_loading(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, TorchModel)
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if _VIEW not in key.split(".")]
    module.tie()


@memory_errors_named()
def to_torch(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> TorchModel:
    """An ONNX model as a trainable torch module that agrees with ONNX Runtime.

    Recurrent operators are loops over their cells. Dimensions that the file leaves open stay open, unless
    the model's form depends on them: then the module takes `input_shapes` only. 16-bit models are float32.
    Running statistics, bases of a Fourier transform and single numbers do not require gradients at first.

    Args:
        model: path, bytes or ModelProto; it is not changed.
        input_shapes: for models whose open dimensions cannot be guessed.

    Raises:
        UsageError: `input_shapes` do not fit the model.
        AnalysisError: the model cannot be converted; `ParityError` if torch and ONNX Runtime disagree.
    """
    proto = load(model).proto
    if is_quantized(proto):
        raise AnalysisError(
            "A quantised model has no trainable torch counterpart", do="use the float model it was made from"
        )
    single = upgrade_opset(in_single_precision(proto) if is_half(proto) else proto)
    request = Request(None, {}, dict(input_shapes or {}), (), {})
    problem: AnalysisError | None = None
    for graph in _forms(single, request):
        try:
            module = _converted(graph())
            _compare(module, single, request)
        except (ConversionError, ParityError) as error:
            problem = problem or error
        else:
            return module
    assert problem is not None
    raise problem


def _forms(proto: onnx.ModelProto, request: Request) -> Iterator[Callable[[], ir.Model]]:
    """The model with open dimensions, then with concrete ones."""
    yield lambda: normalize_open(proto)
    yield lambda: normalize(proto, plan_inputs(proto, request)[0].shapes, {})


def _converted(model: ir.Model) -> TorchModel:
    lower_fused_ops(model)
    graph, weights = model.graph, _Named(model)
    view = Segment(
        graph,
        [str(value.name) for value in graph.inputs],
        [str(value.name) for value in graph.outputs],
        opsets=dict(model.opset_imports),
        parameters=weights,
    )
    return TorchModel(view, {name: weights[name] for name in weights.names()})


class _Named(Parameters):
    """Parameters by their place in the file; what is made from one tensor is one parameter."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        found = ((name, origin_of(value)) for name, value in model.graph.initializers.items())
        self._labels = {str(name): "/".join(origin) for name, origin in found if origin is not None}

    def share(self, name: str, value: Tensor, *, is_trainable: bool) -> nn.Parameter:
        is_weight = (
            is_trainable and value.numel() > 1 and name in self._labels and not is_basis(value.numpy())
        )
        return super().share(self._labels.get(name, name), value, is_trainable=is_weight)


def _compare(module: TorchModel, proto: onnx.ModelProto, request: Request) -> None:
    """Refuse a module that differs from ONNX Runtime at any of two lengths."""
    reference, check = Reference(proto), ParityCheck(Tolerance())
    for steps in _COMPARED_STEPS:
        plan, feed = plan_inputs(proto, Request(steps, {}, request.shapes, (), {}))
        arrays = feed(plan.shapes, steps)
        tensors = {name: torch.from_numpy(np.asarray(arrays[name], order="C")) for name in module.input_names}
        with torch.no_grad():
            found = module(**tensors)
        outputs = found if isinstance(found, tuple) else (found,)
        check.compare_all(dict(zip(module.output_names, outputs, strict=True)), reference.run(arrays))
        if check.failures:
            raise check.refusal(None)
