"""Rows judged by a confidence interval: Student's, at 95%, over seeds or texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from hartley.papers.paper import Row

Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """A mean, its standard error, and the two ends of its interval."""

    mean: float
    error: float
    low: float
    high: float


def interval(values: Values) -> Interval:
    """Student's 95% interval of the mean of independent ``values``, at least two.

    >>> [round(number, 3) for number in interval([1.0, 2.0, 3.0])]
    [2.0, 0.577, -0.484, 4.484]
    """
    if len(values) < 2:
        raise ValueError(f"values must be at least two, to have an error; got {len(values)}")
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    return Interval(mean, error, mean - reach, mean + reach)


def shown(what: str, paper: str, values: Values, unit: str) -> Row:
    """A row that is not judged."""
    found = interval(values)
    return Row(what, paper, found.mean, unit, None, found.error)


def above(what: str, paper: str, values: Values, unit: str) -> Row:
    """A row that holds if the whole interval lies above zero.

    >>> above("b - a", "b is larger", [1.0, 1.1, 0.9], "nats").holds
    True
    """
    found = interval(values)
    return Row(what, paper, found.mean, unit, found.low > 0, found.error)


def within(what: str, paper: str, values: Values, unit: str, limit: float) -> Row:
    """A row that holds if the whole interval lies within ``limit`` of zero."""
    found = interval(values)
    return Row(what, paper, found.mean, unit, max(-found.low, found.high) <= limit, found.error)


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's rank correlation; 0 where one of the two does not vary.

    >>> rank_correlation([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
    1.0
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])
