"""Riemann's zeta function in double precision, for many points at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bernoulli, factorial

TERMS = 12  # of the Euler-Maclaurin correction
WEIGHTS = bernoulli(2 * TERMS)[2::2] / factorial(2 * np.arange(1, TERMS + 1))  # B_2k / (2k)!


def zeta(s: ArrayLike) -> NDArray[np.complex128]:
    """``zeta(s)`` for complex ``s`` of any shape, to 1e-11 where Re s >= 0 and |Im s| <= 1,000; infinite at the pole.

    The formula holds further to the left, with digits lost to cancellation.

    >>> float(zeta(2).real.round(12)), bool(abs(zeta(0.5 + 14.134725141734693j)) < 1e-12)
    (1.644934066848, True)

    Source: Euler-Maclaurin summation, as many direct terms as the largest |s| and sixteen more.
    """
    s = np.asarray(s, dtype=np.complex128)
    flat = s.reshape(-1, 1)
    cut = 16 + int(np.ceil(np.abs(flat).max(initial=0)))
    total = (np.arange(1, cut) ** -flat).sum(-1)
    power = cut ** -flat[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        total += power * (cut / (flat[:, 0] - 1) + 0.5)
    rising = flat[:, 0] * power / cut  # s (s + 1) ... (s + 2k - 2) / cut^(s + 2k - 1)
    for k, weight in enumerate(WEIGHTS, start=1):
        total += weight * rising
        rising = rising * (flat[:, 0] + 2 * k - 1) * (flat[:, 0] + 2 * k) / cut**2
    total[flat[:, 0] == 1] = np.inf
    return total.reshape(s.shape)
