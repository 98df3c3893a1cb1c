"""The geometry of a strip chart: one column a token, drawn as SVG that stretches with the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

HEIGHT = 100.0  # units of the view box
FLOOR = 0.7  # where a logarithmic axis begins, so that a count of 1 is seen


class Strip(NamedTuple):
    """A strip ready to draw: a filled step line, dots, and where its axis is labelled."""

    title: str
    unit: str
    length: int
    area: str
    dots: list[tuple[float, float]]
    ticks: list[tuple[float, str]]
    notes: list[str]  # one a column, shown when pointed at
    band: str = ""  # from the values up to the higher ends, where the values are lower ends of intervals
    links: Sequence[str] = ()  # where each column leads, if not to the token of its number
    tokens: int = 0  # how many there are, where a column stands for several


def strip(
    title: str,
    unit: str,
    values: Sequence[float | None],
    notes: Sequence[str],
    dots: Sequence[float | None] = (),
    log: bool = False,
    highs: Sequence[float | None] = (),
    reach: float = 0.0,
) -> Strip | None:
    """Lay out ``values``, one a token, as a step line, and ``dots`` over it; None where there are no values.

    The axis starts at 0, or just below 1 with ``log``, whose values are counts (at least 1), and reaches ``reach`` at
    least. With ``highs`` the values are the lower ends of intervals, and a band is laid from them to these.
    """
    known = [value for value in (*values, *dots, *highs) if value is not None and math.isfinite(value)]
    if not known or all(value is None for value in values):
        return None
    known.append(reach)
    marks = log_marks(max(known)) if log else marks_to(max(known))
    top = max(marks[-1], max(known))

    def height(value: float | None) -> float:
        if value is None:
            return HEIGHT
        share = math.log(value / FLOOR) / math.log(top / FLOOR) if log else value / top
        return round(HEIGHT * (1 - min(max(share, 0.0), 1.0)), 2)

    steps = " ".join(f"V{height(value):g}H{place}" for place, value in enumerate(values, 1))
    points = [(place + 0.5, height(dot)) for place, dot in enumerate(dots) if dot is not None]
    ticks = [(height(mark), f"{mark:,g}") for mark in marks]
    band = ""
    if highs:
        pairs = [(low, low if high is None else high) for low, high in zip(values, highs, strict=True)]
        there = " ".join(f"V{height(high):g}H{place}" for place, (_, high) in enumerate(pairs, 1))
        back = " ".join(f"V{height(low):g}H{place}" for place, (low, _) in reversed(list(enumerate(pairs))))
        band = f"M0 {height(pairs[0][0]):g}{there}{back}Z"
    return Strip(title, unit, len(values), f"M0 {HEIGHT:g}{steps}V{HEIGHT:g}Z", points, ticks, list(notes), band)


def marks_to(highest: float) -> list[float]:
    """Two to five round numbers from 0, the last at least ``highest``.

    >>> marks_to(7.3)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    highest = max(highest, 1e-3)
    unit = 10.0 ** math.floor(math.log10(highest))
    gap = next(step * unit for step in (0.25, 0.5, 1.0, 2.0, 2.5) if step * unit * 4 >= highest * (1 - 1e-9))
    return [gap * place for place in range(math.ceil(highest / gap - 1e-9) + 1)]


def log_marks(highest: float) -> list[float]:
    """Powers of ten from 1 up to ``highest``, and 10 at least; every other one where they are many.

    >>> log_marks(49_152)
    [1.0, 100.0, 10000.0]
    """
    last = max(1, math.floor(math.log10(max(highest, 1.0)) + 1e-9))
    return [10.0**power for power in range(0, last + 1, 1 if last <= 3 else 2)]
