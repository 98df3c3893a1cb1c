"""Contrastive pretraining of a linear representation: which pairs of rows belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from hartley.info.checks import check_count
from hartley.representation.rows import Floats, like, read_rows


class ContrastivePretrainer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """P(t = 1 | x, x') = sigmoid(f(x)^T f(x')) with f(x) = W x, fitted by maximum likelihood; rows become f(x).

    t is 1 for pairs that belong together and 0 for pairs that do not. Where both kinds are as many, the best logit of
    all is the pointwise mutual information ln p(x, x') / (p(x) p(x')); a linear f reaches the part of it that is an
    inner product.

    Parameters
    ----------
    n_components
        r, the rows of W, at most D.
    max_iter
        Steps of L-BFGS, which starts in the directions of steepest descent from W = 0.
    random_state
        Seed of the unrelated pairs, where `fit` makes them.

    Attributes: ``components_`` W [r, D], up to a rotation; ``loss_`` the mean surprisal of t in nats a pair (ln 2 where
    nothing is learned); ``n_iter_``.

    Raises ``ValueError`` for settings outside their range, NaN and infinity, and pairs that do not fit.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(2000, 1)) * [2.0, 0.0, 0.0]
    >>> one, other = (z + rng.normal(size=(2000, 3)) for _ in range(2))  # two noisy views
    >>> w = ContrastivePretrainer(1, random_state=0).fit(one, partners=other).components_
    >>> bool(np.abs(w[0, 0]) > 10 * np.abs(w[0, 1:]).max())
    True

    Source: Ge et al. 2024, arXiv 2303.01566, section on contrastive learning.
    """

    n_features_in_: int  #: D
    components_: Floats
    loss_: float
    n_iter_: int

    def __init__(self, n_components: int, *, max_iter: int = 200, random_state: Any = None) -> None:
        self.n_components = n_components
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, partners: Any, related: Any = None) -> ContrastivePretrainer:
        """Fit the pairs of the rows of ``X`` and ``partners``, both [N, D]; return itself.

        ``related`` [N] holds t, 0 or 1. Without it all N pairs belong together, and each row of ``X`` is paired once
        more, with the partner of another row, to have N pairs that do not (N at least 2).
        """
        check_count("n_components", self.n_components)
        check_count("max_iter", self.max_iter)
        rows = read_rows(self, X, reset=True)
        others = read_rows(self, partners)
        if self.n_components > rows.shape[1]:
            raise ValueError(f"n_components must be at most the {rows.shape[1]} features; got {self.n_components}")
        if len(others) != len(rows):
            raise ValueError(f"partners must have the {len(rows)} rows of X; got {len(others)}")
        if related is None:
            if len(rows) < 2:
                raise ValueError("X must have at least 2 rows to make unrelated pairs of; got 1 sample")
            order = check_random_state(self.random_state).permutation(len(rows))
            strangers = np.empty_like(order)
            strangers[order] = np.roll(order, 1)  # nobody is paired with its own
            rows, others = np.concatenate([rows, rows]), np.concatenate([others, others[strangers]])
            t = np.repeat([1.0, 0.0], len(order))
        else:
            t = np.asarray(related, dtype=np.float64)
            if t.shape != (len(rows),) or not np.isin(t, (0, 1)).all():
                raise ValueError(f"related must hold 0 or 1 for each of the {len(rows)} pairs; got {related!r}")
        found = minimize(
            _loss, _start(rows, others, t, self.n_components), (rows, others, t), "L-BFGS-B", jac=True,
            options={"maxiter": self.max_iter},
        )  # fmt: skip
        self.components_ = found.x.reshape(self.n_components, -1)
        self.loss_, self.n_iter_ = float(found.fun), int(found.nit)
        return self

    def transform(self, X: Any) -> Any:
        """f(x) [N, r], float64, of rows ``X`` [N, D], in the caller's kind of array."""
        check_is_fitted(self)
        return like(read_rows(self, X) @ self.components_.T, X)

    def log_ratio(self, X: Any, partners: Any) -> Floats:
        """f(x)^T f(x') [N] of the pairs of rows of ``X`` and ``partners`` [N, D]: nats, in favour of belonging."""
        check_is_fitted(self)
        return ((read_rows(self, X) @ self.components_.T) * (read_rows(self, partners) @ self.components_.T)).sum(1)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _loss(w: Floats, rows: Floats, others: Floats, t: Floats) -> tuple[float, Floats]:
    """Mean surprisal of t, and its gradient by W, flat."""
    w = w.reshape(-1, rows.shape[1])
    one, other = rows @ w.T, others @ w.T
    logits = (one * other).sum(1)
    off = ((expit(logits) - t) / len(t))[:, None]
    gradient = (off * other).T @ rows + (off * one).T @ others
    return float(np.logaddexp(0, np.where(t > 0, -logits, logits)).mean()), gradient.ravel()


def _start(rows: Floats, others: Floats, t: Floats, r: int) -> Floats:
    """A small W along the top eigenvectors of what a quadratic expansion of the loss at 0 gains by."""
    gain = rows.T @ ((t - 0.5)[:, None] * others) / len(t)
    _, vectors = np.linalg.eigh(gain + gain.T)
    size = 0.1 / np.sqrt(max(float((rows**2).sum(1).mean()), 1e-300))
    return (size * vectors[:, ::-1][:, :r].T).ravel()
