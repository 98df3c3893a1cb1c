"""Entropies of adjacency spectra: closed forms, the definitions by other means, and their place in the information."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from hartley.representation import (
    diffusion_spectral_mutual_information,
    kernel_spectral_entropy,
    neighbor_spectral_entropy,
)
from strategies import law, seeds


def bits(weights: Any) -> float:
    p = np.asarray(weights, float) / np.sum(weights)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def cloud(seed: int, n: int, d: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def heaps(*sizes: int) -> np.ndarray:
    """Rows that agree within a heap, the heaps 100 apart."""
    return np.repeat(100.0 * np.eye(len(sizes)), sizes, axis=0)


# The kernel


def test_two_points_share_one_plus_and_minus_their_kernel():
    g = math.exp(-1)
    assert kernel_spectral_entropy([[0.0, 0.0], [1.0, 1.0]], sigma=1.0) == pytest.approx(bits([1 + g, 1 - g]))


def test_heaps_have_the_entropy_of_their_sizes():
    assert kernel_spectral_entropy(heaps(5, 3, 2), sigma=1.0) == pytest.approx(bits([5, 3, 2]), abs=1e-9)
    assert kernel_spectral_entropy(heaps(7), sigma=1.0) == pytest.approx(0, abs=1e-12)
    assert kernel_spectral_entropy(heaps(*[1] * 8), sigma=1.0) == pytest.approx(3)
    assert kernel_spectral_entropy([[3.0]]) == 0
    assert kernel_spectral_entropy(heaps(1, 1), sigma=1.0, base=None) == pytest.approx(math.log(2))


@law(seeds(), st.integers(2, 20), st.floats(0.1, 10))
def test_kernel_by_its_definition_moved_turned_and_scaled(seed, n, sigma):
    Z = cloud(seed, n, 3)
    G = np.exp(-((Z[:, None] - Z) ** 2).sum(-1) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    found = kernel_spectral_entropy(Z, sigma=sigma)
    assert found == pytest.approx(bits(np.linalg.eigvalsh(G).clip(0)), abs=1e-9)
    turn = np.linalg.qr(cloud(seed + 1, 3, 3))[0]
    assert kernel_spectral_entropy(2 * Z[::-1] @ turn + 5, sigma=2 * sigma) == pytest.approx(found, abs=1e-9)
    assert kernel_spectral_entropy(np.repeat(Z, 2, 0), sigma=sigma) == pytest.approx(found, abs=1e-9)


# Nearest neighbours


@pytest.mark.parametrize("n", [5, 8, 12])
def test_a_circle_has_the_spectrum_of_its_circulant(n):
    """Each point sees itself and one on either side: 1 + 2 cos(2 pi j / n)."""
    ring = np.exp(2j * np.pi * np.arange(n) / n)
    Z = np.stack([ring.real, ring.imag], 1)
    expected = np.abs(1 + 2 * np.cos(2 * np.pi * np.arange(n) / n))
    assert neighbor_spectral_entropy(Z, n_neighbors=3) == pytest.approx(bits(expected), abs=1e-6)


def test_clusters_of_as_many_as_neighbours():
    Z = heaps(10, 10, 10, 10) + 0.1 * np.tile(cloud(0, 10, 4), (4, 1))
    assert neighbor_spectral_entropy(Z) == pytest.approx(2, abs=1e-9)
    assert neighbor_spectral_entropy(Z, base=None) == pytest.approx(math.log(4), abs=1e-9)
    assert neighbor_spectral_entropy(heaps(5, 3, 2), n_neighbors=1) == pytest.approx(bits([5, 3, 2]), abs=1e-9)  # ties


def test_alone_and_altogether():
    Z = cloud(0, 16)
    assert neighbor_spectral_entropy(Z, n_neighbors=1) == pytest.approx(4)
    for most in (16, 17, 1000):
        assert neighbor_spectral_entropy(Z, n_neighbors=most) == pytest.approx(0, abs=1e-9)
    assert neighbor_spectral_entropy([[1.0]]) == 0
    assert neighbor_spectral_entropy(np.ones((12, 3)), n_neighbors=2) == pytest.approx(0, abs=1e-9)


def neighbors(Z: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(((Z[:, None] - Z) ** 2).sum(-1), axis=1)[:, :k]
    A = np.zeros((len(Z), len(Z)))
    np.put_along_axis(A, order, 1.0, axis=1)
    return A


def test_complex_eigenvalues_count_by_their_moduli():
    Z = cloud(2, 14)
    values = np.linalg.eigvals(neighbors(Z, 4))
    assert np.abs(values.imag).max() > 0.1
    assert neighbor_spectral_entropy(Z, n_neighbors=4) == pytest.approx(bits(np.abs(values)), abs=1e-6)
    assert abs(bits(np.abs(values)) - bits(np.abs(values.real))) > 1e-3


@law(seeds(), st.integers(6, 25), st.integers(2, 5))
def test_neighbours_by_their_definition_and_without_a_scale(seed, n, k):
    Z = cloud(seed, n)
    found = neighbor_spectral_entropy(Z, n_neighbors=k)
    # not to 1e-9: a repeated eigenvalue of a matrix that is not symmetric moves by a root of the rounding
    assert found == pytest.approx(bits(np.abs(np.linalg.eigvals(neighbors(Z, k)))), abs=1e-3)
    assert neighbor_spectral_entropy(1e4 * Z[::-1], n_neighbors=k) == pytest.approx(found, abs=1e-3)
    assert -1e-12 <= found <= math.log2(n) + 1e-12


# In the formula of the information


@pytest.mark.parametrize(
    "measure", [partial(kernel_spectral_entropy, sigma=1.0), partial(neighbor_spectral_entropy, n_neighbors=3)]
)
def test_as_the_measure_of_the_mutual_information(measure):
    Z, y = heaps(12, 12) + 0.1 * cloud(0, 24), np.repeat([0, 1], 12)
    found = diffusion_spectral_mutual_information(Z, y, measure=measure, n_repetitions=3, random_state=0)
    drawn = np.random.default_rng(0)
    subsets = [[Z[drawn.choice(24, 12, replace=False)] for _ in range(3)] for _ in range(2)]
    whole = [np.mean([measure(subset) for subset in three]) for three in subsets]
    inside = [measure(Z[y == c]) for c in (0, 1)]
    assert found.value == pytest.approx(np.mean(whole) - np.mean(inside), abs=1e-9)
    alone = diffusion_spectral_mutual_information(Z, np.zeros(24, int), measure=measure, random_state=0)
    assert alone.value == pytest.approx(0, abs=1e-6)


def test_tensors_of_half_precision():
    Z = torch.from_numpy(cloud(0, 30)).bfloat16().requires_grad_()
    exact = Z.detach().double().numpy()
    assert kernel_spectral_entropy(Z, sigma=1.0) == pytest.approx(kernel_spectral_entropy(exact, sigma=1.0), abs=1e-9)
    assert neighbor_spectral_entropy(Z) == neighbor_spectral_entropy(exact)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_spectral_entropy([[math.nan]]), "Z must be finite; got nan in row 0"),
        (lambda: kernel_spectral_entropy([[1.0]], sigma=0.0), "sigma must be"),
        (lambda: kernel_spectral_entropy([[1.0]], base=0.5), "base must be"),
        (lambda: neighbor_spectral_entropy([[math.inf]]), "Z must be finite; got inf in row 0"),
        (lambda: neighbor_spectral_entropy([[1.0]], n_neighbors=0), "n_neighbors must be"),
        (lambda: neighbor_spectral_entropy([[1.0]], base=1.0), "base must be"),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
