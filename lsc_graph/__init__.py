"""lsc-graph: will the gradients of this ONNX model survive depth and time?

`lsc_graph.audit(model)` measures, `lsc_graph.inspect(model)` only looks, `lsc_graph.reroll(model, output)`
rewrites unrolled recurrences as loops, `lsc_graph.gradient_paths(model)` counts,
`lsc_graph.unrolled(model)` is the depth x time grid as a networkx graph, and `lsc_graph.pretrain(model)`
moves its weights until its radii are at their targets. All are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lsc_graph import errors, results

if TYPE_CHECKING:
    import networkx as nx
    from torch import nn

    from lsc_graph.grid.unroll import GridNode
    from lsc_graph.path_results import PathReport
    from lsc_graph.pretrain_results import PretrainReport
    from lsc_graph.pretraining.pretrain_model import Pretrained
    from lsc_graph.to_torch.module import TorchModel

__all__ = [
    "audit",
    "errors",
    "gradient_paths",
    "inspect",
    "pretrain",
    "reroll",
    "results",
    "stabilize",
    "to_torch",
    "unrolled",
]


def audit(*arguments: Any, **options: Any) -> results.Analysis:
    """Whether a model's gradients survive its depth and time: see `lsc_graph.audit_model.audit`."""
    found: results.Analysis = importlib.import_module("lsc_graph.audit_model").audit(*arguments, **options)
    return found


def inspect(*arguments: Any, **options: Any) -> results.Inspection:
    """What `audit` would analyse: see `lsc_graph.audit_model.inspect`."""
    module = importlib.import_module("lsc_graph.audit_model")
    found: results.Inspection = module.inspect(*arguments, **options)
    return found


def reroll(*arguments: Any, **options: Any) -> results.Rerolling:
    """Rewrite unrolled recurrences as loops: see `lsc_graph.rerolling.reroll`."""
    module = importlib.import_module("lsc_graph.rerolling")
    found: results.Rerolling = module.reroll(*arguments, **options)
    return found


def gradient_paths(*arguments: Any, **options: Any) -> PathReport:
    """How many gradient paths a model has: see `lsc_graph.count_model.gradient_paths`."""
    module = importlib.import_module("lsc_graph.count_model")
    found: PathReport = module.gradient_paths(*arguments, **options)
    return found


def unrolled(*arguments: Any, **options: Any) -> nx.DiGraph[GridNode]:
    """The depth x time grid of a model: see `lsc_graph.unrolling.unroll_model.unroll_model`."""
    module = importlib.import_module("lsc_graph.unrolling.unroll_model")
    found: nx.DiGraph[GridNode] = module.unroll_model(*arguments, **options)
    return found


def pretrain(*arguments: Any, **options: Any) -> Pretrained:
    """Weights with every radius at its target: see `lsc_graph.pretraining.pretrain_model.pretrain`."""
    module = importlib.import_module("lsc_graph.pretraining.pretrain_model")
    found: Pretrained = module.pretrain(*arguments, **options)
    return found


def to_torch(*arguments: Any, **options: Any) -> TorchModel:
    """A model as a trainable torch module: see `lsc_graph.to_torch.module.to_torch`."""
    module = importlib.import_module("lsc_graph.to_torch.module")
    found: TorchModel = module.to_torch(*arguments, **options)
    return found


def stabilize(module: nn.Module, *arguments: Any, **options: Any) -> PretrainReport:
    """Pre-train a torch module in place: see `lsc_graph.pretraining.stabilize_module.stabilize`."""
    library = importlib.import_module("lsc_graph.pretraining.stabilize_module")
    found: PretrainReport = library.stabilize(module, *arguments, **options)
    return found
