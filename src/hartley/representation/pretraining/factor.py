"""The factor model as a pretrainer: the posterior mean of a few latents under maximum likelihood."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from hartley.info.checks import check_count, check_one_of
from hartley.representation.pretraining.moments import Moments
from hartley.representation.rows import Floats, like, read_rows

Noise = Literal["unit", "shared", "diag"]

MOST_STEPS, TOLERANCE = 1000, 1e-9  # of EM with noise="diag"; the tolerance is in nats a row
LEAST_NOISE = 1e-6  # of a feature's variance: where latents can explain a feature wholly, likelihood wants 0


class FactorPretrainer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """x = mean + B z + mu with z ~ N(0, I_r), fitted by maximum likelihood; rows become E[z | x].

    Parameters
    ----------
    n_components
        r, the number of latents, at most D. Too few lose what the labels need; too many cost little: `bic_` or `score`
        of held-out rows chooses.
    noise
        Variance of mu: "unit" is 1 in every feature (the paper's; do not standardise the features, divide them by the
        known noise instead), "shared" one learned number (probabilistic PCA), "diag" one a feature (factor analysis, by
        EM). The first two are closed forms: the top directions of the covariance, those under the noise dropped.
    assume_centered
        True takes the mean for 0, as the paper does, instead of learning it.

    Attributes
    ----------
    components_
        B^T [r, D], up to a rotation of the latents, which nothing downstream can tell.
    noise_variance_
        [D].
    posterior_covariance_
        (I + B^T Psi^-1 B)^-1 [r, r], the same for every row.
    log_likelihood_, bic_
        Mean of the training rows in nats, and -2 N times it plus (number of free parameters) ln N.
    mean_, n_samples_
        [D] and N.

    ``partial_fit`` and ``merge`` give what one ``fit`` of all rows would, in the memory of the covariance [D, D]; each
    call solves anew, D^3. Learned noise is never less than a millionth of the variance (of the mean one, for a constant
    feature); where nothing varies, as in one row, it is 1 and the latents explain nothing.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(5000, 1)) * [2.0, 0.0] + rng.normal(size=(5000, 2))
    >>> model = FactorPretrainer(1).fit(X)
    >>> np.abs(model.transform([[1.0, 0.0]])).round(1).tolist()  # exactly: 2 / (1 + 4)
    [[0.4]]

    Raises ``ValueError`` for settings outside their range, NaN and infinity.

    Source: Ge et al. 2024, "On the Provable Advantage of Unsupervised Pretraining", arXiv 2303.01566; Tipping & Bishop
    1999 for the closed form.
    """

    n_features_in_: int  #: D
    components_: Floats
    noise_variance_: Floats
    posterior_covariance_: Floats
    log_likelihood_: float
    bic_: float
    mean_: Floats
    n_samples_: int

    def __init__(self, n_components: int, *, noise: Noise = "unit", assume_centered: bool = False) -> None:
        self.n_components = n_components
        self.noise = noise
        self.assume_centered = assume_centered

    def fit(self, X: Any, y: Any = None) -> FactorPretrainer:
        """Forget what was seen, and fit the rows ``X`` [N, D]; return itself."""
        return self._set(Moments.of(read_rows(self, X, reset=True)))

    def partial_fit(self, X: Any, y: Any = None) -> FactorPretrainer:
        """Take more rows ``X`` [N, D]; return itself."""
        first = not hasattr(self, "n_samples_")
        seen = Moments.of(read_rows(self, X, reset=first))
        return self._set(seen if first else self._seen.plus(seen))

    def merge(self, other: FactorPretrainer) -> FactorPretrainer:
        """Add what ``other`` has seen, which must have as many features; return itself."""
        if not hasattr(other, "n_samples_"):
            return self
        if not hasattr(self, "n_samples_"):
            self.n_features_in_ = other.n_features_in_
            return self._set(other._seen)
        if other.n_features_in_ != self.n_features_in_:
            raise ValueError(f"other must have {self.n_features_in_} features; got {other.n_features_in_}")
        return self._set(self._seen.plus(other._seen))

    def transform(self, X: Any) -> Any:
        """E[z | x] [N, r], float64, of rows ``X`` [N, D], in the caller's kind of array."""
        check_is_fitted(self)
        return like((read_rows(self, X) - self.mean_) @ self._projection, X)

    def score_samples(self, X: Any) -> Floats:
        """Log-likelihood of each row of ``X`` [N, D], nats."""
        check_is_fitted(self)
        rows = read_rows(self, X) - self.mean_
        scaled = rows / self.noise_variance_
        inner = scaled @ self.components_.T
        distance = (rows * scaled).sum(1) - ((inner @ self.posterior_covariance_) * inner).sum(1)
        return -0.5 * (distance + self._log_volume)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows of ``X`` [N, D], nats a row."""
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _set(self, seen: Moments) -> FactorPretrainer:
        self._check(seen)
        covariance = seen.scatter / seen.rows
        if self.assume_centered:
            covariance = covariance + np.outer(seen.mean, seen.mean)
        r, d = self.n_components, len(seen.mean)
        if self.noise == "diag":
            loadings, noise = _factor_analysis(covariance, r)
        else:
            loadings, noise = _principal(covariance, r, self.noise)
        self._seen, self.n_samples_ = seen, seen.rows
        self.mean_ = np.zeros(d) if self.assume_centered else seen.mean
        self.noise_variance_ = noise
        # A sign for each latent: its largest weight is positive
        largest = loadings[np.abs(loadings).argmax(0), np.arange(r)]
        loadings = loadings * np.where(largest < 0, -1.0, 1.0)
        self.components_ = loadings.T
        precision = np.eye(r) + (loadings.T / noise) @ loadings
        self.posterior_covariance_ = np.linalg.inv(precision)
        self._projection = (loadings / noise[:, None]) @ self.posterior_covariance_
        self._log_volume = float(np.log(2 * np.pi * noise).sum() + np.linalg.slogdet(precision)[1])
        # The mean of x^T Sigma^-1 x over the rows is tr(Sigma^-1 C)
        trace = float(
            (np.diag(covariance) / noise).sum() - (self._projection * ((covariance / noise) @ loadings)).sum()
        )
        self.log_likelihood_ = -0.5 * (trace + self._log_volume)
        free = d * r - r * (r - 1) // 2 + (d if self.noise == "diag" else int(self.noise == "shared"))
        free += 0 if self.assume_centered else d
        self.bic_ = -2 * seen.rows * self.log_likelihood_ + free * math.log(seen.rows)
        return self

    def _check(self, seen: Moments) -> None:
        check_count("n_components", self.n_components)
        check_one_of("noise", self.noise, get_args(Noise))
        if self.n_components > len(seen.mean):
            raise ValueError(f"n_components must be at most the {len(seen.mean)} features; got {self.n_components}")
        if self.noise == "shared" and self.n_components == len(seen.mean):
            raise ValueError(
                f"n_components must be less than the {len(seen.mean)} features with noise='shared'; "
                f"got {self.n_components}"
            )


def _principal(covariance: Floats, r: int, noise: str) -> tuple[Floats, Floats]:
    """B [D, r] and Psi [D] from the top eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    mean = float(values.mean())
    variance = 1.0 if noise == "unit" or mean <= 0 else max(float(values[r:].mean()), LEAST_NOISE * mean)
    return vectors[:, :r] * np.sqrt(np.maximum(values[:r] - variance, 0)), np.full(len(values), variance)


