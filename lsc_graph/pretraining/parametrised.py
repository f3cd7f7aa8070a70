"""A model's programs evaluated with other values in place of its parameters, differentiably."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

from lsc_graph.to_torch.segment import Parameters

Result = TypeVar("Result")


class Parametrised(nn.Module):
    """Calls functions while a program's parameters have other values.

    Args:
        program: the module whose parameters are replaced, wherever they are shared inside it.
        parameters: its store.
    """

    def __init__(self, program: nn.Module, parameters: Parameters) -> None:
        super().__init__()
        self.program = program
        paths = {id(parameter): path for path, parameter in self.named_parameters()}
        self._paths = {
            name: paths[id(parameters[name])] for name in parameters.names() if id(parameters[name]) in paths
        }

    def forward(self, function: Callable[[], Any]) -> Any:
        """The result of a function."""
        return function()

    def call(self, values: Mapping[str, Tensor], function: Callable[[], Result]) -> Result:
        """Evaluate `function` with `values` by initializer name in place of the parameters."""
        replaced = {self._paths[name]: value for name, value in values.items() if name in self._paths}
        result: Result = functional_call(self, replaced, (function,))
        return result
