"""The house style of figures: colour-blind-safe, labelled with units, readable at half size, and no global state."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
"""Okabe and Ito's colours, told apart by every common kind of colour vision; their pale yellow is left out on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[Any, Any] = {
    "font.size": 14,  # half size leaves 7 points
    "axes.titlesize": 14,
    "axes.labelsize": 14,
    "figure.titlesize": 15,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 7,
    "errorbar.capsize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
}


@contextmanager
def figure(
    rows: int = 1, columns: int = 1, *, title: str, width: float | None = None, height: float | None = None
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure and the flat list of its axes, to be drawn on inside the ``with``; ``title`` states the finding.

    ``width`` and ``height`` are in inches. Raises ``ValueError`` at the end for an axis without both its labels; they
    carry the units, or say that a count has none.

    >>> with figure(title="Entropy falls with depth") as (fig, [axis]):
    ...     lines = axis.plot([1, 2, 3], [2.0, 1.5, 1.4])
    ...     labels = axis.set(xlabel="layer", ylabel="entropy (nats)")
    >>> type(fig).__name__
    'Figure'
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = cycler(color=PALETTE) + cycler(marker=MARKERS)
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": pairs}):
        size = (width or (9.0 if columns == 1 else 6.0 * columns), height or 4.8 * rows)
        fig = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(fig)
        fig.suptitle(title)
        axes: list[Axes] = fig.subplots(rows, columns, squeeze=False).ravel().tolist()
        yield fig, axes
    for place, axis in enumerate(axes):
        if axis.axison and not (axis.get_xlabel() and axis.get_ylabel()):
            raise ValueError(f"axes must have an x and a y label with units; axis {place} lacks one")


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Colours for values that have an order, light to dark; told apart without colour vision too."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](0.1 + 0.9 * i / max(1, count - 1)) for i in range(count)]


def render(fig: Figure, kind: str) -> bytes:
    """The figure as ``svg`` or ``png``; the same figure always gives the same bytes of SVG."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hartley", "svg.fonttype": "path"}):
        fig.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
