"""Classify by codes alone: the vote of the nearest in Hamming distance, and how pure clusters are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from hartley.info.checks import check_count
from hartley.info.hamming import hamming_neighbors
from hartley.representation.rows import as_array


class HammingNeighborsClassifier(ClassifierMixin, BaseEstimator):
    """The commonest class among the ``n_neighbors`` training codes that differ in the fewest bits.

    A code is the row of bits X > 0, or with ``packed=True`` a row of uint8 with 8 bits packed in each
    (`neural_code(packed=True)`), and only packed bits are kept. Of codes at one distance the earlier row is nearer; of
    classes with as many votes the first in ``classes_`` wins. Such ties are frequent: compare accuracies, not single
    predictions.

    Attributes
    ----------
    classes_
        The labels seen, sorted.
    codes_
        Packed training codes, uint8 ``[N, bytes]``.
    n_features_in_
        Columns of X.

    >>> nearest = HammingNeighborsClassifier(n_neighbors=1).fit([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], ["a", "b"])
    >>> nearest.predict([[0.2, 0.1, 0.5]]).tolist()
    ['a']

    Source: He et al. 2021, "Neural networks behave as hash encoders", section 3 (9 neighbours).
    """

    classes_: NDArray[Any]
    codes_: NDArray[np.uint8]
    n_features_in_: int

    def __init__(self, n_neighbors: int = 9, *, packed: bool = False) -> None:
        self.n_neighbors = n_neighbors
        self.packed = packed

    def fit(self, X: ArrayLike | Tensor, y: ArrayLike) -> HammingNeighborsClassifier:
        """Keep the codes of ``X [N, B]`` and their labels ``y [N]``.

        Raises ``ValueError`` for NaN, infinity and shapes that do not fit; ``TypeError`` for packed codes of another
        kind.
        """
        check_count("n_neighbors", self.n_neighbors)
        X, y = validate_data(self, as_array(X), as_array(y), dtype=None if self.packed else "numeric")
        check_classification_targets(y)
        self.codes_ = self._packed(X)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        return self

    def kneighbors(
        self, X: ArrayLike | Tensor, n_neighbors: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of differing bits and the rows of the nearest training codes, each ``[Q, n_neighbors]``.

        Raises ``ValueError`` for more neighbours than training codes.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if k > len(self.codes_):
            raise ValueError(f"n_neighbors must be at most {len(self.codes_)}, the training codes; got {k}")
        X = validate_data(self, as_array(X), reset=False, dtype=None if self.packed else "numeric")
        distance, place = hamming_neighbors(torch.from_numpy(self._packed(X)), torch.from_numpy(self.codes_), k)
        return distance.numpy(), place.numpy()

    def predict_proba(self, X: ArrayLike | Tensor) -> NDArray[np.float64]:
        """The share of votes ``[Q, C]`` of each of ``classes_``."""
        _, place = self.kneighbors(X)
        votes = self._labels[place]
        return (votes[:, :, None] == np.arange(len(self.classes_))).mean(1)

    def predict(self, X: ArrayLike | Tensor) -> NDArray[Any]:
        """The class ``[Q]`` with most votes."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]

    def _packed(self, X: Any) -> NDArray[np.uint8]:
        if not self.packed:
            return np.packbits(X > 0, axis=1)
        if X.dtype != np.uint8:
            raise TypeError(f"X must be uint8, 8 bits packed in each, with packed=True; got {X.dtype}")
        return np.ascontiguousarray(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # it sees signs only
        return tags


def clustering_purity(labels_true: ArrayLike | Tensor, clusters: ArrayLike | Tensor) -> float:
    """Return the share of examples whose label is the commonest in their cluster.

    Both are one value for each of N examples, of any kind. Several clusters may stand for one label, so more clusters
    never lower it, and as many as examples make it 1: compare at equal numbers. Raises ``ValueError`` for lengths that
    differ and no examples.

    >>> clustering_purity([2, 5, 5, 2], [0, 0, 1, 1])
    0.5

    Source: He et al. 2021, section 3, where it is called clustering accuracy.
    """
    labels, groups = np.asarray(as_array(labels_true)), np.asarray(as_array(clusters))
    if labels.ndim != 1 or labels.shape != groups.shape or not len(labels):
        raise ValueError(
            f"labels_true and clusters must hold one value for each of N examples; got {labels.shape}, {groups.shape}"
        )
    _, rows = np.unique(groups, return_inverse=True)
    _, columns = np.unique(labels, return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(table, (rows, columns), 1)
    return float(table.max(1).sum() / len(labels))
