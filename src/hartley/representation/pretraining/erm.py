"""Pretrain on unlabelled rows, then fit a small head to labelled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from hartley.representation.rows import Floats, as_array, read_rows


class PretrainedERM(BaseEstimator):
    """A pretrainer fitted to many unlabelled rows, and a head fitted to the few labelled ones in its representation.

    Parameters
    ----------
    pretrainer
        A transformer: `FactorPretrainer`, `MixturePretrainer`, `ContrastivePretrainer` or any of scikit-learn's. One
        that is ready goes in as ``sklearn.frozen.FrozenEstimator(pretrainer)`` and stays as it is.
    head
        What predicts y from the representation. None is least squares with an intercept, or ridge regression (alpha 1)
        where the head would have more parameters than there are labels. (The theorem's head has no intercept:
        ``LinearRegression(fit_intercept=False)``.) For labels of a mixture, `ClusterLabels`.

    Attributes: ``pretrainer_`` and ``head_``, fitted copies. It is a classifier or a regressor as its head is.

    It rests on y depending on x through the latents alone; a part of y that does not is never learned, however many
    labels there are.

    >>> rng = np.random.default_rng(0)
    >>> z, B = rng.normal(size=(3020, 2)), 2 * rng.normal(size=(2, 30))
    >>> X, y = z @ B + rng.normal(size=(3020, 30)), z @ [1.0, -1.0]
    >>> from hartley.representation.pretraining import FactorPretrainer
    >>> model = PretrainedERM(FactorPretrainer(2)).fit(X[:20], y[:20], X_unlabelled=X[20:])
    >>> model.score(X[20:], y[20:]) > 0.95
    True

    Source: Ge et al. 2024, "On the Provable Advantage of Unsupervised Pretraining", arXiv 2303.01566, algorithm 1.
    """

    n_features_in_: int
    pretrainer_: Any
    head_: Any

    def __init__(self, pretrainer: Any, head: Any = None) -> None:
        self.pretrainer = pretrainer
        self.head = head

    def fit(self, X: Any, y: Any, X_unlabelled: Any = None, **pretraining: Any) -> PretrainedERM:
        """Fit the pretrainer to ``X_unlabelled`` [M, D], the head to ``X`` [N, D] and ``y`` [N]; return itself.

        Without ``X_unlabelled`` the pretrainer sees ``X`` alone. ``pretraining`` is handed to its ``fit``, such as the
        ``partners`` of contrastive pairs. Give labelled rows among the unlabelled ones too, if you like: the theorem
        keeps them apart, practice need not.
        """
        checked: Any = validate_data(self, as_array(X), as_array(y), dtype=np.float64, multi_output=True)
        rows, labels = checked
        unlabelled = rows if X_unlabelled is None else read_rows(self, X_unlabelled)
        pretrainer: Any = clone(self.pretrainer)
        self.pretrainer_ = pretrainer.fit(unlabelled, None, **pretraining)
        features = np.asarray(self.pretrainer_.transform(rows))
        least_squares = Ridge() if features.shape[1] + 1 > len(rows) else LinearRegression()
        head: Any = clone(least_squares if self.head is None else self.head)
        self.head_ = head.fit(features, labels)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """What the head says of rows ``X`` [N, D]."""
        features = self._features(X)
        return self.head_.predict(features)

    @available_if(lambda self: hasattr(getattr(self, "head_", self.head), "predict_proba"))
    def predict_proba(self, X: Any) -> Floats:
        """The head's probabilities [N, C] of rows ``X`` [N, D]."""
        features = self._features(X)
        return self.head_.predict_proba(features)

    def score(self, X: Any, y: Any) -> float:
        """The head's score of rows ``X`` [N, D] and ``y`` [N]: R^2 of a regressor, accuracy of a classifier."""
        features = self._features(X)
        return float(self.head_.score(features, as_array(y)))

    @property
    def classes_(self) -> NDArray[Any]:
        """The head's classes, where it is a classifier."""
        return self.head_.classes_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        head = get_tags(LinearRegression() if self.head is None else self.head)
        tags.estimator_type = head.estimator_type
        tags.classifier_tags, tags.regressor_tags = head.classifier_tags, head.regressor_tags
        tags.target_tags = head.target_tags
        return tags

    def _features(self, X: Any) -> Floats:
        check_is_fitted(self)
        return np.asarray(self.pretrainer_.transform(read_rows(self, X)))


class ClusterLabels(ClassifierMixin, BaseEstimator):
    """A table P(y | z) of labels for each component z, read through the posterior: P(y | x) = sum_z P(z | x) P(y | z).

    The entry of z is the share each label has of the posterior mass that labelled rows put on z; where every row lies
    in one component that is its labels' share, and the prediction its majority. A component that no labelled row
    reaches has the shares of all labels.

    Attributes: ``classes_`` [C], ``table_`` [K, C], rows summing to 1.

    >>> posterior = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    >>> ClusterLabels().fit(posterior, ["a", "a", "b", "b"]).predict([[0.8, 0.2], [0.1, 0.9]]).tolist()
    ['a', 'b']

    Source: Ge et al. 2024, arXiv 2303.01566, section on Gaussian mixtures.
    """

    n_features_in_: int  #: K
    classes_: NDArray[Any]
    table_: Floats

    def fit(self, X: Any, y: Any) -> ClusterLabels:
        """Fit posteriors ``X`` [N, K], none negative, and labels ``y`` [N]; return itself."""
        checked: Any = validate_data(self, as_array(X), as_array(y), dtype=np.float64)
        rows, labels = checked
        check_classification_targets(labels)
        _check_posterior(rows)
        self.classes_, places = np.unique(labels, return_inverse=True)
        ones = np.eye(len(self.classes_))[places]
        mass = rows.T @ ones
        total = mass.sum(1, keepdims=True)
        self.table_ = np.where(total > 0, mass / np.where(total > 0, total, 1), ones.mean(0))
        return self

    def predict_proba(self, X: Any) -> Floats:
        """P(y | x) [N, C] of posteriors ``X`` [N, K]; a row of zeros has the mean of the table."""
        check_is_fitted(self)
        rows = read_rows(self, X)
        _check_posterior(rows)
        total = rows.sum(1, keepdims=True)
        weights = np.where(total > 0, rows / np.where(total > 0, total, 1), 1 / rows.shape[1])
        return weights @ self.table_

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest label of each row of ``X`` [N, K]."""
        places = self.predict_proba(X).argmax(1)
        return self.classes_[places]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.classifier_tags.poor_score = True  # of posteriors, which the checks do not give
        return tags


def _check_posterior(rows: Floats) -> None:
    if (rows < 0).any():
        at = tuple(int(i) for i in np.argwhere(rows < 0)[0])
        raise ValueError(f"Negative values in data passed to X: a posterior has none; got {rows[at]} at {at}")
