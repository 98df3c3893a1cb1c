"""Entropies and ranks of a spectrum: their definitions, their order, and that shards add up."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import (
    CovarianceSpectrum,
    effective_rank,
    matrix_renyi_entropy,
    participation_ratio,
    von_neumann_entropy,
)

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, size: int = 6, samples: int = 4) -> np.ndarray:
    """A covariance of rank ``samples`` - 1, with eigenvalues over some decades."""
    random = np.random.default_rng(seed)
    return np.cov(random.normal(size=(samples, size)) * 10.0 ** random.uniform(-2, 2, size), rowvar=False)


@given(seeds)
def test_what_the_eigenvalues_say(seed):
    matrix = drawn(seed)
    p = np.clip(np.linalg.eigvalsh(matrix), 0, None)
    p = p[p > 0] / p.sum()
    nats = -(p * np.log(p)).sum()
    assert float(von_neumann_entropy(matrix)) == pytest.approx(nats, abs=1e-9)
    assert float(von_neumann_entropy(matrix, base=2)) == pytest.approx(nats / math.log(2), abs=1e-9)
    assert float(effective_rank(matrix)) == pytest.approx(math.exp(nats))
    assert float(participation_ratio(matrix)) == pytest.approx(1 / (p**2).sum())


@given(seeds, st.floats(1e-6, 1e6))
def test_neither_rotation_nor_scale_matters_and_the_counts_are_in_order(seed, scale):
    matrix = drawn(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=matrix.shape))[0]
    turned = scale * turn @ matrix @ turn.T
    turned = (turned + turned.T) / 2
    rank = float(effective_rank(matrix))
    assert float(effective_rank(turned)) == pytest.approx(rank, rel=1e-6)
    assert 1 - 1e-9 <= float(participation_ratio(matrix)) <= rank + 1e-9
    assert rank <= 3 + 1e-6  # the rank of a covariance of four samples


@given(seeds, st.floats(0.1, 8), st.floats(0.1, 8))
def test_renyi_falls_with_alpha_and_meets_its_neighbours(seed, alpha, beta):
    matrix = drawn(seed, samples=9) + 1e-3 * np.eye(6)
    low, high = sorted((alpha, beta))
    assert float(matrix_renyi_entropy(matrix, low)) >= float(matrix_renyi_entropy(matrix, high)) - 1e-9
    one = float(matrix_renyi_entropy(matrix, 1))
    assert float(matrix_renyi_entropy(matrix, 1 + 1e-7)) == pytest.approx(one, abs=1e-5)
    assert float(matrix_renyi_entropy(matrix, 200.0)) == pytest.approx(
        float(matrix_renyi_entropy(matrix, math.inf)), abs=0.02
    )
    root = np.sqrt(np.diag(matrix))
    scaled = matrix / np.outer(root, root) / 6
    values = np.linalg.eigvalsh(scaled)
    assert float(matrix_renyi_entropy(matrix, 2.0)) == pytest.approx(-np.log((values**2).sum()))
    assert one == pytest.approx(float(von_neumann_entropy(scaled)))


def test_renyi_of_alike_and_of_orthogonal_samples():
    assert float(matrix_renyi_entropy(np.ones((5, 5)))) == 0.0
    assert float(matrix_renyi_entropy(7 * np.eye(8), 3.0, base=2)) == pytest.approx(3.0)


def test_batches_tensors_and_gradients():
    matrices = torch.from_numpy(np.stack([drawn(1), drawn(2), np.zeros((6, 6))])).requires_grad_()
    found = von_neumann_entropy(matrices)
    assert found.shape == (3,)
    for measure in (von_neumann_entropy, effective_rank, participation_ratio):
        assert float(measure(matrices.detach())[2]) == 0.0
    found.sum().backward()
    assert matrices.grad is not None
    assert bool(matrices.grad.isfinite().all())
    assert effective_rank(torch.eye(4, dtype=torch.float16)).dtype == torch.float64


def test_refusals_name_the_matrix():
    with pytest.raises(ValueError, match=r"matrix must be square.*got shape \(2, 3\)"):
        von_neumann_entropy(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="matrix must be symmetric"):
        effective_rank(np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"finite.*in row 1"):
        participation_ratio(np.stack([np.eye(2), np.full((2, 2), np.nan)]))
    with pytest.raises(ValueError, match="positive semidefinite; got the eigenvalue -1"):
        von_neumann_entropy(np.diag([1.0, -1.0]))
    with pytest.raises(ValueError, match="gram must have a diagonal above 0; got 0"):
        matrix_renyi_entropy(np.diag([1.0, 0.0]))
    with pytest.raises(ValueError, match="alpha must be finite and above 0; got -1"):
        matrix_renyi_entropy(np.eye(2), -1.0)


@given(seeds, st.lists(st.integers(0, 30), max_size=4))
def test_any_split_any_order_and_any_merge_agree(seed, cuts):
    random = np.random.default_rng(seed)
    rows = random.normal(100, 1, (30, 5)) * 10.0 ** random.uniform(-3, 3, 5)
    whole = CovarianceSpectrum().fit(rows)
    streamed, merged = CovarianceSpectrum(), CovarianceSpectrum()
    for part in np.split(random.permutation(rows), sorted(cuts)):
        if len(part):
            streamed.partial_fit(torch.from_numpy(part))
            merged.merge(CovarianceSpectrum().partial_fit(part))
    for found in (streamed, merged):
        assert found.n_samples_ == whole.n_samples_ == 30
        np.testing.assert_allclose(found.mean_, whole.mean_, rtol=1e-9)
        np.testing.assert_allclose(found.eigenvalues_, whole.eigenvalues_, rtol=1e-6, atol=1e-9 * whole.eigenvalues_[0])
        assert found.von_neumann_entropy_ == pytest.approx(whole.von_neumann_entropy_, rel=1e-6)
        assert found.effective_rank_ == pytest.approx(whole.effective_rank_, rel=1e-6)
        assert found.participation_ratio_ == pytest.approx(whole.participation_ratio_, rel=1e-6)


@given(seeds)
def test_it_is_the_spectrum_of_numpys_covariance(seed):
    rows = np.random.default_rng(seed).normal(3, 2, (20, 4))
    found = CovarianceSpectrum().fit(rows)
    matrix = np.cov(rows, rowvar=False, bias=True)
    np.testing.assert_allclose(found.eigenvalues_, np.linalg.eigvalsh(matrix)[::-1])
    assert found.von_neumann_entropy_ == pytest.approx(float(von_neumann_entropy(matrix)))
    assert found.effective_rank_ == pytest.approx(float(effective_rank(matrix)))
    assert found.participation_ratio_ == pytest.approx(float(participation_ratio(matrix)))


def test_one_row_and_features_that_never_vary():
    one = CovarianceSpectrum().fit([[0.1, 0.7, 3.0]])
    assert (one.von_neumann_entropy_, one.effective_rank_, one.participation_ratio_) == (0.0, 0.0, 0.0)
    still = CovarianceSpectrum().fit(np.full((7, 3), 0.1)).partial_fit(np.full((4, 3), 0.1))
    assert still.eigenvalues_.tolist() == [0.0, 0.0, 0.0]
    assert still.effective_rank_ == 0.0
    rows = np.column_stack([np.full(9, 0.1), np.arange(9.0)])
    assert CovarianceSpectrum().fit(rows).effective_rank_ == 1.0


def test_a_later_fit_forgets_and_tensors_may_have_more_axes():
    found = CovarianceSpectrum().fit(np.eye(3)).fit(torch.eye(4).reshape(2, 2, 4))
    assert (found.n_samples_, found.n_features_in_) == (4, 4)


def test_refusals_of_the_stream():
    found = CovarianceSpectrum().fit(np.eye(3))
    with pytest.raises(ValueError, match="X must have 3 features, as the rows before; got 2"):
        found.partial_fit(torch.eye(2))
    with pytest.raises(ValueError, match="other must have 3 features, as this one; got 2"):
        found.merge(CovarianceSpectrum().fit(np.eye(2)))
    with pytest.raises(NotFittedError):
        found.merge(CovarianceSpectrum())
    with pytest.raises(NotFittedError):
        _ = CovarianceSpectrum().eigenvalues_
    with pytest.raises(ValueError, match="X must be finite; got nan in row 1"):
        found.partial_fit(torch.tensor([[1.0, 1.0, 1.0], [1.0, math.nan, 1.0]]))


@parametrize_with_checks([CovarianceSpectrum()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