def _factor_analysis(covariance: Floats, r: int) -> tuple[Floats, Floats]:
    """B [D, r] and Psi [D] by EM on the covariance, from the principal directions of the correlations."""
    spread = np.diag(covariance)
    if spread.max() <= 0:
        return np.zeros((len(spread), r)), np.ones(len(spread))
    scale = np.sqrt(np.where(spread > 0, spread, spread.mean()))
    correlation = covariance / np.outer(scale, scale)
    whole = np.diag(correlation)  # 1, or 0 for a constant feature
    values, vectors = np.linalg.eigh(correlation)
    loadings = vectors[:, ::-1][:, :r] * np.sqrt(np.maximum(values[::-1][:r] - 0.5, 0.01))
    noise = np.maximum(whole - (loadings**2).sum(1), LEAST_NOISE)
    before = -np.inf
    for _ in range(MOST_STEPS):
        weighted = loadings.T / noise  # [r, D]
        precision = np.eye(r) + weighted @ loadings
        gain = np.linalg.solve(precision, weighted)  # E[z | x] = gain x
        through = correlation @ gain.T
        volume = np.log(noise).sum() + np.linalg.slogdet(precision)[1]
        likelihood = -0.5 * (volume + (whole / noise).sum() - (through * weighted.T).sum())
        loadings = through @ np.linalg.inv(np.linalg.inv(precision) + gain @ through)
        noise = np.maximum(whole - (loadings * through).sum(1), LEAST_NOISE)
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
    return loadings * scale[:, None], noise * scale**2
