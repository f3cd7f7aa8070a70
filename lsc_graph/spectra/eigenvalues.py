"""All eigenvalues of batches of matrices: on the host, several matrices at once.

LAPACK gains next to nothing from several threads for one matrix. torch's eigenvalues on CUDA take one matrix
after another, faster where these are large, and make the host wait three times.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from lsc_graph.spectra.handed import handed

# Smaller matrices are done before threads have begun.
_THREADS_FROM = 96
# So many parts for each thread: the matrices of one may take longer than those of another.
_PARTS = 4


def eigenvalues(matrices: Tensor) -> Tensor:
    """All eigenvalues [..., n] (complex128) of matrices [..., n, n], handed to the device of these.

    Those of a matrix that is not finite are nan: LAPACK may crash at it, or never come back.
    """
    here = matrices.cpu().double()
    flat = here.flatten(0, -3) if here.dim() > 2 else here[None]
    finite = flat.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        flat = torch.where(finite[:, None, None], flat, 0.0)
    num_threads = min(torch.get_num_threads(), len(flat))
    is_small = here.shape[-1] < _THREADS_FROM
    found = torch.linalg.eigvals(flat) if is_small or num_threads < 2 else _at_once(flat, num_threads)
    if not bool(finite.all()):
        found = torch.where(finite[:, None], found, torch.nan)
    return handed(found.reshape(here.shape[:-1]), matrices.device)


def _at_once(matrices: Tensor, num_threads: int) -> Tensor:
    """Eigenvalues [P, n] of matrices [P, n, n] by several threads, which OpenMP gives no further ones."""
    is_recorded, controller = torch.is_grad_enabled(), ThreadpoolController()

    def begin() -> None:
        torch.get_num_threads()  # the first call of a thread sets what is set here
        # torch.set_num_threads would do so for the whole process, where LAPACK may then wait for ever.
        controller.limit(limits=1, user_api="openmp")
        torch.set_grad_enabled(is_recorded)

    parts = matrices.tensor_split(min(len(matrices), _PARTS * num_threads))
    with ThreadPoolExecutor(num_threads, initializer=begin) as pool:
        return torch.cat(list(pool.map(torch.linalg.eigvals, parts)))
