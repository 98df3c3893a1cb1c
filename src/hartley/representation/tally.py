"""Means over a stream of data with a standard error from its groups, which may be taken apart and put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.info.checks import check_count
from hartley.info.estimators import Estimate
from hartley.representation.rows import as_array


class Tally:
    """Sums and counts of named numbers, for each of G groups of the data.

    Tokens of one text are alike, so their spread says too little; groups of whole texts are independent, and leaving
    out one group at a time (the jackknife) says how far a mean can be trusted. With one group there is no error: NaN.

    >>> tally = Tally(2).add("entropy", 0, [1.0, 3.0]).add("entropy", 1, [2.0])
    >>> value, stderr = tally.mean("entropy")
    >>> float(value), float(stderr)
    (2.0, 0.0)

    Source: Miller 1974, "The jackknife - a review", for ratios of sums.
    """

    def __init__(self, groups: int) -> None:
        check_count("groups", groups)
        self.groups = groups
        self._sums: dict[str, dict[int, tuple[np.ndarray, int]]] = {}

    def add(self, name: str, group: int, values: ArrayLike | Tensor) -> Tally:
        """Count ``values [N, ...]``, N numbers (or arrays of one shape), under ``name`` in ``group`` (from 0)."""
        found = np.asarray(as_array(values), float)
        return self._add(name, group, found.sum(0), len(found))

    def merge(self, other: Tally) -> Tally:
        """Add what another one has counted, which must have as many groups."""
        if other.groups != self.groups:
            raise ValueError(f"other must have {self.groups} groups, as this one; got {other.groups}")
        for name, groups in other._sums.items():
            for group, (total, count) in groups.items():
                self._add(name, group, total, count)
        return self

    def mean(self, name: str, of: Callable[[np.ndarray], Any] | None = None) -> Estimate[np.ndarray]:
        """The mean over all groups and its standard error, each of the shape of one number; or ``of`` of the mean.

        >>> tally = Tally(2).add("load", 0, [[1.0, 0.0]]).add("load", 1, [[0.0, 1.0]])
        >>> tally.mean("load", of=np.max).value
        array(0.5)
        """
        if name not in self._sums:
            raise ValueError(
                f"name must be one that was counted, {', '.join(map(repr, self)) or 'none yet'}; got {name!r}"
            )
        parts = [part for part in self._sums[name].values() if part[1]]
        totals, counts = np.stack([total for total, _ in parts]), np.array([count for _, count in parts], float)
        return jackknife_ratio(totals, counts, of)

    def count(self, name: str) -> int:
        """How many numbers were counted under ``name``."""
        return sum(count for _, count in self._sums[name].values())

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def _add(self, name: str, group: int, total: np.ndarray, count: int) -> Tally:
        if not 0 <= group < self.groups:
            raise ValueError(f"group must be in 0..{self.groups - 1}; got {group}")
        groups = self._sums.setdefault(name, {})
        before = groups.get(group, (0.0, 0))
        groups[group] = before[0] + total, before[1] + count
        return self


def jackknife_ratio(
    totals: np.ndarray, counts: np.ndarray, of: Callable[[np.ndarray], Any] | None = None
) -> Estimate[np.ndarray]:
    """``totals [G, ...]`` over ``counts [G]``, summed over the groups, and what leaving one out says of its error.

    With ``of``, the same of what that function makes of a ratio.
    """
    whole = totals.sum(0) / counts.sum()
    value = whole if of is None else np.asarray(of(whole), float)
    if len(counts) < 2:
        return Estimate(value, np.full_like(value, np.nan))
    wide = counts.reshape(-1, *(1,) * (totals.ndim - 1))
    without = (totals.sum(0) - totals) / (counts.sum() - wide)
    return Estimate(value, jackknife_error(without if of is None else np.array([of(one) for one in without], float)))


def jackknife_error(without: np.ndarray) -> np.ndarray:
    """The standard error of a number of which ``without [G, ...]`` says what it is without each group in turn.

    >>> float(jackknife_error(np.array([1.0, 2.0, 3.0])).round(4))
    1.1547
    """
    groups = len(without)
    if groups < 2:
        return np.full(without.shape[1:], np.nan)
    return np.sqrt((groups - 1) / groups * ((without - without.mean(0)) ** 2).sum(0))
