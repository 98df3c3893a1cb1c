"""A training run as a page: alarms, figures of what matters, the forecast, and what each column really is."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from hartley.report.pages import render
from hartley.report.plotting import BLACK, MARKERS, ORANGE, PALETTE, figure
from hartley.report.plotting import render as draw
from hartley.report.scale import visible
from hartley.report.terminal import means
from hartley.report.watch import ROLES, State, Watched, note_of_temperature, shown
from hartley.report.watch_view import forecast_words

LINES = len(PALETTE)  # columns of a figure
POINTS = 400  # of a line, when the steps are more than that


def watch_page(state: State, title: str | None = None) -> str:
    """The HTML page of a run as it stands; self-contained, without scripts."""
    logs = state.logs
    charts: list[tuple[str, str, str]] = []
    for role, words in ROLES.items():
        units = dict.fromkeys(one.unit for one in state.of(role))
        for unit in units:
            alike = [one for one in state.of(role) if one.unit == unit]
            for start in range(0, len(alike), LINES):
                part = alike[start : start + LINES]
                charts.append((words, _alt(part), _svg(_course(part, words, unit, state))))
    forecast = None
    if state.forecast is not None:
        forecast = (f"Score against exp(entropy): {forecast_words(state)}", _svg(_law(state)))
    return render(
        "watch.html.jinja",
        title=title or visible(logs.path.resolve().name),
        note=None,
        notes=[note for note in (note_of_temperature(logs), *map(visible, logs.notes)) if note],
        figures=_figures(state),
        alarms=[(visible(alarm.name), alarm.words) for alarm in state.alarms],
        charts=charts,
        forecast=forecast,
        forecast_words=forecast_words(state),
        columns=[_row(one) for one in sorted(state.columns, key=_order)],
        settings=[("run", visible(str(logs.path))), ("files", "\n".join(visible(str(file)) for file in logs.files))],
    )


def _figures(state: State) -> list[tuple[str, str, str]]:
    """The last value of the first column of each role."""
    step = state.logs.last_step
    found = [("step", "–" if step is None else f"{step:,}", f"{len(state.columns)} columns")]
    for role in ("entropy", "reward", "kl", "length"):
        if columns := state.of(role):
            one = columns[0]
            found.append(
                (
                    visible(one.name),
                    shown(one.series.values[-1]),
                    f"{one.unit}, {shown(one.series.values[0])} at first".removeprefix(", "),
                )
            )
    return found


def _course(part: Sequence[Watched], words: str, unit: str, state: State) -> Any:
    with figure(title=_title(part, words, unit), height=4.2) as (fig, [axis]):
        for place, one in enumerate(part):
            steps, values = one.series.steps, one.series.values
            thin = means([float(step) for step in steps], POINTS), means(values, POINTS)
            every = max(1, len(thin[0]) // 12)
            axis.plot(
                *thin,
                color=PALETTE[place],
                marker=MARKERS[place],
                markevery=every,
                markersize=5,
                label=visible(one.name),
            )
        if words == ROLES["entropy"] and state.target is not None and unit == "nats/token":
            axis.axhline(state.target, color=BLACK, linestyle="--", marker="", label=f"target {state.target:g}")
        for alarm in state.alarms:
            if alarm.name in [one.name for one in part]:
                axis.axvline(alarm.step, color=ORANGE, linestyle=":", marker="", label=f"alarm at step {alarm.step:,}")
        if words in (ROLES["entropy"], ROLES["length"]):
            axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        axis.set(
            xlabel="step (number)", ylabel=f"{words.lower() if words[1:].islower() else words} ({unit or 'no unit'})"
        )
        handles, labels = axis.get_legend_handles_labels()
        only = dict(zip(labels, handles, strict=True))
        if len(only) > 1:
            axis.legend(list(only.values()), list(only))
    return fig


def _title(part: Sequence[Watched], words: str, unit: str) -> str:
    if len(part) > 1:
        return f"{words} ({unit})" if unit else words
    values = part[0].series.values
    verb = "rose" if values[-1] > values[0] else "fell" if values[-1] < values[0] else "is"
    course = f"from {shown(values[0])} to {shown(values[-1])}" if verb != "is" else f"{shown(values[0])} as at first"
    return f"{visible(part[0].name)} {verb} {course} {unit}".rstrip()


def _law(state: State) -> Any:
    found = state.forecast
    assert found is not None
    entropy, score = np.array(found.pairs).T
    x = np.linspace(1.0, float(np.exp(entropy).max()), 50)
    with figure(title=f"With all entropy spent: {found.ceiling:.3g} ({found.low:.3g} to {found.high:.3g})") as (
        fig,
        [axis],
    ):
        axis.plot(np.exp(entropy), score, "o", color=PALETTE[0], alpha=0.6, markersize=5, label="steps of the run")
        axis.plot(x, found.b - found.a * x, color=BLACK, marker="", label="R = b - a exp(H)")
        axis.errorbar(
            [1.0], [found.ceiling], [[found.ceiling - found.low], [found.high - found.ceiling]],
            color=ORANGE, marker="D", label="ceiling, 95% interval",
        )  # fmt: skip
        axis.set(
            xlabel=f"exp of {visible(found.entropy)} (nats, exponentiated)", ylabel=f"{visible(found.score)} (score)"
        )
        axis.legend()
    return fig


def _row(one: Watched) -> tuple[str, str, str, str, str]:
    values = one.series.values
    first, last = (shown(values[0]), shown(values[-1])) if values else ("–", "–")
    return visible(one.name), one.says, one.unit or "–", first, last


def _order(one: Watched) -> tuple[bool, int, str]:
    place = list(ROLES).index(one.role) if one.role in ROLES else len(ROLES)
    return one.column is None, place, one.name


def _alt(part: Sequence[Watched]) -> str:
    ends = (f"{visible(one.name)} from {shown(one.series.values[0])} to {shown(one.series.values[-1])}" for one in part)
    return f"{'; '.join(ends)} {part[0].unit}".rstrip()


def _svg(fig: Any) -> str:
    return base64.b64encode(draw(fig, "svg")).decode()
