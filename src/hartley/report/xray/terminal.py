"""A report on the terminal: what stands at its head, and for each part the finding and what to do with it."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.text import Text

from hartley.report.scale import visible
from hartley.report.terminal import ASCII_BLOCKS, BLOCKS, chart
from hartley.report.xray.compare import comparison_sections
from hartley.report.xray.findings import Json
from hartley.report.xray.sections import Section, facts, sections

CHARTS = {
    "directions": "effective_rank",
    "lens": "lens_gap",
    "units": "units_90",
    "experts": "effective_experts",
    "cache": "keys_90",
}


def xray_view(report: Json, console: Console) -> RenderableType:
    """A report as rich draws it."""
    parts: list[RenderableType] = [Text(f"X-ray of {visible(report['model']['name'])}", "bold"), *_heads(facts(report))]
    for one in sections(report):
        parts += _section(one)
        if one.key in CHARTS:
            having = [layer for layer in report["layers"] if CHARTS[one.key] in layer]
            values = [layer[CHARTS[one.key]]["value"] or 0.0 for layer in having]
            parts.append(Text(f"by layer {_chart(values, console)}", "dim"))
    return Group(*parts, *_notes(report))


def comparison_view(found: Json) -> RenderableType:
    """A comparison as rich draws it."""
    names = [visible(found[which]["model"]["name"]) for which in ("a", "b")]
    parts: list[RenderableType] = [Text(f"X-ray of {names[0]} against {names[1]}", "bold"), *_heads(found["facts"])]
    for section in comparison_sections(found):
        parts += _section(section)
    return Group(*parts, *_notes(found))


def _heads(found: list[tuple[str, str, str]]) -> list[RenderableType]:
    return [Text(f"  {name}: {value} {under}") for name, value, under in found]


def _section(one: Section) -> list[RenderableType]:
    return ["", Text(one.title, "bold"), Text(one.finding), Text(one.advice, "dim")]


def _notes(found: Json) -> list[RenderableType]:
    return [Text(f"Note: {visible(note)}", "dim") for note in found["notes"]]


def _chart(values: list[float], console: Console) -> str:
    return chart(values, console.width - 12, BLOCKS if console.encoding.startswith("utf") else ASCII_BLOCKS)
