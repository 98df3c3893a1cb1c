"""Classifying by codes: the vote counted plainly, scikit-learn's neighbours, and what purity is."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import HammingNeighborsClassifier, clustering_purity
from strategies import law, seeds


def drawn(seed: int, count: int, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    return g.standard_normal((count, width)), g.integers(0, 3, count)


@law(seeds(), st.integers(1, 7))
def test_the_vote_of_the_nearest(seed, k):
    x, y = drawn(seed, 50)
    asked, _ = drawn(seed + 1, 20)
    away = ((asked > 0)[:, None] != (x > 0)).sum(-1)
    order = np.argsort(away, axis=1, kind="stable")[:, :k]
    votes = np.array([[np.sum(y[row] == label) for label in range(3)] for row in order])
    nearest = HammingNeighborsClassifier(k).fit(x, y)
    distance, place = nearest.kneighbors(asked)
    np.testing.assert_array_equal(place, order)
    np.testing.assert_array_equal(distance, np.take_along_axis(away, order, 1))
    np.testing.assert_allclose(nearest.predict_proba(asked), votes / k)
    np.testing.assert_array_equal(nearest.predict(asked), votes.argmax(1))
    packed = HammingNeighborsClassifier(k, packed=True).fit(np.packbits(x > 0, axis=1), y)
    np.testing.assert_array_equal(packed.predict(torch.from_numpy(np.packbits(asked > 0, axis=1))), votes.argmax(1))


def test_as_accurate_as_scikit_learn_where_nothing_ties():
    x, y = drawn(0, 200, 300)
    asked, _ = drawn(1, 100, 300)
    theirs = KNeighborsClassifier(1, metric="hamming", algorithm="brute").fit(x > 0, y)
    distance, place = HammingNeighborsClassifier(1).fit(x, y).kneighbors(asked)
    their_distance, their_place = theirs.kneighbors(asked > 0)
    np.testing.assert_allclose(distance, 300 * their_distance)
    away = np.sort(((asked > 0)[:, None] != (x > 0)).sum(-1), axis=1)
    single = away[:, 0] < away[:, 1]
    assert single.sum() > 50
    np.testing.assert_array_equal(place[single], their_place[single])


def test_more_neighbours_than_codes():
    with pytest.raises(ValueError, match=r"n_neighbors must be at most 3, the training codes; got 9"):
        HammingNeighborsClassifier().fit(np.eye(3), [0, 1, 2]).predict(np.eye(3))


def test_packed_codes_are_uint8():
    with pytest.raises(TypeError, match=r"X must be uint8, 8 bits packed in each, with packed=True; got float64"):
        HammingNeighborsClassifier(packed=True).fit(np.eye(3), [0, 1, 2])


@law(seeds(), st.integers(1, 6))
def test_the_laws_of_purity(seed, groups):
    g = np.random.default_rng(seed)
    labels, clusters = g.integers(0, 4, 40), g.integers(0, groups, 40)
    purity = clustering_purity(labels, clusters)
    plain = sum(np.bincount(labels[clusters == c]).max() for c in np.unique(clusters)) / 40
    assert purity == pytest.approx(plain)
    assert clustering_purity(labels, g.permutation(groups)[clusters]) == purity
    table = np.array([[np.sum((clusters == c) & (labels == label)) for label in range(4)] for c in range(groups)])
    assert purity >= table[linear_sum_assignment(-table)].sum() / 40 - 1e-12
    finer = clusters * 4 + labels
    assert clustering_purity(labels, finer) == 1
    assert clustering_purity(labels, clusters * 2 + g.integers(0, 2, 40)) >= purity


def test_purity_by_hand():
    assert clustering_purity([2, 5, 5, 2], [0, 0, 1, 1]) == 0.5
    assert clustering_purity(list(range(10)) * 3, [7] * 30) == pytest.approx(0.1)
    assert clustering_purity(["a", "a", "b"], torch.tensor([1, 1, 0])) == 1


@pytest.mark.parametrize(("labels", "clusters"), [([1, 2], [1]), ([], []), ([[1]], [[1]])])
def test_bad_purity(labels, clusters):
    with pytest.raises(ValueError, match=r"labels_true and clusters must hold one value for each of N examples"):
        clustering_purity(labels, clusters)


@parametrize_with_checks([HammingNeighborsClassifier(n_neighbors=1)])
def test_scikit_learn_agrees(estimator, check):
    check(estimator)
