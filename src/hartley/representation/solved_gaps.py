"""Cases in which the gap between training and test loss, or a bound on it, has a closed form."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, logsumexp

from hartley.info.checks import check_count, check_fraction, check_non_negative, check_positive

MOST_HISTOGRAMS = 1_000_000


def gaussian_classification_bound(d_layers: ArrayLike, n: int, sigma: float) -> np.ndarray:
    """Return sigma sqrt(d_l ln(n / (n - 1))) for layers of widths ``d_layers``: the KL bound of a solved case.

    Two Gaussian classes at +mu and -mu, ``n`` training examples, linear layers of full rank that do not depend on the
    data, the last weight the mean of Y times the representation. ``sigma`` is 1/2 for the 0-1 loss. Exact, nothing is
    estimated. Raises ``ValueError`` for ``n`` below 2, widths below 1 and ``sigma`` not above 0.

    >>> gaussian_classification_bound([64, 16, 4, 1], n=20, sigma=0.5).round(3)
    array([0.906, 0.453, 0.226, 0.113])

    Source: He & Goldfeld 2025, arXiv 2404.03176, the example of binary Gaussian classification.
    """
    check_positive("sigma", sigma)
    check_count("n", n)
    if n < 2:
        raise ValueError(f"n must be at least 2; got {n}")
    widths = np.asarray(d_layers)
    check_count("d_layers", widths)
    return sigma * np.sqrt(widths * -math.log1p(-1 / n))


def finite_weights_bound(values: int, parameters: int, n: int, sigma: float, *, contraction: float = 1.0) -> float:
    """Return sigma sqrt(2 contraction parameters ln(values) / n) for weights that take ``values`` values each.

    I(S; W) is at most the logarithm of how many weights there are. ``contraction`` is the product of the layers'
    coefficients: at a fixed number of parameters, deeper and narrower networks have a smaller one.

    >>> round(finite_weights_bound(2, 100, n=1000, sigma=0.5), 4)
    0.1862

    Source: He & Goldfeld 2025, arXiv 2404.03176, finite parameter spaces.
    """
    for name, count in (("values", values), ("parameters", parameters), ("n", n)):
        check_count(name, count)
    check_positive("sigma", sigma)
    if contraction != 0:
        check_fraction("contraction", contraction)
    return sigma * math.sqrt(2 * contraction * parameters * math.log(values) / n)


class Gibbs(NamedTuple):
    """What the Gibbs algorithm's gap is, and is at most; information in nats."""

    gap: float  # expected test less training loss
    mutual_information: float  # I(S; W)
    lautum_information: float  # KL( P_S P_W || P_SW )
    bound: float  # 2 sigma^2 gamma / n, sigma half the range of the losses


def gibbs_generalization(losses: ArrayLike, prior: ArrayLike, gamma: float, *, data: ArrayLike, n: int) -> Gibbs:
    """Return the exact gap of drawing weights with probability ~ prior exp(-gamma mean training loss).

    Parameters
    ----------
    losses
        ``[W, Z]``: the loss of each of W weights on each of Z examples that there can be.
    prior, data
        ``[W]`` and ``[Z]``, probabilities.
    gamma
        Inverse temperature, at least 0.
    n
        Examples in the training set, drawn from ``data``. All histograms of them are gone through, at most a million.

    The gap is (mutual + lautum information) / gamma, an identity; both sides are computed apart.

    Raises ``ValueError`` for shapes that do not fit, what is no distribution, and too many histograms.

    >>> found = gibbs_generalization([[0, 1], [1, 0]], [0.5, 0.5], 5.0, data=[0.7, 0.3], n=10)
    >>> round(found.gap, 7), found.bound
    (0.0521635, 0.25)

    Source: Aminian et al. 2021, "An Exact Characterization of the Generalization Error for the Gibbs Algorithm"; He &
    Goldfeld 2025.
    """
    check_non_negative("gamma", gamma)
    check_count("n", n)
    table = np.asarray(losses, np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"losses must be finite, [weights, examples]; got shape {table.shape}")
    log_prior, log_data = (
        _log_distribution(name, value, size)
        for name, value, size in (("prior", prior, table.shape[0]), ("data", data, table.shape[1]))
    )
    counts = _histograms(n, table.shape[1])
    with np.errstate(invalid="ignore"):
        terms = np.where(counts > 0, counts * log_data, 0)
    log_s = gammaln(n + 1) - gammaln(counts + 1).sum(1) + terms.sum(1)  # [S]
    possible = log_s > -np.inf
    counts, log_s = counts[possible], log_s[possible]
    risks = counts @ table.T / n  # [S, W]
    log_posterior = log_prior - gamma * risks
    log_posterior -= logsumexp(log_posterior, axis=1, keepdims=True)
    log_w = logsumexp(log_s[:, None] + log_posterior, axis=0)  # [W]
    live = log_prior > -np.inf
    joint = np.exp(log_s[:, None] + log_posterior)[:, live]
    ratio = (log_posterior - np.where(live, log_w, 0))[:, live]
    gap = (joint * ((table @ np.exp(log_data))[live] - risks[:, live])).sum()
    lautum = -(np.exp(log_s[:, None] + log_w[live]) * ratio).sum()
    sigma = (table.max() - table.min()) / 2
    return Gibbs(float(gap), float((joint * ratio).sum()), float(lautum), float(2 * sigma**2 * gamma / n))


def _histograms(n: int, kinds: int) -> np.ndarray:
    """All ``[S, kinds]`` ways to have n examples of so many kinds."""
    ways = math.comb(n + kinds - 1, kinds - 1)
    if ways > MOST_HISTOGRAMS:
        raise ValueError(
            f"n and data must allow at most {MOST_HISTOGRAMS} histograms; got n = {n}, {kinds} kinds: {ways}"
        )
    bars = np.array(list(itertools.combinations(range(n + kinds - 1), kinds - 1)), np.int64).reshape(ways, kinds - 1)
    edges = np.concatenate([np.full((ways, 1), -1), bars, np.full((ways, 1), n + kinds - 1)], axis=1)
    return np.diff(edges, axis=1) - 1


def _log_distribution(name: str, value: ArrayLike, size: int) -> np.ndarray:
    p = np.asarray(value, np.float64)
    if p.shape != (size,) or not (p >= 0).all() or not abs(p.sum() - 1) <= 1e-6:
        raise ValueError(f"{name} must be {size} probabilities that sum to 1; got {p.tolist()}")
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum())
