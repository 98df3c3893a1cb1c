"""How far the laws behind two samples of rows are apart: 1-Wasserstein distance and KL divergence."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance_nd
from torch import Tensor

from hartley.info.checks import check_count, check_one_of
from hartley.info.distribution import tensor_of
from hartley.representation.rows import rows_of

Method = Literal["sliced", "exact"]
Estimator = Literal["gaussian", "knn", "classifier"]
RandomState = int | np.random.Generator | None
Rows = ArrayLike | Tensor

NEIGHBORS = 5
FOLDS = 5


def wasserstein_distance(
    x: Rows, y: Rows, *, method: Method = "sliced", n_projections: int = 128, random_state: RandomState = None
) -> float:
    """Return the 1-Wasserstein distance of two samples ``x [N, D]`` and ``y [M, D]``, in units of their coordinates.

    Parameters
    ----------
    method
        "exact": the cheapest way to carry one sample onto the other, Euclidean. O(N^3) time and O(N^2) memory for equal
        sizes (an assignment), a linear programme of N M unknowns otherwise. "sliced": the mean over random lines of the
        distance of the projections, divided by what a unit vector projects to on average, so that it is at most the
        exact one (up to the sampling of lines) and equal to it when one sample is the other one moved; without the
        division it would shrink by about sqrt(D) for width alone. O(P (N log N + N D)).
    n_projections
        P, the number of lines.
    random_state
        Draws the lines: a seed or a ``numpy.random.Generator``.

    One feature is sorted, whatever the method: exact, O(N log N). Distances of samples do not vanish for equal laws:
    they fall as N^(-1/D) (exact) or N^(-1/2) (sliced).

    Raises
    ------
    ValueError
        For samples without rows, of different widths, or with NaN or infinity.

    >>> wasserstein_distance([[0.0], [1.0]], [[1.0], [4.0]])
    2.0

    Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters"; Villani 2009.
    """
    check_one_of("method", method, get_args(Method))
    check_count("n_projections", n_projections)
    x, y = pair("x", x, "y", y)
    width = x.shape[1]
    if width == 1:
        return float(_sorted_distances(x, y)[0])
    if method == "exact":
        if len(x) != len(y):
            return float(wasserstein_distance_nd(x, y))
        costs = cdist(x, y)
        return float(costs[linear_sum_assignment(costs)].mean())
    lines = np.random.default_rng(random_state).standard_normal((width, n_projections))
    lines /= np.linalg.norm(lines, axis=0)
    return float(_sorted_distances(x @ lines, y @ lines).mean() / mean_projection(width))


def mean_projection(width: int) -> float:
    """Return the mean length of a unit vector's projection on a random line, E |u_1|, in ``width`` dimensions.

    >>> round(mean_projection(2), 6)  # 2 / pi
    0.63662
    """
    return math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi)


def _sorted_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The area between the distribution functions of each column of ``x [N, P]`` and ``y [M, P]``."""
    both = np.concatenate([x, y])
    order = both.argsort(0)
    steps = np.where(order < len(x), 1 / len(x), -1 / len(y))
    gaps = np.diff(np.take_along_axis(both, order, 0), axis=0)
    return (np.abs(steps.cumsum(0)[:-1]) * gaps).sum(0)


def gaussian_kl(mean: ArrayLike, cov: ArrayLike, q_mean: ArrayLike, q_cov: ArrayLike) -> float:
    """Return KL( N(mean, cov) || N(q_mean, q_cov) ), nats, of means ``[D]`` and covariances ``[D, D]``.

    Raises ``ValueError`` for a covariance that is not positive definite.

    >>> gaussian_kl([1.0], [[1.0]], [0.0], [[1.0]])
    0.5
    """
    factors = [_cholesky(name, np.asarray(c, np.float64)) for name, c in (("cov", cov), ("q_cov", q_cov))]
    shift = np.linalg.solve(factors[1], np.asarray(q_mean, np.float64) - np.asarray(mean, np.float64))
    ratio = np.linalg.solve(factors[1], factors[0])
    logs = 2 * (np.log(np.diagonal(factors[1])) - np.log(np.diagonal(factors[0]))).sum()
    return float(((ratio**2).sum() + (shift**2).sum() - len(shift) + logs) / 2)


