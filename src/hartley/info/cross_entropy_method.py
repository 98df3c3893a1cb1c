"""The cross-entropy method: tilt a distribution towards what scores well, to find it or to say how rare it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hartley.info.checks import check_count, check_fraction, check_non_negative, check_positive

Floats = NDArray[np.float64]
Points = NDArray[Any]

PATIENCE = 5  # iterations in a row whose best values are the same, before a search stops


class Family(Protocol):
    """Distributions over points ``x [N, D]``; one array of parameters names one of them.

    Old and new parameters are averaged, so they must form a convex set.
    """

    def sample(self, params: Floats, n: int, rng: np.random.Generator) -> Points:
        """Draw ``n`` points ``[N, D]``."""
        ...

    def log_density(self, x: Points, params: Floats) -> Floats:
        """Log-density ``[N]``, nats, of points ``[N, D]``."""
        ...

    def fit(self, x: Points, weights: Floats, params: Floats) -> Floats:
        """The parameters of largest likelihood for points of ``weights [N]``, drawn with ``params``."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: parameters ``[2, D]``, means, then standard deviations, never below ``min_sd``."""

    min_sd: float | Floats = 1e-6

    def sample(self, params: Floats, n: int, rng: np.random.Generator) -> Points:
        """Draw ``n`` points ``[N, D]``."""
        return rng.normal(params[0], params[1], size=(n, params.shape[1]))

    def log_density(self, x: Points, params: Floats) -> Floats:
        """Log-density ``[N]``, nats."""
        mean, sd = params
        return (-0.5 * ((x - mean) / sd) ** 2 - np.log(sd * math.sqrt(2 * math.pi))).sum(-1)

    def fit(self, x: Points, weights: Floats, params: Floats) -> Floats:
        """Weighted means and standard deviations."""
        mean = np.average(x, axis=0, weights=weights)
        sd = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
        return np.stack([mean, np.maximum(sd, self.min_sd)])


@dataclass(frozen=True)
class Categorical:
    """Independent choices ``x [N, D]`` from 0 to C - 1: parameters ``[D, C]``, the probability of each choice."""

    def sample(self, params: Floats, n: int, rng: np.random.Generator) -> Points:
        """Draw ``n`` points ``[N, D]``, int64."""
        reach = params.cumsum(-1)
        reach /= reach[:, -1:]  # ends at exactly 1, so that rounding never draws a choice past the last
        return (rng.random((n, len(params), 1)) >= reach).sum(-1)

    def log_density(self, x: Points, params: Floats) -> Floats:
        """Log-probability ``[N]``, nats."""
        with np.errstate(divide="ignore"):
            return np.log(params[np.arange(len(params)), x]).sum(-1)

    def fit(self, x: Points, weights: Floats, params: Floats) -> Floats:
        """Weighted frequencies."""
        counts = [np.bincount(column, weights, params.shape[1]) for column in x.T]
        return np.stack(counts) / weights.sum()


@dataclass(frozen=True)
class Bernoulli:
    """Independent coins ``x [N, D]``, 0 or 1: parameters ``[D]``, the probability of 1."""

    def sample(self, params: Floats, n: int, rng: np.random.Generator) -> Points:
        """Draw ``n`` points ``[N, D]``, int64."""
        return (rng.random((n, len(params))) < params).astype(np.int64)

    def log_density(self, x: Points, params: Floats) -> Floats:
        """Log-probability ``[N]``, nats."""
        with np.errstate(divide="ignore"):
            return np.log(np.where(x == 1, params, 1 - params)).sum(-1)

    def fit(self, x: Points, weights: Floats, params: Floats) -> Floats:
        """Weighted frequencies of 1."""
        return np.average(x, axis=0, weights=weights)


@dataclass(frozen=True, eq=False)
class Minimum:
    """What a search found; the first six fields are named and meant as SciPy's ``OptimizeResult`` has them."""

    x: Points  #: ``[D]``, the best point drawn
    fun: float  #: its value
    nit: int
    nfev: int
    success: bool  #: False where the search ran out of iterations
    message: str
    path: tuple[Floats, ...]  #: the parameters before the first iteration and after each


