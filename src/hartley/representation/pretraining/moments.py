"""Mean and scatter of a stream of rows, merged exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hartley.representation.rows import Floats


class Moments(NamedTuple):
    """What rows X [N, D] leave: their number, mean [D], and sum of (x - mean)(x - mean)^T [D, D]; float64."""

    rows: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, x: Floats) -> Moments:
        """Of rows ``x`` [N, D], N at least 1."""
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def plus(self, other: Moments) -> Moments:
        """Of both sets of rows together (Chan, Golub & LeVeque 1983)."""
        count = self.rows + other.rows
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.rows * other.rows / count)
        return Moments(count, self.mean + step * (other.rows / count), scatter)
