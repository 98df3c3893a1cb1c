"""The phase chart of hash codes: where a family of networks stops being under-expressive."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

REDUNDANT = 0.5  # more of the examples share a code: under-expressive
UNIQUE = 0.01  # fewer do, and accuracy has stopped rising: sufficiently expressive
FLAT = 0.01  # of accuracy (a share) gained by one more unit of ln size


class PhaseChart(NamedTuple):
    """One regime for each setting and size, and what it was read from; all ``[..., S]`` but the sizes ``[S]``."""

    sizes: NDArray[np.float64]
    redundancy: NDArray[np.float64]  # a share
    accuracy: NDArray[np.float64]  # a share
    slope: NDArray[np.float64]  # of accuracy by ln size
    regime: NDArray[np.str_]  # "under", "critical" or "sufficient"


def phase_chart(sizes: ArrayLike, redundancy: ArrayLike, accuracy: ArrayLike) -> PhaseChart:
    """Name the regime of each network: "under" (expressive), "critical" or "sufficient".

    ``sizes [S]`` are widths, parameters, or any other size above 0, rising, at least two; ``redundancy`` and ``accuracy
    [..., S]`` are shares at each size, the leading axes being anything else that was varied, such as training time.
    Under: redundancy above 0.5. Sufficient: redundancy below 0.01 and less than 0.01 of accuracy gained for one more
    unit of ln size (differences to both neighbours; at the ends to one). Critical: the rest. Raises ``ValueError`` for
    shapes that do not fit, sizes that do not rise and shares outside 0 .. 1.

    >>> phase_chart([4, 16, 64, 256], [0.9, 0.3, 0.0, 0.0], [0.5, 0.8, 0.95, 0.95]).regime.tolist()
    ['under', 'critical', 'critical', 'sufficient']

    Source: the regimes are He et al. 2021's, section 5, who draw them by eye; the thresholds are ours.
    """
    s, r, a = (np.asarray(values, dtype=np.float64) for values in (sizes, redundancy, accuracy))
    if s.ndim != 1 or len(s) < 2 or not (s[0] > 0 and np.all(np.diff(s) > 0) and np.isfinite(s[-1])):
        raise ValueError(f"sizes must be at least two rising numbers above 0; got {s.tolist()}")
    for name, values in (("redundancy", r), ("accuracy", a)):
        if values.shape != r.shape or values.shape[-1:] != s.shape:
            raise ValueError(f"{name} must have shape [..., {len(s)}], as the other; got {values.shape}")
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            raise ValueError(f"{name} must be shares in 0 .. 1; got {values[bad][0]:g}")
    slope = np.asarray(np.gradient(a, np.log(s), axis=-1))
    sufficient = (r < UNIQUE) & (slope < FLAT)
    return PhaseChart(s, r, a, slope, np.where(r > REDUNDANT, "under", np.where(sufficient, "sufficient", "critical")))