@dataclass(frozen=True, eq=False)
class RareEvent:
    """The probability of a rare event, with how it was reached."""

    estimate: float
    stderr: float  #: one standard error of ``estimate``
    tilt: Floats  #: the parameters that the final sample was drawn with
    effective_sample_size: float  #: of the hits in the final sample: (sum w)^2 / sum w^2
    levels: tuple[float, ...]  #: the score that each iteration reached for; the last is ``gamma``
    nit: int
    nfev: int
    success: bool  #: False where ``gamma`` was not reached, and the estimate means nothing
    message: str


@dataclass(frozen=True)
class CrossEntropyMethod:
    """Minimise a function, or estimate the probability of a rare event, by moving a family towards its best samples.

    Each iteration draws ``n_samples`` points, fits the family to the best ``elite_frac`` of them by weighted maximum
    likelihood, and moves the parameters by ``smoothing`` of the way there; 1 goes all the way. ``tol`` is the spread
    (largest standard deviation of an elite coordinate) at which a search ends. ``random_state`` is a seed, a NumPy
    ``Generator``, or None.

    Functions are vectorised: they take points ``[N, D]`` and return ``[N]``, never NaN.
    Raises: ``ValueError``, ``TypeError`` naming the setting and what is allowed.

    >>> method = CrossEntropyMethod(random_state=0)
    >>> found = method.minimize(lambda x: ((x - [3, -1]) ** 2).sum(-1), x0=[0, 0], sigma0=5)
    >>> found.x.round(3), found.success
    (array([ 3., -1.]), True)
    >>> tail = method.rare_event(lambda z: z[:, 0], 4.0, x0=0, sigma0=1)  # P(Z >= 4) is 3.17e-5
    >>> f"{tail.estimate:.2e} ± {tail.stderr:.0e} from {tail.nfev} samples"
    '3.00e-05 ± 7e-07 from 14000 samples'

    Source: Rubinstein 1999; de Boer et al. 2005, "A Tutorial on the Cross-Entropy Method", algorithms 2.1 and 2.2 of
    which these are the smoothed forms.
    """

    family: Family = field(default_factory=Gaussian)
    n_samples: int = 1000
    elite_frac: float = 0.1
    smoothing: float = 0.7
    max_iter: int = 100
    tol: float = 1e-6
    random_state: int | np.random.Generator | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)
        check_fraction("elite_frac", self.elite_frac)
        check_fraction("smoothing", self.smoothing)
        check_count("max_iter", self.max_iter)
        check_non_negative("tol", self.tol)
        if self.n_samples < 2:
            raise ValueError(f"n_samples must be at least 2, the smallest elite; got {self.n_samples}")

    def minimize(self, f: Callable[[Points], ArrayLike], x0: ArrayLike, sigma0: ArrayLike | None = None) -> Minimum:
        """Search for the smallest value of ``f``, starting from normals around ``x0 [D]`` of width ``sigma0``.

        For another family leave ``sigma0`` out and give its parameters as ``x0``. ``f`` may be +inf where a point is
        not allowed. The search ends when the best value stays the same for 5 iterations or the spread is below ``tol``.
        Raises ``ValueError`` for a NaN, and where the first draw holds no finite value.
        """
        rng = np.random.default_rng(self.random_state)
        params = _start(x0, sigma0)
        x, fun, before, unchanged, path = np.empty(0), math.inf, math.nan, 0, [params]
        message = f"max_iter ({self.max_iter} iterations) reached"
        success = False
        while not success and len(path) <= self.max_iter:
            drawn = self.family.sample(params, self.n_samples, rng)
            values = _values(f, drawn)
            best = int(values.argmin())
            unchanged = unchanged + 1 if values[best] == before else 0
            before = float(values[best])
            if before < fun:
                x, fun = drawn[best], before
            if fun == math.inf:
                raise ValueError(f"f must be finite somewhere near x0; got +inf at all {self.n_samples} points drawn")
            elite = drawn[(values <= self._elite(values)) & (values < math.inf)]
            if len(elite):
                params = self._towards(self.family.fit(elite, np.ones(len(elite)), params), params)
            path.append(params)
            if len(elite) > 1 and float(elite.std(0).max()) < self.tol:
                success, message = True, f"spread below tol ({self.tol:g})"
            elif unchanged >= PATIENCE:
                success, message = True, f"best value unchanged for {PATIENCE} iterations"
        nit = len(path) - 1
        return Minimum(x, fun, nit, nit * self.n_samples, success, message, tuple(path))

    def rare_event(
        self,
        score: Callable[[Points], ArrayLike],
        gamma: float,
        x0: ArrayLike,
        sigma0: ArrayLike | None = None,
        n_final: int = 10_000,
    ) -> RareEvent:
        """Estimate ``P(score(X) >= gamma)`` for X normal around ``x0 [D]`` with standard deviation ``sigma0``.

        For another family leave ``sigma0`` out and give the parameters of X as ``x0``. The family climbs to ``gamma``
        level by level; then ``n_final`` fresh points, weighted by their likelihood ratio, give the estimate. Normals
        may widen on the way and never narrow: below 0.71 of the true width the variance of the estimate is infinite.
        Keep ``smoothing`` below 1 for discrete families, so that no outcome is lost. In many dimensions the weights
        degenerate: look at ``effective_sample_size``. Raises ``ValueError`` for a NaN score or a ``gamma`` not finite.
        """
        check_count("n_final", n_final)
        if not math.isfinite(gamma):
            raise ValueError(f"gamma must be finite; got {gamma}")
        rng = np.random.default_rng(self.random_state)
        nominal = params = _start(x0, sigma0)
        family = self.family
        if isinstance(family, Gaussian):
            family = Gaussian(min_sd=np.maximum(family.min_sd, nominal[1]))
        levels: list[float] = []
        while (not levels or levels[-1] < gamma) and len(levels) < self.max_iter:
            drawn = family.sample(params, self.n_samples, rng)
            values = _values(score, drawn)
            levels.append(min(gamma, -self._elite(-values)))
            elite = drawn[values >= levels[-1]]
            log_ratio = family.log_density(elite, nominal) - family.log_density(elite, params)
            weights = np.exp(log_ratio - log_ratio.max())  # a fit needs no scale, so none can overflow
            params = self._towards(family.fit(elite, weights, params), params)

        drawn = family.sample(params, n_final, rng)
        hit = _values(score, drawn) >= gamma
        weights = np.zeros(n_final)
        weights[hit] = np.exp(family.log_density(drawn[hit], nominal) - family.log_density(drawn[hit], params))
        squares = float((weights**2).sum())
        reached = levels[-1] >= gamma
        return RareEvent(
            estimate=float(weights.mean()),
            stderr=float(weights.std(ddof=1) / math.sqrt(n_final)) if n_final > 1 else math.inf,
            tilt=params,
            effective_sample_size=float(weights.sum()) ** 2 / squares if squares else 0.0,
            levels=tuple(levels),
            nit=len(levels),
            nfev=len(levels) * self.n_samples + n_final,
            success=reached,
            message="gamma reached" if reached else f"level {levels[-1]:g} after max_iter ({self.max_iter}) iterations",
        )

    def _elite(self, values: Floats) -> float:
        """The largest value that still belongs to the elite, the smallest ``elite_frac`` of the values."""
        count = max(2, math.ceil(self.elite_frac * self.n_samples))
        return float(np.partition(values, count - 1)[count - 1])

    def _towards(self, fitted: Floats, params: Floats) -> Floats:
        return self.smoothing * fitted + (1 - self.smoothing) * params


def _start(x0: ArrayLike, sigma0: ArrayLike | None) -> Floats:
    start = np.atleast_1d(np.asarray(x0, dtype=np.float64))
    if sigma0 is None:
        return start
    sd = np.asarray(sigma0, dtype=np.float64)
    check_positive("sigma0", sd)
    return np.stack(np.broadcast_arrays(start, sd))


def _values(f: Callable[[Points], ArrayLike], x: Points) -> Floats:
    values = np.asarray(f(x), dtype=np.float64)
    if values.shape != (len(x),):
        raise ValueError(f"the function must return one value a point, shape ({len(x)},); got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"the function must never return NaN; got it at x={x[int(np.isnan(values).argmax())]}")
    return values
