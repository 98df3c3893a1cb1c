"""How large the gap between training and test loss can be, from how far a layer's representations of the two differ.

With W the weights and T_l the representation at layer l, the theorems bound the expected gap by how far the law of a
training example's (T_l, Y) is from that of a test example's, over the randomness of the training set too. One trained
network shows only one draw of it. What is computed from samples here is an estimate put in the place of the truth: it
ranks layers and follows trends, and certifies nothing, but for one case: with ``method="exact"`` the Wasserstein bound
does bound the difference of the mean losses of the two samples at hand, when their labels are shared out alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.info.checks import check_fraction, check_non_negative, check_positive
from hartley.representation.rows import as_array
from hartley.representation.sample_distances import (
    Estimator,
    Method,
    RandomState,
    Rows,
    estimate_kl,
    pair,
    wasserstein_distance,
)

CROSS_ENTROPY = math.sqrt(2)  # Lipschitz constant of cross-entropy (nats) in the logits: |softmax - onehot|


class PlugInBound(NamedTuple):
    """A bound on the gap with an estimate in the place of the true distance: not a certificate."""

    bound: float  # in units of the loss
    distance: float  # nats (KL) or units of the representation (Wasserstein)


def kl_bound(
    reps_train: Rows,
    reps_test: Rows,
    sigma: float,
    *,
    estimator: Estimator = "gaussian",
    labels_train: ArrayLike | Tensor | None = None,
    labels_test: ArrayLike | Tensor | None = None,
    contraction: float = 1.0,
    random_state: int | None = None,
) -> PlugInBound:
    """Return sqrt(2 sigma^2 D), D an estimate of KL( train || test ) of a layer's representations, in nats.

    Parameters
    ----------
    reps_train, reps_test
        ``[N, D]`` and ``[M, D]``: the layer's values on training and on held-out examples (further axes are flattened).
    sigma
        The loss is sigma-sub-Gaussian under the test law; (b - a) / 2 for a loss in [a, b].
    estimator
        "gaussian", "knn" or "classifier", see `estimate_kl`. All are plug-ins, none an upper bound.
    labels_train, labels_test
        ``[N]`` and ``[M]`` classes. With them D is the divergence of (T, Y): that of the label frequencies, plus that
        of the representations within each class, weighted by the share of the class in training. A class's estimate
        below 0 counts as 0.
    contraction
        eta of the noise between these representations and the layer the bound is wanted for (a product of
        coefficients of `hartley.representation.contraction`). It shrinks the part within the classes alone, since the
        label passes unchanged.
    random_state
        As in `estimate_kl`.

    Raises
    ------
    ValueError
        As `estimate_kl`, and for labels of one side only or of another length, and a class that is not in both.

    >>> train, test = np.random.default_rng(0).normal([[[0.1]], [[0.0]]], 1.0, (2, 1000, 1))
    >>> bound, divergence = kl_bound(train, test, sigma=0.5)
    >>> bool(abs(bound - 0.5 * math.sqrt(2 * divergence)) < 1e-12)
    True

    Source: He & Goldfeld 2025, arXiv 2404.03176, the hierarchical bound in KL divergence.
    """
    check_positive("sigma", sigma)
    if contraction != 0:
        check_fraction("contraction", contraction)
    classes = _classes("reps_train", reps_train, "reps_test", reps_test, labels_train, labels_test)
    divergence = 0.0
    for train, test, share, other_share in classes:
        within = estimate_kl(train, test, estimator=estimator, random_state=random_state)
        divergence += share * (math.log(share / other_share) + contraction * max(0.0, within))
    divergence = max(0.0, divergence)  # rounding
    return PlugInBound(sigma * math.sqrt(2 * divergence), divergence)


def wasserstein_bound(
    reps_train: Rows,
    reps_test: Rows,
    lipschitz_tail: float,
    *,
    lipschitz_loss: float = CROSS_ENTROPY,
    labels_train: ArrayLike | Tensor | None = None,
    labels_test: ArrayLike | Tensor | None = None,
    method: Method = "sliced",
    n_projections: int = 128,
    random_state: RandomState = None,
) -> PlugInBound:
    """Return the loss's and the tail's Lipschitz constants times the 1-Wasserstein distance of train and test.

    Parameters
    ----------
    reps_train, reps_test
        As in `kl_bound`.
    lipschitz_tail
        Lipschitz constant of what follows the layer, up to the network's output: the product over the later layers of
        the operator norm of the weights and the activation's constant.
    lipschitz_loss
        That of the loss in the network's output: sqrt(2) for cross-entropy of logits, in nats.
    labels_train, labels_test
        Classes. With them the distance is that within each class, weighted by its share in training, and the factor is
        the tail; this assumes that both samples have their labels in like shares. Without, the factor is max(1, tail),
        and the rows must carry the label themselves where the loss depends on it.
    method, n_projections, random_state
        As in `wasserstein_distance`. "exact" bounds the gap of these very samples; "sliced" is an estimate from below.

    Raises ``ValueError`` as `wasserstein_distance` and `kl_bound`.

    >>> wasserstein_bound([[0.0], [1.0]], [[1.0], [4.0]], lipschitz_tail=3.0, lipschitz_loss=1.0)
    PlugInBound(bound=6.0, distance=2.0)

    Source: He & Goldfeld 2025, arXiv 2404.03176, the bound in Wasserstein distance.
    """
    check_non_negative("lipschitz_tail", lipschitz_tail)
    check_non_negative("lipschitz_loss", lipschitz_loss)
    classes = _classes("reps_train", reps_train, "reps_test", reps_test, labels_train, labels_test)
    distance = sum(
        share * wasserstein_distance(train, test, method=method, n_projections=n_projections, random_state=random_state)
        for train, test, share, _ in classes
    )
    factor = max(1.0, lipschitz_tail) if labels_train is None else lipschitz_tail
    return PlugInBound(float(lipschitz_loss * factor * distance), float(distance))


def _classes(
    name: str,
    train: Rows,
    other: str,
    test: Rows,
    labels_train: ArrayLike | Tensor | None,
    labels_test: ArrayLike | Tensor | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, float, float]]:
    """For each class its rows on both sides and its share on both; one class where there are no labels."""
    a, b = pair(name, train, other, test)
    if labels_train is None and labels_test is None:
        return iter([(a, b, 1.0, 1.0)])
    if labels_train is None or labels_test is None:
        raise ValueError("labels_train and labels_test must be given both, or neither; got one")
    y, z = (np.asarray(as_array(v)) for v in (labels_train, labels_test))
    for label, labels, rows in (("labels_train", y, a), ("labels_test", z, b)):
        if labels.shape != (len(rows),):
            raise ValueError(f"{label} must hold one class for each of {len(rows)} rows; got shape {labels.shape}")
    kinds = np.unique(y)
    missing = np.setxor1d(kinds, np.unique(z))
    if len(missing):
        raise ValueError(f"labels_train and labels_test must hold the same classes; got {missing[0]} on one side only")
    return ((a[y == kind], b[z == kind], float(np.mean(y == kind)), float(np.mean(z == kind))) for kind in kinds)
