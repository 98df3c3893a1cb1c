"""Diffusion spectral mutual information: its formula restated, what it must be, and its variants."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import (
    DiffusionSpectralMutualInformation,
    classic_shannon_entropy,
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
    matrix_entry_entropy,
)

seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int = 0, count: int = 80, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    made = make_blobs(count, 5, centers=classes, cluster_std=1.0, random_state=seed)
    return np.asarray(made[0]), np.asarray(made[1])


def test_the_formula_with_the_authors_draws():
    Z, y = blobs()
    y = np.where(y == 3, 7, y)  # classes need not be 0 .. C - 1
    y[:5] = 9
    wanted = 0.0
    for c in sorted(set(y.tolist())):
        drawn = random.Random(0)
        inside = Z[y == c]
        subsets = [Z[drawn.sample(range(len(Z)), len(inside))] for _ in range(3)]
        whole = np.mean([diffusion_spectral_entropy(subset, sigma=4.0, t=2) for subset in subsets])
        wanted += len(inside) / len(Z) * (whole - diffusion_spectral_entropy(inside, sigma=4.0, t=2))
    found = diffusion_spectral_mutual_information(Z, y, n_repetitions=3, sigma=4.0, t=2, random_state="compat")
    assert found.value == pytest.approx(wanted, abs=1e-9)
    assert found.per_class.shape == (5,)
    assert found.value == pytest.approx(float(np.bincount(found.clusters) / 80 @ found.per_class))
    assert 0 < found.standard_error < 0.2


@given(seeds)
@settings(max_examples=5)
def test_one_class_tells_nothing_and_neither_do_classes_of_one(seed):
    Z = np.random.default_rng(seed).normal(size=(20, 3))
    for y in (np.zeros(20, int), np.ones(20), np.arange(20)):
        found = diffusion_spectral_mutual_information(Z, y, sigma=1.0, n_clusters=20, random_state=seed)
        if y[0] != y[1]:
            assert found.value == pytest.approx(0.0, abs=1e-9)
            continue
        assert found.value == pytest.approx(0.0, abs=1e-6)  # the same points in another order
        assert found.clusters.tolist() == [0] * 20


def test_labels_of_the_clusters_tell_and_shuffled_ones_do_not():
    """Four blobs; a shuffled label is within 4 of its standard errors, over the draws and the labels, of 0."""
    Z, y = blobs(1)
    own = diffusion_spectral_mutual_information(Z, y, sigma=4.0, random_state=0)
    assert own.value > 0.5
    values = [
        diffusion_spectral_mutual_information(
            Z, np.random.default_rng(seed).permutation(y), sigma=4.0, random_state=seed
        ).value
        for seed in range(8)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / math.sqrt(8)


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
def test_floats_are_binned_and_vectors_clustered():
    Z, _ = blobs()
    scalar = np.linspace(-3, 5, 80)
    found = diffusion_spectral_mutual_information(Z, scalar, n_clusters=4, sigma=4.0, random_state=0)
    assert found.clusters.tolist() == [int(i) for i in np.minimum((scalar + 3) / 8 * 4, 3)]
    points, y = make_blobs(80, 2, centers=[[0, 0], [50, 0], [0, 50]], random_state=0)[:2]
    found = diffusion_spectral_mutual_information(Z, points, n_clusters=3, sigma=4.0, random_state=0)
    assert len({(int(a), int(b)) for a, b in zip(found.clusters, y, strict=True)}) == 3  # the same partition
    again = diffusion_spectral_mutual_information(Z, found.clusters, sigma=4.0, random_state=0)
    assert again.value == found.value
    column = diffusion_spectral_mutual_information(
        torch.from_numpy(Z), torch.from_numpy(found.clusters)[:, None], sigma=4.0, random_state=0
    )
    assert column.value == found.value
    named = diffusion_spectral_mutual_information(Z, [f"class {c}" for c in found.clusters], sigma=4.0, random_state=0)
    assert named.value == found.value


def test_another_measure_takes_the_place_of_the_diffusions():
    Z, y = blobs()
    found = diffusion_spectral_mutual_information(Z, y, measure=classic_shannon_entropy, random_state=0)
    chosen = np.random.default_rng(0)
    wanted = 0.0
    for c in range(4):
        inside = Z[y == c]
        subsets = [Z[chosen.choice(80, len(inside), replace=False)] for _ in range(5)]
        wanted += (
            len(inside)
            / 80
            * (np.mean([classic_shannon_entropy(s) for s in subsets]) - classic_shannon_entropy(inside))
        )
    assert found.value == pytest.approx(wanted)


def test_isolated_points_are_said_to_be():
    Z, y = blobs()
    with pytest.warns(UserWarning, match=r"at sigma=0.01 the points are isolated"):
        found = diffusion_spectral_mutual_information(Z, y, sigma=0.01, random_state=0)
    assert found.value == pytest.approx(0.0, abs=1e-9)


def test_the_baseline_counts_cells():
    assert classic_shannon_entropy([[0.0], [0.49], [0.5], [1.0]]) == 1.0
    assert classic_shannon_entropy(np.random.default_rng(0).normal(size=(64, 50))) == 6.0
    assert classic_shannon_entropy(np.full((9, 3), 0.1)) == 0.0  # a constant feature falls in bin 0
    assert classic_shannon_entropy([[0.0], [1.0], [2.0]], bins=3, base=None) == pytest.approx(math.log(3))


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=30)
def test_matrix_entries(seed, sigma):
    Z = np.random.default_rng(seed).normal(size=(15, 2))
    G = np.exp(-((Z[:, None] - Z[None]) ** 2).sum(-1) / (2 * sigma**2))
    root = np.diag(G.sum(1) ** -0.5)
    K = root @ G @ root
    p = (K / K.sum(1, keepdims=True)).ravel() / 15
    p = p[p > 0]
    assert matrix_entry_entropy(Z, sigma=sigma) == pytest.approx(-(p * np.log2(p)).sum())
    assert matrix_entry_entropy(np.ones((15, 2))) == pytest.approx(2 * math.log2(15))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1]}, "inconsistent numbers of samples"),
        ({"y": [0.0, 1.0, math.nan]}, "y must be finite; got nan"),
        ({"y": np.zeros((3, 2), int)}, r"y must be \[N\]"),
        ({"y": [{}, {}, {}]}, "Unknown label type"),
        ({"n_repetitions": 0}, "n_repetitions must be"),
        ({"n_clusters": 0}, "n_clusters must be"),
        ({"Z": [[0.0], [math.inf], [1.0]]}, "Z must be finite; got inf in row 1"),
        ({"random_state": "legacy"}, "random_state must be"),
    ],
)
def test_refusals_name_the_argument(change, message):
    given_ = {"Z": [[0.0], [1.0], [2.0]], "y": [0, 1, 1], **change}
    with pytest.raises(ValueError, match=message):
        diffusion_spectral_mutual_information(**given_)


def test_the_estimator_gives_what_the_function_does():
    Z, y = blobs()
    found = DiffusionSpectralMutualInformation(sigma="median", random_state=3).fit(Z, y)
    wanted = diffusion_spectral_mutual_information(Z, y, sigma="median", random_state=3)
    assert (found.mutual_information_, found.standard_error_, found.sigma_) == (
        wanted.value,
        wanted.standard_error,
        wanted.sigma,
    )


@pytest.mark.filterwarnings("ignore:at sigma")
@parametrize_with_checks([DiffusionSpectralMutualInformation(n_repetitions=1)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
