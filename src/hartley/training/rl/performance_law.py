"""The law that ties a run's score to its entropy, and the score at which a run that spends its entropy will end."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hartley.info.checks import check_count


class EntropyPerformanceLaw:
    """Fit ``score = -a exp(entropy) + b``, by least squares in closed form.

    The ceiling, reached when no entropy is left, is ``b - a``. Intervals come from resampling the points. Points of one
    training run follow each other closely: ``block_length`` above 1 resamples runs of that many neighbours instead,
    without which the interval is too narrow.

    Parameters
    ----------
    n_bootstrap, confidence, block_length, random_state
        Of the intervals: how many resamples, their coverage, the points that stay together, and the seed.

    Attributes
    ----------
    a_, b_
        The coefficients; the paper finds both above 0. A negative ``a_`` means that the score fell as entropy did: the
        law does not describe the run.
    ceiling_, ceiling_interval_
        ``b_ - a_``, and the ends of its interval.
    rmse_
        Root mean square of the residuals, in the score's unit.

    >>> entropy = np.array([2.0, 1.5, 1.0, 0.5, 0.1])
    >>> law = EntropyPerformanceLaw().fit(entropy, -0.2 * np.exp(entropy) + 0.8)
    >>> round(float(law.a_), 6), round(float(law.b_), 6), round(float(law.ceiling_), 6)
    (0.2, 0.8, 0.6)
    >>> law.predict([0.0]).round(6)
    array([0.6])

    Source: Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", eq. 1.
    """

    a_: float
    b_: float
    ceiling_: float
    ceiling_interval_: tuple[float, float]
    rmse_: float

    def __init__(
        self, *, n_bootstrap: int = 1000, confidence: float = 0.95, block_length: int = 1, random_state: int = 0
    ) -> None:
        self.n_bootstrap = n_bootstrap
        self.confidence = confidence
        self.block_length = block_length
        self.random_state = random_state

    def fit(self, entropy: ArrayLike, score: ArrayLike) -> "EntropyPerformanceLaw":
        """Fit to the entropies (nats) and scores ``[N]`` of one run, in the order of its steps.

        Raises ``ValueError`` for shapes that differ, fewer than three points, values that are not finite, or an entropy
        that does not vary.
        """
        check_count("n_bootstrap", self.n_bootstrap)
        check_count("block_length", self.block_length)
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be in (0, 1); got {self.confidence}")
        h, r = np.asarray(entropy, float), np.asarray(score, float)
        if h.ndim != 1 or h.shape != r.shape or len(h) < 3:
            raise ValueError(f"entropy and score must be [N] alike, N at least 3; got {h.shape} and {r.shape}")
        if not (np.isfinite(h).all() and np.isfinite(r).all()):
            raise ValueError(f"entropy and score must be finite; got {h} and {r}")
        if np.ptp(h) == 0:
            raise ValueError(f"entropy must vary, or no slope can be told; got {h[0]} at every point")
        x = np.exp(h)
        a, b = _line(x[None], r[None])
        self.a_, self.b_ = float(a[0]), float(b[0])
        self.ceiling_ = self.b_ - self.a_
        self.rmse_ = float(np.sqrt(np.mean((self.predict(h) - r) ** 2)))
        picks = self._resamples(len(x))
        picks = picks[np.ptp(x[picks], axis=1) > 0]
        self._a, self._b = _line(x[picks], r[picks])
        self.ceiling_interval_ = self._ends(self._b - self._a)
        return self

    def predict(self, entropy: ArrayLike) -> NDArray[np.float64]:
        """The scores that the law gives at these entropies (nats), in their shape."""
        return self.b_ - self.a_ * np.exp(np.asarray(entropy, float))

    def interval(self, entropy: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The two ends of the bootstrap interval of `predict`: of the law's line, not of single scores about it."""
        x = np.exp(np.asarray(entropy, float))
        lines = self._b.reshape(-1, *[1] * x.ndim) - self._a.reshape(-1, *[1] * x.ndim) * x
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(lines, [tail, 1 - tail], axis=0)
        return low, high

    def _resamples(self, size: int) -> NDArray[np.intp]:
        rng = np.random.default_rng(self.random_state)
        length = min(self.block_length, size)
        blocks = -(-size // length)
        starts = rng.integers(0, size - length + 1, size=(self.n_bootstrap, blocks))
        return (starts[..., None] + np.arange(length)).reshape(self.n_bootstrap, -1)[:, :size]

    def _ends(self, values: NDArray[np.float64]) -> tuple[float, float]:
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)


def _line(x: NDArray[np.float64], r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and height of each row's line: a = -cov(x, r) / var(x), b = mean(r) + a mean(x)."""
    mean_x, mean_r = x.mean(1), r.mean(1)
    away = x - mean_x[:, None]
    a = -(away * (r - mean_r[:, None])).sum(1) / (away**2).sum(1)
    return a, mean_r + a * mean_x
