"""The figures of whole runs: how entropy is spread, how it goes along texts, and calibration; intervals as bands."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hartley.report.calibration import Calibration
from hartley.report.intervals import Bounds, ends, is_interval, written
from hartley.report.plotting import BLACK, MARKERS, PALETTE, figure, render
from hartley.report.readers import Reading
from hartley.report.summary import mean_and_error

BINS, POSITIONS = 24, 40


def entropy_histogram(readings: Mapping[str, Reading]) -> bytes | None:
    """How many tokens have what entropy, one panel a file, as SVG; None where no entropy is known.

    Where entropies are intervals a bar says how many tokens surely lie in it and, lighter, how many may.
    """
    known = {name: [one for token in reading.tokens if (one := ends(token))] for name, reading in readings.items()}
    known = {name: bounds for name, bounds in known.items() if bounds}
    if not known:
        return None
    every = [value for bounds in known.values() for one in bounds for value in one if value is not None]
    edges = np.linspace(0.0, max(max(every), 0.1) * (1 + 1e-9), BINS + 1)
    titles = [f"{name}: {_median(bounds)}" if len(known) > 1 else _median(bounds) for name, bounds in known.items()]
    title = titles[0] if len(known) == 1 else "Entropy of the tokens"
    with figure(len(known), title=title, height=3.6 * len(known)) as (fig, axes):
        for place, (axis, bounds) in enumerate(zip(axes, known.values(), strict=True)):
            _histogram(axis, edges, bounds, PALETTE[place])
            if len(known) > 1:
                axis.set_title(titles[place])
    return render(fig, "svg")


def _histogram(axis: Any, edges: np.ndarray, bounds: Sequence[Bounds], colour: str) -> None:
    low = np.array([one.low for one in bounds])
    axis.yaxis.get_major_locator().set_params(integer=True)
    first = np.clip(np.searchsorted(edges, low, "right") - 1, 0, BINS - 1)
    if all(one.high == one.low for one in bounds):
        axis.stairs(np.bincount(first, minlength=BINS), edges, fill=True, color=colour)
        axis.set(xlabel="entropy (nats)", ylabel="tokens")
        return
    if any(one.high is None for one in bounds):
        axis.stairs(np.bincount(first, minlength=BINS), edges, fill=True, color=colour)
        axis.set(xlabel="entropy, lower bound (nats)", ylabel="tokens")
        return
    high = np.array([one.high for one in bounds])
    last = np.clip(np.searchsorted(edges, high, "right") - 1, 0, BINS - 1)
    sure = np.bincount(first[first == last], minlength=BINS)
    change = np.bincount(first, minlength=BINS + 1) - np.bincount(last + 1, minlength=BINS + 1)
    axis.stairs(np.cumsum(change)[:BINS], edges, fill=True, color=colour, alpha=0.35, label="possibly here")
    axis.stairs(sure, edges, fill=True, color=colour, label="surely here")
    axis.set(xlabel="entropy (nats)", ylabel="tokens")
    axis.legend()


def _median(bounds: Sequence[Bounds]) -> str:
    low = float(np.median([one.low for one in bounds]))
    if all(one.high == one.low for one in bounds):
        return f"Half of the tokens have less than {low:.2f} nats of entropy"
    highs = [math.inf if one.high is None else one.high for one in bounds]
    high = float(np.median(highs))
    found = Bounds(low, high if math.isfinite(high) else None)
    return f"The median entropy is {'' if found.high is None else 'in '}{written(found, 'nats')}"


def entropy_by_position(readings: Mapping[str, Reading]) -> bytes | None:
    """Mean entropy along the texts with one standard error, or the band it lies in, as SVG; None where unknown."""
    lines = {name: _line(reading) for name, reading in readings.items()}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return None
    title = "\n".join(f"{name}: {_trend(line)}" if len(lines) > 1 else _trend(line) for name, line in lines.items())
    with figure(title=title) as (fig, [axis]):
        for place, (name, line) in enumerate(lines.items()):
            colour, marker = PALETTE[place], MARKERS[place]
            at, lows, low_errors, highs, high_errors = (list(column) for column in zip(*line, strict=True))
            exact = not is_interval(readings[name].tokens)
            bounded = all(high is not None for high in highs)
            label = name if exact else f"{name}, {'lower and upper' if bounded else 'lower'} bound"
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "elinewidth": 1}
            axis.errorbar(at, lows, yerr=low_errors, label=label, **style)
            if not exact and bounded:
                axis.errorbar(at, highs, yerr=high_errors, **style)
                axis.fill_between(at, lows, highs, color=colour, alpha=0.25, linewidth=0)
        axis.set(xlabel="position in the text (tokens)", ylabel="entropy (nats), mean ± 1 standard error")
        axis.set_ylim(bottom=0)
        if len(lines) > 1 or any(is_interval(readings[name].tokens) for name in lines):
            axis.legend()
    return render(fig, "svg")


Point = tuple[float, float, float, float | None, float | None]


def _line(reading: Reading) -> list[Point]:
    """Means of the tokens between two positions: middle, lower end and its error, upper end and its error."""
    longest = max((len(text.tokens) for text in reading.counted), default=0)
    width = max(math.ceil(longest / POSITIONS), math.ceil(8 / max(len(reading.counted), 1)))  # a mean of 8 at least
    groups: dict[int, list[Bounds]] = {}
    for text in reading.counted:
        for number, token in enumerate(text.tokens):
            if (bounds := ends(token)) is not None:
                groups.setdefault(number // width, []).append(bounds)
    points: list[Point] = []
    for place, bounds in sorted(groups.items()):
        low, low_error = mean_and_error(one.low for one in bounds)
        highs = [one.high for one in bounds]
        limited = all(high is not None for high in highs)
        high, high_error = mean_and_error(highs) if limited else (None, None)
        middle = place * width + (width + 1) / 2
        points.append((middle, low or 0.0, low_error or 0.0, high, (high_error or 0.0) if limited else None))
    return points


def _trend(line: Sequence[Point]) -> str:
    """Whether the last fifth of the positions is surely above or below the first fifth."""
    size = max(1, len(line) // 5)
    (low_a, high_a, error_a), (low_b, high_b, error_b) = (_end(part) for part in (line[:size], line[-size:]))
    margin = 2 * math.hypot(error_a, error_b)
    if len(line) < 2 or margin == 0:
        return "Entropy along the text"
    if low_b - margin > high_a:
        way = "rises"
    elif high_b + margin < low_a:
        way = "falls"
    else:
        return "Entropy shows no trend along the text" if low_a == high_a else "The bounds leave the trend open"
    facts = [
        f"{low:.2f}" if low == high else written(Bounds(low, None if high == math.inf else high))
        for low, high in ((low_a, high_a), (low_b, high_b))
    ]
    return f"Entropy {way} along the text, from {facts[0]} to {facts[1]} nats"


def _end(part: Sequence[Point]) -> tuple[float, float, float]:
    low = math.fsum(point[1] for point in part) / len(part)
    highs = [math.inf if point[3] is None else point[3] for point in part]
    error = math.sqrt(math.fsum(max(point[2], point[4] or 0.0) ** 2 for point in part)) / len(part)
    return low, math.fsum(highs) / len(part), error


def reliability_figure(found: Mapping[str, Calibration]) -> bytes:
    """Share of first choices that were right against their probability, with 95 % intervals, as SVG."""
    title = "\n".join(f"{name}: {_verdict(one)}" if len(found) > 1 else _verdict(one) for name, one in found.items())
    with figure(title=title, width=9.0, height=6.0) as (fig, [axis]):
        axis.plot([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle="--", marker="", label="calibrated")
        for place, (name, one) in enumerate(found.items()):
            x = [bin.confidence for bin in one.bins]
            y = [bin.accuracy for bin in one.bins]
            sides = [
                [max(0.0, bin.accuracy - bin.low) for bin in one.bins],
                [bin.high - bin.accuracy for bin in one.bins],
            ]
            axis.errorbar(x, y, yerr=sides, color=PALETTE[place], marker=MARKERS[place], label=f"{name}, 95 % interval")
            if len(found) == 1:
                for bin in one.bins:
                    axis.annotate(f"{bin.size:,}", (bin.confidence, bin.high), xytext=(0, 3),
                                  textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
        axis.set(xlabel="probability of the first choice", ylabel="share of tokens where it is the reference's")
        axis.set(xlim=(0, 1.02), ylim=(0, 1.1))
        axis.legend(loc="lower right")
    return render(fig, "svg")


def _verdict(one: Calibration) -> str:
    return f"{one.verdict[0].upper()}{one.verdict[1:]}, {one.size:,} tokens"
