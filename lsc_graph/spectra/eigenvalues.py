"""All eigenvalues of batches of matrices, where that takes the least time."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.spectra.handed import handed

# On CUDA, smaller matrices are quicker done on the host, as benchmarks/gpu.py measures.
ON_CUDA_FROM = 224


def nearer(matrices: Tensor) -> Tensor:
    """Matrices [..., m, n] where their eigenvalues or singular values take less time: here or on the host."""
    return matrices if min(matrices.shape[-2:]) >= ON_CUDA_FROM else matrices.cpu()


def eigenvalues(matrices: Tensor) -> Tensor:
    """All eigenvalues [..., n] (complex128) of matrices [..., n, n], on the device of these."""
    there = nearer(matrices).double()
    if there.device.type != "cpu":
        # What is stored by columns, torch's eigenvalues on CUDA overwrite.
        there = there.clone(memory_format=torch.contiguous_format)
    found: Tensor = torch.linalg.eigvals(there)
    return handed(found, matrices.device)
