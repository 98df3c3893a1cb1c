"""The figures of a report, one a section: by layer with error bars, maps of heads, histograms; SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from hartley.report.plotting import BLACK, MARKERS, ORANGE, PALETTE, figure, render
from hartley.report.xray.findings import Json
from hartley.report.xray.sections import RESTING, undecided
from hartley.report.xray.seen import SHARES
from hartley.representation.heads import COLLAPSED, OVERLOADED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 76  # letters of a title that fit over a figure
NEAR = "too near to tell"
KINDS = len(PALETTE)  # of weight matrices that a figure tells apart


def draw(key: str, report: Json, title: str) -> bytes:
    """The figure of the section ``key``, with ``title``, as SVG."""
    return render(_FIGURES[key](report, fill(title, LINE)), "svg")


def _directions(report: Json, title: str) -> Any:
    layers = report["layers"]
    with figure(1, 2, title=title, width=12) as (fig, [left, right]):
        _line(left, layers, "effective_rank", 0, "")
        _line(right, layers, "dse", 1, "")
        most = np.log2(max(2, layers[0].get("dse_rows", 2)))
        right.axhline(most, color=BLACK, linestyle=":", marker="", label="most there can be")
        right.legend()
        left.set(xlabel="layer (from the input)", ylabel="effective rank (directions)")
        right.set(xlabel="layer (from the input)", ylabel="diffusion spectral entropy (bits)")
        for axis in (left, right):
            axis.set_ylim(bottom=0)
    return fig


def _lens(report: Json, title: str) -> Any:
    with figure(title=title) as (fig, [axis]):
        _line(axis, report["layers"], "lens_gap", 0, "gap to the last layer (KL)")
        _line(axis, report["layers"], "lens_entropy", 1, "entropy of this layer's answer")
        axis.set(xlabel="layer (from the input)", ylabel="nats a token")
        axis.set_ylim(bottom=0)
        axis.legend()
    return fig


def _heads(report: Json, title: str) -> Any:
    heads = report["heads"]
    places = {index: place for place, index in enumerate(dict.fromkeys(head["layer"] for head in heads))}
    shape = len(places), max(head["head"] for head in heads) + 1
    names = [str(index) for index in places]
    height = max(4.0, 1.6 + 0.22 * shape[0])
    with figure(1, 2, title=title, width=12, height=height) as (fig, axes):
        maps = (("entropy_share", "entropy (share of the most)"), ("first_key", "attention on the first token (share)"))
        for axis, (key, label) in zip(axes, maps, strict=True):
            grid = np.full(shape, np.nan)
            for head in heads:
                grid[places[head["layer"]], head["head"]] = head[key]["value"]
            image = axis.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axis.grid(visible=False)
            axis.set(xlabel="head (number)", ylabel="layer (from the input)")
            step = -(-shape[0] // 16)
            axis.set_yticks(range(0, shape[0], step), names[: shape[0] : step])
            axis.set_xticks(range(0, shape[1], -(-shape[1] // 12)))
            fig.colorbar(image, ax=axis, label=label)
        for verdict, marker, color in (("collapsed", "v", ORANGE), ("overloaded", "^", BLACK)):
            marked = [(head["head"], places[head["layer"]]) for head in heads if head["verdict"] == verdict]
            if marked:
                axes[0].plot(*zip(*marked, strict=True), marker, color=color, markersize=6, label=verdict)
        for axis, (key, _), near in zip(axes, maps, ((COLLAPSED, OVERLOADED), (RESTING,)), strict=True):
            ringed = [(head["head"], places[head["layer"]]) for head in heads if undecided(head[key], *near)]
            if ringed:
                axis.plot(
                    *zip(*ringed, strict=True), "o", color=ORANGE, markersize=8, fillstyle="none", markeredgewidth=1.5,
                    label=NEAR,
                )  # fmt: skip
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.48 / (height - 2)), ncols=3)
    return fig


def _units(report: Json, title: str) -> Any:
    return _shares(report, title, "units", "share of the layer's units (percent)")


def _experts(report: Json, title: str) -> Any:
    layers = [layer for layer in report["layers"] if "experts" in layer]
    count = max(layer["experts"] for layer in layers)
    load = np.full((len(layers), count), np.nan)
    for row, layer in zip(load, layers, strict=True):
        row[: layer["experts"]] = [layer["experts"] * one["value"] for one in layer["expert_load"]]
    with figure(1, 2, title=title, width=12, height=max(4.6, 1.6 + 0.22 * len(layers))) as (fig, [left, right]):
        _line(left, layers, "choice_entropy", 0, "a token's choice")
        _line(left, layers, "load_entropy", 1, "the load")
        left.axhline(np.log(count), color=BLACK, linestyle=":", marker="", label="most there can be")
        left.set(xlabel="layer (from the input)", ylabel="entropy (nats)")
        left.set_ylim(bottom=0)
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        image = right.imshow(load, cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
        right.grid(visible=False)
        right.set(xlabel="expert (number)", ylabel="layer (from the input)")
        step = -(-len(layers) // 16)
        right.set_yticks(range(0, len(layers), step), [str(layer["index"]) for layer in layers[::step]])
        right.set_xticks(range(0, count, -(-count // 12)))
        fig.colorbar(image, ax=right, label="load (1: an even share)")
    return fig


def _cache(report: Json, title: str) -> Any:
    return _shares(report, title, "keys", "share of the keys in the cache (percent)")


def _shares(report: Json, title: str, key: str, label: str) -> Any:
    with figure(title=title) as (fig, [axis]):
        for place, share in enumerate(SHARES):
            _line(axis, report["layers"], f"{key}_{100 * share:.0f}", place, f"{100 * share:.0f} %", scale=100)
        axis.set(xlabel="layer (from the input)", ylabel=label)
        axis.set_ylim(0, 100)
        axis.legend(title="held by them")
    return fig


def _weights(report: Json, title: str) -> Any:
    known = [one for one in report["weights"] if one["kappa"] is not None]
    kinds = list(dict.fromkeys(one["kind"] for one in known))
    with figure(title=title, width=11, height=5.4) as (fig, [axis]):
        for place, kind in enumerate(kinds):
            alike = [(x, one) for x, one in enumerate(known) if one["kind"] == kind]
            axis.plot(
                [x for x, _ in alike], [one["kappa"] for _, one in alike], label=kind, markersize=6, linestyle="",
                color=PALETTE[place % KINDS], marker=MARKERS[place % len(MARKERS)],
                fillstyle="full" if place < KINDS else "none",  # beyond the seventh kind colours come again
            )  # fmt: skip
        safe = [(x, one["kappa"]) for x, one in enumerate(known) if one["safe_to_tune"]]
        if safe:
            axis.plot(*zip(*safe, strict=True), "o", markersize=12, fillstyle="none", color=BLACK, label="tune first")
        axis.set_yscale("log")
        axis.set(xlabel="weight matrix (in the model's order)", ylabel="condition number (ratio)")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def _tokens(report: Json, title: str) -> Any:
    tokens = report["tokens"]
    with figure(1, 2, title=title, width=12) as (fig, [left, right]):
        histogram = tokens["histogram"]
        left.stairs(histogram["counts"], histogram["edges"], fill=True, color=PALETTE[0])
        middles = np.diff(histogram["edges"]) / 2 + histogram["edges"][:-1]
        errors = [error or 0.0 for error in histogram["stderr"]]
        left.errorbar(middles, histogram["counts"], errors, color=BLACK, linestyle="", marker="", linewidth=1)
        left.axvline(tokens["entropy"]["value"], color=BLACK, linestyle="--", marker="", label="mean")
        left.set(xlabel="entropy (nats)", ylabel="tokens (count)")
        left.legend()
        places = tokens["by_place"]
        middle = [(one["from"] + one["to"]) / 2 for one in places]
        right.errorbar(middle, [one["value"] for one in places], _errors(places), color=PALETTE[0], marker="o")
        right.set(xlabel="place in the text (token)", ylabel="mean entropy (nats)")
        right.set_ylim(bottom=0)
    return fig


def _line(axis: Axes, layers: Sequence[Json], key: str, place: int, label: str, scale: float = 1) -> None:
    known = [(layer["index"], layer[key]) for layer in layers if key in layer and layer[key]["value"] is not None]
    if not known:
        return
    x, parts = zip(*known, strict=True)
    axis.errorbar(
        x, [scale * part["value"] for part in parts], [scale * error for error in _errors(parts)],
        color=PALETTE[place], marker=MARKERS[place], label=label, markersize=5,
    )  # fmt: skip


def _errors(parts: Sequence[Json]) -> list[float]:
    return [part["stderr"] or 0.0 for part in parts]


_FIGURES: dict[str, Callable[[Json, str], Any]] = {
    "directions": _directions,
    "lens": _lens,
    "heads": _heads,
    "units": _units,
    "experts": _experts,
    "cache": _cache,
    "weights": _weights,
    "tokens": _tokens,
}