def estimate_kl(p: Rows, q: Rows, *, estimator: Estimator = "gaussian", random_state: int | None = None) -> float:
    """Return an estimate of KL( law of ``p [N, D]`` || law of ``q [M, D]`` ), nats; it can be below 0.

    Parameters
    ----------
    estimator
        "gaussian": that of the Gaussians with the samples' means and covariances; exact in the limit for Gaussians, too
        high by about (D + D (D + 1) / 2) (1 / N + 1 / M) / 2. Needs more than D rows of each, and no feature that is
        constant or a combination of others. "knn": distances to the fifth neighbour; no model, but biased towards 0
        beyond a few dimensions, and undefined where six rows are equal. "classifier": the mean log-odds, on rows held
        out, of a logistic regression that tells the samples apart; from below, since it sees only what is linear.
    random_state
        Shuffles the folds of "classifier".

    Raises
    ------
    ValueError
        As `wasserstein_distance`, and for samples that the estimator cannot use, saying why.

    >>> random = np.random.default_rng(0)
    >>> round(estimate_kl(random.normal(1, 1, (5000, 1)), random.normal(0, 1, (5000, 1))), 1)  # the truth is 0.5
    0.5

    Source: Wang, Kulkarni & Verdu 2009, "Divergence Estimation for Multidimensional Densities Via k-Nearest-Neighbor
    Distances", for "knn".
    """
    check_one_of("estimator", estimator, get_args(Estimator))
    p, q = pair("p", p, "q", q)
    if estimator == "gaussian":
        return _gaussian(p, q)
    return _knn(p, q) if estimator == "knn" else _classifier(p, q, random_state)


def _gaussian(p: np.ndarray, q: np.ndarray) -> float:
    width = p.shape[1]
    for name, rows in (("p", p), ("q", q)):
        if len(rows) <= width:
            raise ValueError(
                f"{name} must have more rows than its {width} features for estimator='gaussian'; got {len(rows)}"
            )
    covs = [np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (p, q)]
    return gaussian_kl(p.mean(0), covs[0], q.mean(0), covs[1])


def _knn(p: np.ndarray, q: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    for name, rows, least in (("p", p, NEIGHBORS + 1), ("q", q, NEIGHBORS)):
        if len(rows) < least:
            raise ValueError(f"{name} must have at least {least} rows for estimator='knn'; got {len(rows)}")
    own = np.asarray(NearestNeighbors(n_neighbors=NEIGHBORS).fit(p).kneighbors()[0])[
        :, -1
    ]  # a row is not its own neighbour
    other = np.asarray(NearestNeighbors(n_neighbors=NEIGHBORS).fit(q).kneighbors(p)[0])[:, -1]
    if not (own.all() and other.all()):
        raise ValueError(f"p and q must not have {NEIGHBORS} equal rows or more for estimator='knn'")
    return float(p.shape[1] * np.log(other / own).mean() + math.log(len(q) / (len(p) - 1)))


def _classifier(p: np.ndarray, q: np.ndarray, random_state: int | None) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for name, rows in (("p", p), ("q", q)):
        if len(rows) < FOLDS:
            raise ValueError(f"{name} must have at least {FOLDS} rows for estimator='classifier'; got {len(rows)}")
    which = np.repeat([1, 0], [len(p), len(q)])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    both = np.concatenate([p, q])
    odds = np.asarray(cross_val_predict(model, both, which, cv=folds, method="decision_function"))
    return float(odds[: len(p)].mean() - math.log(len(p) / len(q)))


def _cholesky(name: str, cov: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.diagonal(cov))
    try:
        factor = np.linalg.cholesky(cov / np.outer(scale, scale)) if (scale > 0).all() else np.zeros((1, 1))
    except np.linalg.LinAlgError:
        factor = np.zeros((1, 1))
    if not np.diagonal(factor).min() > math.sqrt(len(cov) * np.finfo(np.float64).eps):
        raise ValueError(
            f"{name} must be positive definite; a feature is constant or a combination of others: drop it or project"
        )
    return scale[:, None] * factor


def pair(name: str, x: Rows, other: str, y: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Two samples as float64 rows of one width, checked."""
    a, b = flat_rows(name, x), flat_rows(other, y)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{name} and {other} must have the same features; got {a.shape[1]} and {b.shape[1]}")
    return a, b


def flat_rows(name: str, x: Rows) -> np.ndarray:
    """Rows ``[N, D]`` in float64; what lies beyond the first axis is flattened, a lone axis is one feature."""
    values = tensor_of(name, x)[0]
    values = values[:, None] if values.ndim == 1 else values.flatten(1) if values.ndim > 2 else values
    return rows_of(name, values).double().cpu().numpy()
