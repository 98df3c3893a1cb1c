"""A report as a page: one file, no script, figures inside it; the same for the comparison of two reports."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from hartley.report.pages import render, rows
from hartley.report.scale import visible
from hartley.report.xray.compare import comparison_sections, draw_comparison
from hartley.report.xray.figures import draw
from hartley.report.xray.findings import Json
from hartley.report.xray.sections import Section, amount, facts, sections, settings

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def xray_page(report: Json) -> str:
    """The HTML page of a report, self-contained."""
    found = [(one, _coded(draw(one.key, report, _title(one)))) for one in sections(report)]
    return render(
        "xray.html.jinja",
        title=f"X-ray of {visible(report['model']['name'])}",
        note=None,
        notes=[visible(note) for note in report["notes"]],
        figures=facts(report),
        sections=found,
        tables=_tables(report),
        uncertain=_uncertain(report),
        settings=rows(dict(settings(report))),
    )


def comparison_page(found: Json) -> str:
    """The HTML page of a comparison, self-contained."""
    names = [visible(found[which]["model"]["name"]) for which in ("a", "b")]
    drawn = [(one, draw_comparison(one.key, found, _title(one))) for one in comparison_sections(found)]
    parts = [(one, _coded(svg) if svg else None) for one, svg in drawn]
    return render(
        "xray.html.jinja",
        title=f"X-ray of {names[0]} against {names[1]}",
        note=None,
        notes=[visible(note) for note in found["notes"]],
        figures=found["facts"],
        sections=parts,
        tables={"changed": _changed(found)},
        uncertain=[],
        settings=rows({f"{which}: {name}": value for which in ("a", "b") for name, value in settings(found[which])}),
    )


def _title(section: Section) -> str:
    """The first half of a finding."""
    return section.finding.split(";")[0].rstrip(".")


def _coded(svg: bytes) -> str:
    return base64.b64encode(svg).decode()


def _tables(report: Json) -> dict[str, Table]:
    layers = report["layers"]
    found: dict[str, Table] = {
        "directions": (
            ("layer", "module", "effective rank (directions)", "in the first direction", "spectral entropy (bits)"),
            [
                [
                    str(one["index"]),
                    visible(one["name"]),
                    amount(one["effective_rank"]),
                    f"{100 * one['top_direction']:.3g} %",
                    amount(one["dse"]),
                ]
                for one in layers
            ],
        )
    }
    if report["weights"]:
        ranked = sorted(report["weights"], key=lambda one: (one["kappa"] is None, one["kappa"] or 0.0))
        found["weights"] = (
            ("weight", "shape", "condition", "effective rank", "tune first"),
            [
                [
                    visible(one["name"]),
                    " × ".join(map(str, one["shape"])),
                    "singular" if one["kappa"] is None else f"{one['kappa']:.4g}",
                    "–" if one["effective_rank"] is None else f"{one['effective_rank']:.4g}",
                    "yes" if one["safe_to_tune"] else "",
                ]
                for one in ranked
            ],
        )
    if report["heads"]:
        found["heads"] = (
            ("layer", "head", "entropy (share of the most)", "on the first token", "verdict"),
            [
                [
                    str(one["layer"]),
                    str(one["head"]),
                    amount(one["entropy_share"]),
                    f"{amount(one['first_key'], 100)} %",
                    one["verdict"],
                ]
                for one in report["heads"]
            ],
        )
    for key, names in (("units", ("units_50", "units_90", "units_99")), ("cache", ("keys_50", "keys_90", "keys_99"))):
        having = [one for one in layers if names[0] in one]
        if having:
            found[key] = (
                ("layer", "50 %", "90 %", "99 %"),
                [[str(one["index"]), *(f"{amount(one[name], 100)} %" for name in names)] for one in having],
            )
    mixed = [one for one in layers if "experts" in one]
    if mixed:
        found["experts"] = (
            ("layer", "experts", "entropy of a choice (nats)", "of the load (nats)", "used alike", "without a token"),
            [
                [
                    str(one["index"]),
                    f"{one['experts_chosen']:g} of {one['experts']}",
                    *(amount(one[name]) for name in ("choice_entropy", "load_entropy", "effective_experts")),
                    f"{amount(one['idle_experts'], 100)} %",
                ]
                for one in mixed
            ],
        )
    return found


def _uncertain(report: Json) -> list[tuple[str, str, str]]:
    if report["tokens"] is None:
        return []
    return [
        (
            visible(one["before"]).replace("\n", " "),
            visible(one["token"]).replace("\n", "↵") if one["token"].strip(" ") else "␣" * len(one["token"]),
            f"entropy {one['entropy']:.3g} nats, surprisal of what came {one['surprisal']:.3g} nats",
        )
        for one in report["tokens"]["most_uncertain"]
    ]


def _changed(found: Json) -> Table:
    return (
        ("weight", "change (share of its length)", "condition before", "after"),
        [
            [
                visible(one["name"]),
                f"{one['change']['value']:.3g} ± {one['change']['stderr']:.2g}",
                *("singular" if one[which] is None else f"{one[which]:.4g}" for which in ("kappa_a", "kappa_b")),
            ]
            for one in found["weights"]
        ],
    )
