"""A mixture of round Gaussians as a pretrainer: the posterior of the component under maximum likelihood."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from hartley.info.checks import check_count, check_non_negative, check_one_of
from hartley.representation.rows import Floats, like, read_rows

Noise = Literal["unit", "shared"]


class MixturePretrainer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """z uniform on K components, x | z ~ N(u_z, v I), fitted by EM; rows become P(z | x).

    Parameters
    ----------
    n_components
        K, at most the number of rows.
    noise
        "unit" takes v for 1 (the paper's), "shared" learns it.
    n_init
        Starts by k-means++, of which the likeliest end is kept: the theorem is about the global maximum.
    max_iter, tol
        EM stops after ``max_iter`` steps, or at one that gains less than ``tol`` nats a row.
    random_state
        Seed of the starts.

    Attributes
    ----------
    means_, noise_variance_
        u [K, D], in no order that means anything, and v.
    log_likelihood_, log_likelihoods_
        Mean of the training rows in nats: the best start's, and each start's [n_init], so that a lucky one shows.
    n_iter_
        Steps of the best start.

    EM has to see all rows at every step, so there is no ``partial_fit``. Raises ``ValueError`` for settings outside
    their range, NaN and infinity, fewer rows than components, and under "shared" no more distinct rows than components.

    >>> X = np.repeat([[-4.0, 0.0], [4.0, 0.0]], 50, axis=0) + np.random.default_rng(0).normal(size=(100, 2))
    >>> MixturePretrainer(2, random_state=0).fit(X).transform([[4.0, 0.0]]).max().round(3)
    np.float64(1.0)

    Source: Ge et al. 2024, arXiv 2303.01566, section on Gaussian mixtures.
    """

    n_features_in_: int  #: D
    means_: Floats
    noise_variance_: float
    log_likelihood_: float
    log_likelihoods_: Floats
    n_iter_: int

    def __init__(
        self,
        n_components: int,
        *,
        noise: Noise = "unit",
        n_init: int = 10,
        max_iter: int = 200,
        tol: float = 1e-6,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.noise = noise
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MixturePretrainer:
        """Fit the rows ``X`` [N, D]; return itself."""
        for name in ("n_components", "n_init", "max_iter"):
            check_count(name, getattr(self, name))
        check_one_of("noise", self.noise, get_args(Noise))
        check_non_negative("tol", self.tol)
        rows = read_rows(self, X, reset=True)
        if len(rows) < self.n_components:
            raise ValueError(f"n_components must be at most the n_samples = {len(rows)}; got {self.n_components}")
        random = check_random_state(self.random_state)
        starts = [self._climb(rows, random) for _ in range(self.n_init)]
        self.log_likelihoods_ = np.array([start.likelihood for start in starts])
        best = starts[int(self.log_likelihoods_.argmax())]
        self.means_, self.noise_variance_, self.log_likelihood_, self.n_iter_ = best
        return self

    def transform(self, X: Any) -> Any:
        """P(z | x) [N, K], float64, of rows ``X`` [N, D], in the caller's kind of array."""
        check_is_fitted(self)
        logits = _logits(read_rows(self, X), self.means_, self.noise_variance_)
        return like(np.exp(logits - logsumexp(logits, axis=1, keepdims=True)), X)

    def score_samples(self, X: Any) -> Floats:
        """Log-likelihood of each row of ``X`` [N, D], nats."""
        check_is_fitted(self)
        rows = read_rows(self, X)
        return _likelihood(rows, _logits(rows, self.means_, self.noise_variance_), self.noise_variance_)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows of ``X`` [N, D], nats a row."""
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return len(self.means_)

    def _climb(self, rows: Floats, random: np.random.RandomState) -> _Climb:
        """One start of EM."""
        n, d = rows.shape
        means, _ = kmeans_plusplus(rows, self.n_components, random_state=random)
        squares = float((rows**2).sum())
        spread = float(((rows - rows.mean(0)) ** 2).mean())
        variance = 1.0 if self.noise == "unit" else spread
        likelihood, step = -math.inf, 0
        while True:
            if variance <= 1e-12 * spread or variance == 0:
                raise ValueError(
                    f"X must hold more distinct rows than n_components={self.n_components} with noise='shared': "
                    "where each has a component of its own (one sample, say), no noise is left to learn"
                )
            logits = _logits(rows, means, variance)
            before, likelihood = likelihood, float(_likelihood(rows, logits, variance).mean())
            if step == self.max_iter or likelihood - before < self.tol:
                return _Climb(means, variance, likelihood, step)
            posterior = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
            mass = posterior.sum(0)
            # A component without rows stays where it is
            means = np.where(mass[:, None] > 1e-12, posterior.T @ rows / np.maximum(mass, 1e-12)[:, None], means)
            if self.noise == "shared":
                variance = (squares - float((mass * (means**2).sum(1)).sum())) / (n * d)
            step += 1


class _Climb(NamedTuple):
    """Where a start of EM ended."""

    means: Floats
    variance: float
    likelihood: float
    steps: int


def _logits(rows: Floats, means: Floats, variance: float) -> Floats:
    """ln P(x | z) [N, K], but for what all z share."""
    return (rows @ means.T - 0.5 * (means**2).sum(1)) / variance


def _likelihood(rows: Floats, logits: Floats, variance: float) -> Floats:
    shared = -0.5 * (rows**2).sum(1) / variance - 0.5 * rows.shape[1] * math.log(2 * math.pi * variance)
    return shared + logsumexp(logits, axis=1) - math.log(logits.shape[1])
