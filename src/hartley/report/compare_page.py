"""Several samplers as a page: their texts side by side, and what the texts measure, with standard errors."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from hartley.report.measures import MEASURES, Run, measured
from hartley.report.pages import cell, render, rows
from hartley.report.scale import visible


def compare_page(
    runs: Sequence[Run],
    table: Mapping[str, Mapping[str, tuple[float | None, float | None]]],
    *,
    figure: bytes | None = None,
    finding: str = "",
    settings: Mapping[str, Any] | None = None,
    note: str | None = None,
) -> str:
    """The HTML page of a comparison, self-contained.

    ``runs`` are dicts of ``sampler``, ``prompt``, ``seed`` and ``tokens``; ``table`` is what
    :func:`hartley.report.measures.measure` made of them, ``figure`` an SVG. ``settings`` and ``note`` are as in
    :func:`hartley.report.tokens_page`.
    """
    places: dict[tuple[str, int], dict[str, Run]] = {}
    for run in runs:
        places.setdefault((run["prompt"], run["seed"]), {})[run["sampler"]] = run
    groups: dict[str, list[dict[str, Any]]] = {}
    for (prompt, seed), found in places.items():
        columns = [
            (name, [cell(token, number, alternatives=False) for number, token in enumerate(found[name]["tokens"], 1)])
            for name in table
            if name in found
        ]
        groups.setdefault(visible(prompt), []).append({"seed": seed, "columns": columns})
    return render(
        "compare.html.jinja",
        title="Samplers compared",
        note=note,
        finding=finding,
        heads=[(measure.title, measure.unit) for measure in MEASURES],
        lines=[(name, [measured(*line[measure.key]) for measure in MEASURES]) for name, line in table.items()],
        figure=None if figure is None else base64.b64encode(figure).decode(),
        groups=groups,
        settings=rows(settings or {}),
    )
