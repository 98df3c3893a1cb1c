"""How much a noisy layer shrinks the divergence of what enters it: strong data-processing coefficients.

A coefficient eta in [0, 1] says that D(mu K || nu K) <= eta D(mu || nu) for every pair of inputs of the kernel K. With
layers of eta_1 .. eta_l a divergence is at most their product times what it was, its square root that of the product.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist
from torch import Tensor

from hartley.info.checks import check_count, check_non_negative, check_positive
from hartley.representation.rows import as_array

TOLERANCE = 1e-6  # of the sum of a channel's row
HALVINGS = 50


def sdpi_dropout(delta: float, d: int) -> float:
    """Return 1 - delta^d: how far dropout of ``d`` units, each with probability ``delta``, keeps a KL divergence.

    With probability delta^d nothing passes, so the coefficient is at most this. Near 1 for all but narrow layers.
    Raises ``ValueError`` for ``delta`` outside 0 .. 1 and ``d`` below 1.

    >>> [sdpi_dropout(0.5, d) for d in (1, 2, 4)]
    [0.5, 0.75, 0.9375]

    Source: He & Goldfeld 2025, "Information-Theoretic Generalization Bounds for Deep Neural Networks"; the Doeblin
    condition.
    """
    _check_probability("delta", delta)
    check_count("d", d)
    return 1 - float(delta) ** d


def sdpi_dropconnect(delta: float, d_in: int, d_out: int) -> float:
    """Return 1 - delta^(d_in d_out): how far dropping each weight of a layer keeps a KL divergence.

    Raises ``ValueError`` for ``delta`` outside 0 .. 1 and widths below 1.

    >>> sdpi_dropconnect(0.5, 2, 1)
    0.75

    Source: as `sdpi_dropout`.
    """
    check_count("d_in", d_in)
    check_count("d_out", d_out)
    return sdpi_dropout(delta, d_in * d_out)


def sdpi_gaussian(diameter: float, eps: float) -> float:
    """Return 1 - 2 Q(diameter / 2 eps): how far noise N(0, eps^2 I) on a bounded layer keeps a KL divergence.

    ``diameter`` is the largest distance of two outputs before the noise: 2 sqrt(d) for d tanh units, sqrt(d) for
    sigmoids, infinity for ReLU (no contraction: 1). Q is the standard normal tail. Raises ``ValueError`` for a
    diameter below 0 or NaN, and an ``eps`` that is not finite and above 0.

    >>> round(sdpi_gaussian(2 * 4**0.5, eps=1.0), 4)
    0.9545

    Source: as `sdpi_dropout`; the total variation of two Gaussians (Dobrushin).
    """
    check_positive("eps", eps)
    if math.isinf(diameter):
        return 1.0
    check_non_negative("diameter", diameter)
    return math.erf(float(diameter) / (2 * math.sqrt(2) * float(eps)))


def dobrushin(channel: ArrayLike | Tensor) -> float:
    """Return the largest total variation of two rows of a finite ``channel [X, Y]``: its contraction of that distance.

    Row x is the distribution of the output given input x. Every f-divergence shrinks to this share or less.
    Raises ``ValueError`` for rows that are negative, not finite or do not sum to 1 within 1e-6, naming one.

    >>> round(dobrushin([[0.9, 0.1], [0.1, 0.9]]), 12)
    0.8

    Source: Dobrushin 1956.
    """
    rows = _channel(channel)
    return min(1.0, float(pdist(rows, "cityblock").max() / 2)) if len(rows) > 1 else 0.0


def eta_kl(channel: ArrayLike | Tensor) -> float:
    """Return the exact contraction sup D(mu K || nu K) / D(mu || nu) of KL divergence by a finite ``channel [X, Y]``.

    Two inputs suffice, and for them the contraction of KL is that of chi squared, so it is the largest over pairs of
    rows p, q and over b of b (1 - b) sum (p - q)^2 / (b p + (1 - b) q), which is concave in b. Time O(X^2 Y), memory
    O(X Y). Errors as `dobrushin`, which is never below it.

    >>> round(eta_kl([[0.9, 0.1], [0.1, 0.9]]), 12)
    0.64

    Source: Choi, Ruskai & Seneta 1994, "Equivalence of certain entropy contraction coefficients"; Ordentlich &
    Polyanskiy 2021, "Strong Data Processing Constant is Achieved by Binary Inputs".
    """
    rows = _channel(channel)
    best = 0.0
    for at in range(len(rows) - 1):
        others = rows[at + 1 :]
        apart = np.abs(rows[at] - others).sum(1) / 2
        others = others[apart > best]  # what a pair keeps is at most its total variation
        if len(others):
            best = max(best, float(_le_cam(rows[at], others).max()))
    return min(1.0, best)


def _le_cam(p: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The maximum over b for ``p [Y]`` and each of ``others [N, Y]``, by halving where the derivative changes sign."""
    squares = (p - others) ** 2
    low, high = np.zeros((len(others), 1)), np.ones((len(others), 1))
    for _ in range(HALVINGS):
        b = (low + high) / 2
        mix = np.where(squares > 0, b * p + (1 - b) * others, 1.0)
        rises = (squares * (others * (1 - b) ** 2 - p * b**2) / mix**2).sum(1, keepdims=True) > 0
        low, high = np.where(rises, b, low), np.where(rises, high, b)
    b = (low + high) / 2  # strictly inside, where no mixture is 0
    mix = np.where(squares > 0, b * p + (1 - b) * others, 1.0)
    return (b * (1 - b) * squares / mix).sum(1)


def _channel(channel: ArrayLike | Tensor) -> np.ndarray:
    rows = np.asarray(as_array(channel), dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"channel must be [inputs, outputs] with at least one of each; got shape {rows.shape}")
    bad = ~np.isfinite(rows).all(1) | (rows < 0).any(1) | ~(np.abs(rows.sum(1) - 1) <= TOLERANCE)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"channel's rows must be distributions; got row {at}: {rows[at].tolist()}")
    return rows / rows.sum(1, keepdims=True)


def _check_probability(name: str, value: float) -> None:
    check_non_negative(name, value)
    if value > 1:
        raise ValueError(f"{name} must be in [0, 1]; got {value}")
