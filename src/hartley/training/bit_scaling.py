"""Bit-level scaling laws: what a family of models gains from each stored bit, at each precision."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, minimize_scalar, nnls

from hartley.info.checks import check_positive

HUBER = 1e-3  # residuals of ln metric beyond this count linearly
TINY = 1e-300  # a floor of 0, to a logarithm
EXACT = 1e-15


class Point(NamedTuple):
    """One model: its bits, its metric, its precision."""

    bits: float
    metric: float
    precision: Hashable


class Law(NamedTuple):
    """metric = floor + scale * bits ** -alpha, seen for bits from ``low`` to ``high``."""

    scale: float
    alpha: float
    floor: float
    low: float
    high: float


class BitScalingLaw:
    """A power law of the metric in the model's total bits, for each precision on its own.

    Parameters
    ----------
    floor
        True fits metric = floor + scale * bits ** -alpha (at least three sizes a precision, Huber loss on ln metric),
        False without the floor (at least two, least squares on ln metric).

    Attributes
    ----------
    points_
        What was measured, one `Point` for each precision and number of bits: the geometric mean of its runs.
    laws_
        The `Law` of each precision.

    Precisions are compared at equal bits, from what was measured there: by interpolation between the sizes of each
    precision, on logarithms, and never outside them unless ``extrapolate=True`` asks for the fitted law. (Compared at
    equal parameters, more bits always look better.)

    >>> law = BitScalingLaw().fit([8e6, 8e7, 4e6, 4e7], [4.0, 2.0, 4.4, 2.2], [8, 8, 4, 4])
    >>> law.best_precision(2e7), {precision: round(metric, 2) for precision, metric in law.at(2e7).items()}
    (4, {8: 3.04, 4: 2.71})

    Source: Dettmers & Zettlemoyer 2023, "The case for 4-bit precision", arXiv 2212.09720; Ding et al. 2025, arXiv
    2501.06218.
    """

    points_: list[Point]
    laws_: dict[Hashable, Law]

    def __init__(self, *, floor: bool = False) -> None:
        self.floor = floor

    def fit(self, bits: ArrayLike, metric: ArrayLike, precision: Sequence[Hashable]) -> BitScalingLaw:
        """Fit one law to the runs of each precision.

        ``bits`` [N] is the total of each model (`total_bits`), ``metric`` [N] what it reaches, above 0, lower being
        better, ``precision`` [N] any names, such as 4 or "w4a8". Raises ``ValueError`` for lengths that differ, numbers
        that are not finite and above 0, and a precision with too few sizes.
        """
        x, y = _positive("bits", bits), _positive("metric", metric)
        if not len(x) == len(y) == len(precision):
            raise ValueError(
                f"bits, metric and precision must have one length; got {len(x)}, {len(y)}, {len(precision)}"
            )
        if not len(x):
            raise ValueError("bits must hold at least one run; got none")
        self.points_, self.laws_ = [], {}
        for name in dict.fromkeys(precision):
            of = np.array([each == name for each in precision])
            sizes = np.unique(x[of])
            needed = 3 if self.floor else 2
            if len(sizes) < needed:
                raise ValueError(f"bits must hold at least {needed} sizes of precision {name!r}; got {len(sizes)}")
            means = [float(np.exp(np.log(y[of & (x == size)]).mean())) for size in sizes]
            self.points_ += [Point(float(size), mean, name) for size, mean in zip(sizes, means, strict=True)]
            scale, alpha, floor = (_fit_floor if self.floor else _fit)(np.log(x[of]), np.log(y[of]))
            self.laws_[name] = Law(scale, alpha, floor, float(sizes[0]), float(sizes[-1]))
        return self

    def predict(self, bits: ArrayLike, precision: Hashable, *, extrapolate: bool = False) -> NDArray[np.float64]:
        """Return the metric that the law of one precision gives at ``bits`` (any shape).

        Raises ``ValueError`` for an unknown precision, and outside the bits it was measured at unless ``extrapolate``.
        """
        law = self._law(precision)
        x = _positive("bits", bits)
        outside = (x < law.low * (1 - 1e-9)) | (x > law.high * (1 + 1e-9))
        if outside.any() and not extrapolate:
            raise ValueError(
                f"bits must be from {law.low:g} to {law.high:g}, where {precision!r} was measured, "
                f"or extrapolate=True; got {x[outside].flat[0]:g}"
            )
        return law.floor + law.scale * x**-law.alpha

    def at(self, budget: float, *, extrapolate: bool = False) -> dict[Hashable, float]:
        """Return the metric of each precision that was measured around ``budget`` bits, interpolated.

        With ``extrapolate`` the others are there too, by their laws.
        """
        check_positive("budget", budget)
        self._check_fitted()
        found: dict[Hashable, float] = {}
        for name, law in self.laws_.items():
            if law.low <= budget <= law.high:
                mine = [point for point in self.points_ if point.precision == name]
                logs = np.log([[point.bits, point.metric] for point in mine])
                found[name] = float(np.exp(np.interp(math.log(budget), logs[:, 0], logs[:, 1])))
            elif extrapolate:
                found[name] = float(self.predict(budget, name, extrapolate=True))
        return found

    def best_precision(self, budget: float, *, extrapolate: bool = False) -> Any:
        """Return the precision with the lowest metric at ``budget`` bits, of those in `at`.

        Raises ``ValueError`` where there is none, naming what was measured.
        """
        found = self.at(budget, extrapolate=extrapolate)
        if not found:
            ranges = "; ".join(f"{name!r} from {law.low:g} to {law.high:g}" for name, law in self.laws_.items())
            raise ValueError(f"budget must be among the bits measured ({ranges}), or extrapolate=True; got {budget:g}")
        return min(found, key=lambda name: found[name])

    def frontier(self) -> list[Point]:
        """Return the measured points that no point of as few bits beats, by rising bits and falling metric."""
        self._check_fitted()
        best: list[Point] = []
        for point in sorted(self.points_, key=lambda point: (point.bits, point.metric)):
            if not best or point.metric < best[-1].metric:
                best.append(point)
        return best

    def _law(self, precision: Hashable) -> Law:
        self._check_fitted()
        if precision not in self.laws_:
            raise ValueError(f"precision must be one of {', '.join(map(repr, self.laws_))}; got {precision!r}")
        return self.laws_[precision]

    def _check_fitted(self) -> None:
        if not hasattr(self, "laws_"):
            raise ValueError("fit must come first; this law has seen no runs")


def _positive(name: str, values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    bad = ~((found > 0) & np.isfinite(found))
    if bad.any():
        raise ValueError(f"{name} must be finite and above 0; got {found[bad].flat[0]:g}")
    return found


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    slope, intercept = np.polyfit(x - x.mean(), y, 1)
    return float(np.exp(intercept - slope * x.mean())), float(-slope), 0.0


def _fit_floor(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Seek the exponent, for which floor and scale are linear, and polish all three on logarithms."""
    metric, middle = np.exp(y), x.mean()

    def linear(alpha: float) -> tuple[NDArray[np.float64], float]:
        columns = np.stack([np.ones_like(x), np.exp(-alpha * (x - middle))], -1) / metric[:, None]
        return nnls(columns, np.ones_like(x))

    grid = np.geomspace(0.01, 3, 60)
    best = int(np.argmin([linear(alpha)[1] for alpha in grid]))
    around = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    found: Any = minimize_scalar(lambda alpha: linear(alpha)[1], bounds=around, options={"xatol": 1e-12})
    alpha = float(found.x)
    floor, scale = linear(alpha)[0]
    if scale == 0:
        raise ValueError("metric must fall with bits for a law with a floor; got one that does not")
    lowest = float(metric.min())

    def residuals(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        log_scale, alpha, share = theta
        return np.logaddexp(math.log(max(share * lowest, TINY)), log_scale - alpha * (x - middle)) - y

    start = [math.log(scale), alpha, min(floor / lowest, 1 - 1e-9)]
    bounds = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, 1.0])
    fit = least_squares(
        residuals, start, bounds=bounds, loss="huber", f_scale=HUBER, x_scale="jac", xtol=EXACT, ftol=EXACT, gtol=EXACT
    )
    log_scale, alpha, share = fit.x
    return float(np.exp(log_scale + alpha * middle)), float(alpha), float(share * lowest)
