"""Every estimator agrees with dense eigenvalues, by name and as chosen, or says that it did not converge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.errors import UsageError
from lsc_graph.spectra.choose import cascade, method_of, radius_estimate
from lsc_graph.spectra.estimate import TOLERANCE, Method

BY_NAME = (Method.DENSE, Method.SQUARING, Method.ARNOLDI)


def oracle(matrices: torch.Tensor) -> np.ndarray:
    return np.abs(np.linalg.eigvals(matrices.numpy())).max(axis=1)


@pytest.mark.parametrize("size", [8, 40, 100, 200])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_default_choice_is_within_half_a_percent_of_the_mean(name: str, size: int) -> None:
    matrices = batch(name, size)
    found = radius_estimate(matrices.float())
    exact = oracle(matrices)
    assert bool(found.converged.all())
    assert float(found.values.mean()) == pytest.approx(exact.mean(), rel=5e-3)


@pytest.mark.parametrize("method", BY_NAME)
@pytest.mark.parametrize("name", SPECTRA)
def test_a_method_is_right_or_says_that_it_is_not(name: str, method: Method) -> None:
    for seed in range(3):
        matrices = batch(name, 70, seed)
        found = radius_estimate(matrices, method)
        exact = torch.from_numpy(oracle(matrices))
        off = (found.values - exact).abs() / exact
        assert set(found.methods) == {method}
        assert bool((off[found.converged] < 1e-2).all()), (off, found.errors)


@pytest.mark.parametrize(("size", "seed"), [(48, 204), (64, 207), (96, 204), (128, 211), (192, 204)])
def test_arnoldi_by_name_misses_no_eigenvalue_that_its_first_vector_does_not_see(
    size: int, seed: int
) -> None:
    """Nearly diagonal matrices: each element of a vector is about an eigenvector's part in it."""
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.diag_embed(torch.rand(32, size, generator=generator))
    noise = 10.0 ** torch.randint(-6, -1, (32, 1, 1), generator=generator)
    matrices = matrices + noise * torch.randn(32, size, size, generator=generator) / size**0.5
    found = radius_estimate(matrices, Method.ARNOLDI)
    exact = torch.from_numpy(oracle(matrices.double()))
    assert bool((((found.values - exact).abs() / exact)[found.converged] < 6e-3).all())
    assert float(found.converged.double().mean()) > 0.9


@pytest.mark.parametrize("method", [*BY_NAME, Method.AUTO])
def test_zero_matrices_have_radius_zero_and_others_keep_theirs(method: Method) -> None:
    matrices = batch("outlier", 80)
    matrices[1] = 0
    found = radius_estimate(matrices, method)
    assert bool(found.converged.all())
    assert float(found.values[1]) == 0.0
    assert float(found.values[0]) == pytest.approx(oracle(matrices)[0], rel=3e-3)


@pytest.mark.parametrize("method", [*BY_NAME, Method.AUTO])
@pytest.mark.parametrize("size", [3, 80, 200])
def test_what_is_not_finite_is_not_converged_and_spoils_no_other_point(method: Method, size: int) -> None:
    matrices = batch("outlier", size)
    matrices[1, 0, 0] = torch.nan
    matrices[2, 1, 1] = torch.inf
    found = radius_estimate(matrices, method)
    assert found.converged.tolist() == [True, False, False]
    assert bool(found.errors[1:].isinf().all())


@pytest.mark.parametrize("size", [5, 80, 250])
def test_nilpotent_matrices_are_never_given_a_wrong_radius_as_converged(size: int) -> None:
    shift = torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)[None]
    for method in (*BY_NAME, Method.AUTO):
        found = radius_estimate(shift, method)
        assert not bool(found.converged) or float(found.values) < 1e-12


def test_a_rotation_by_quarter_turns_has_a_complex_pair() -> None:
    turn = 0.8 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    blocks = torch.block_diag(*[turn] * 40)[None]
    for method in (*BY_NAME, Method.AUTO):
        found = radius_estimate(blocks, method)
        assert bool(found.converged)
        assert float(found.values) == pytest.approx(0.8, rel=1e-5)


def test_batches_that_are_taken_apart_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = batch("gated", 100)
    whole = radius_estimate(matrices, Method.SQUARING)
    monkeypatch.setattr("lsc_graph.spectra.choose.MAX_BATCH_BYTES", 1)
    parts = radius_estimate(matrices, Method.SQUARING)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-4, atol=0)
    assert len(parts) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [12, 70, 240])
@pytest.mark.parametrize("name", HARD)
def test_what_is_given_as_converged_is_right(name: str, size: int, dtype: torch.dtype) -> None:
    build, exact = HARD[name]
    matrix = build(size).to(dtype)[None]
    for method in (*BY_NAME, Method.POWERS, Method.AUTO):
        found = radius_estimate(matrix, method)
        if bool(found.converged):
            allowed = TOLERANCE * exact
            assert abs(float(found.values) - exact) <= allowed, (method, found)


def test_no_matrices_are_no_estimates() -> None:
    assert len(radius_estimate(torch.zeros(0, 5, 5))) == 0


def test_badly_conditioned_matrices_end_with_dense_eigenvalues_and_their_condition() -> None:
    size = 250
    generator = torch.Generator().manual_seed(0)
    upper = torch.triu(torch.randn(2, size, size, generator=generator, dtype=torch.float64)) / size**0.5
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    matrices = basis @ upper @ basis.T
    found = radius_estimate(matrices)
    assert Method.DENSE in found.methods
    assert bool(found.converged.all())
    assert found.values.numpy() == pytest.approx(oracle(matrices), rel=5e-3)
    assert bool((found.conditions > 1e2).all())


def test_methods_have_names_and_a_cascade_that_ends_with_the_reference() -> None:
    assert method_of("squaring") is Method.SQUARING
    with pytest.raises(UsageError, match="magic"):
        method_of("magic")
    with pytest.raises(UsageError):
        method_of("blocks")
    for size in (1, 70, 300, 5000):
        for device in ("cpu", "cuda"):
            assert cascade(size, device)[-1] is Method.DENSE


@pytest.mark.parametrize("method", [*BY_NAME, Method.POWERS, Method.AUTO])
@pytest.mark.parametrize("scale", [2.0**-660, 2.0**660])
@pytest.mark.parametrize("size", [20, 60])
def test_in_double_precision_no_scale_is_too_small_or_too_large(
    size: int, scale: float, method: Method
) -> None:
    """Squares of such elements leave the range of floats: a radius of zero would be a silent wrong one."""
    matrices = batch("outlier", size)
    matrices[1] = 0
    found = radius_estimate(matrices * scale, method)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values / scale, radius_estimate(matrices, method).values)
