"""The house style of figures, kept in :mod:`hartley.report.plotting`."""

from hartley.report.plotting import (
    BLACK,
    BLUE,
    GREEN,
    MARKERS,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    STYLE,
    YELLOW,
    figure,
    render,
    shades,
)

__all__ = [
    "BLACK", "BLUE", "GREEN", "MARKERS", "ORANGE", "PALETTE", "PURPLE", "SKY", "STYLE", "YELLOW", "figure", "render",
    "shades",
]  # fmt: skip
