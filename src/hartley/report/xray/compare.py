"""Two reports side by side: what changed, where, and by how many standard errors."""

from __future__ import annotations

import math
from typing import Any

from hartley.report.plotting import BLACK, MARKERS, PALETTE, figure, render
from hartley.report.xray.findings import SCHEMA, Json, number
from hartley.report.xray.sections import Section, amount
from hartley.representation.sketch import sketched_change

COMPARISON = "hartley.xray-comparison/1"
MEASURES = {
    "effective_rank": "effective rank (directions)",
    "dse": "spectral entropy (bits)",
    "lens_gap": "gap to the last layer (nats)",
    "units_90": "units holding 90 % (share)",
    "keys_90": "keys holding 90 % (share)",
    "choice_entropy": "router's choice (nats)",
    "load_entropy": "load of the experts (nats)",
}
CLEAR = 3.0  # standard errors from which a difference is named
TOLD = 3  # of the largest


def compare(a: Json, b: Json) -> Json:
    """What differs between two reports of networks of one shape; ``a`` is before, ``b`` after.

    Layers are matched by their place. The errors of a difference are those of two independent readings, which on the
    same texts is too much: what is named is there. Weights are compared by their sketches, so a change below the error
    of rounding (1e-5 of a tensor's length) counts as none.
    Raises ``ValueError`` for reports of another schema and for networks whose layers do not match.
    """
    for which, report in (("a", a), ("b", b)):
        if report.get("schema") != SCHEMA:
            raise ValueError(f"{which} must be a report of {SCHEMA}; its schema is {report.get('schema')!r}")
    indices = [[layer["index"] for layer in report["layers"]] for report in (a, b)]
    if indices[0] != indices[1]:
        raise ValueError(f"a and b must have the same layers; got {len(indices[0])} and {len(indices[1])}")
    weights = _weights(a, b)
    layers = [_layer(one, other, weights) for one, other in zip(a["layers"], b["layers"], strict=True)]
    notes = [f"{which}: {note}" for which, report in (("a", a), ("b", b)) for note in report["notes"]]
    if a["model"].get("sha256") != b["model"].get("sha256"):
        notes.append("the two read different texts, so part of every difference is theirs")
    kept = ("model", "data", "tokens")
    found: Json = {
        "schema": COMPARISON,
        "a": {name: a[name] for name in kept},
        "b": {name: b[name] for name in kept},
        "layers": layers,
        "weights": weights,
        "heads": _heads(a, b),
        "tokens": _tokens(a, b),
        "notes": notes,
    }
    return found | {"facts": _facts(found)}


def comparison_sections(found: Json) -> list[Section]:
    """The words of a comparison."""
    clear = [
        (abs(layer[name]["errors"]), layer["index"], name, layer[name])
        for layer in found["layers"]
        for name in MEASURES
        if name in layer and abs(layer[name]["errors"]) >= CLEAR
    ]
    changed = [one for one in found["weights"] if one["change"]["value"] > 0]
    if changed:
        where = ", ".join(f"{one['name']} ({100 * one['change']['value']:.2g} %)" for one in changed[:TOLD])
        finding = f"{len(changed)} of {len(found['weights'])} weight matrices changed; most: {where}."
    else:
        finding = f"None of the {len(found['weights'])} weight matrices changed."
    weights = Section(
        "changed",
        "Where the weights changed",
        finding,
        "The length of the change of each weight matrix as a share of its own, from a sketch of 64 sums, summed up by "
        "layer as the root of the mean square; the error of a single one is an eighth of it.",
        "Look first at the layers that changed most: whether what the network encodes changed there too, or only "
        "behind them.",
    )
    words = [
        f"layer {index}: {MEASURES[name].partition(' (')[0]} {amount(part['a'])} → {amount(part['b'])} "
        f"({errors:.1f} errors)"
        for errors, index, name, part in sorted(clear, key=lambda one: -one[0])[:TOLD]
    ]
    measures = Section(
        "measured",
        "Where what it encodes changed",
        f"{'; '.join(words)}." if words else f"No layer's measure moved by {CLEAR:g} standard errors or more.",
        "After minus before, in standard errors of the difference, of every measure of every layer; between the dotted "
        "lines a difference may be chance.",
        "A change of the weights that moves nothing here is cheap to undo; one that moves layers behind it has changed "
        "what they are given.",
    )
    return [weights, measures]


def draw_comparison(key: str, found: Json, title: str) -> bytes | None:
    """The figure of a section of a comparison, as SVG; None where there is nothing to draw."""
    return _drawn_weights(found, title) if key == "changed" else _drawn_measures(found)


def _weights(a: Json, b: Json) -> list[Json]:
    after = {one["name"]: one for one in b["weights"]}
    found: list[Json] = []
    for one in a["weights"]:
        other = after.get(one["name"])
        if other is None or other["shape"] != one["shape"]:
            continue
        change = sketched_change(one["sketch"], other["sketch"])
        value = change.value if change.value > 1e-5 else 0.0
        found.append(
            {
                "name": one["name"],
                "change": {"value": number(value), "stderr": number(change.stderr if value else 0.0)},
                "kappa_a": one["kappa"],
                "kappa_b": other["kappa"],
            }
        )
    return sorted(found, key=lambda one: -one["change"]["value"])


def _layer(a: Json, b: Json, weights: list[Json]) -> Json:
    inside = [one["change"]["value"] for one in weights if one["name"].startswith(f"{a['name']}.")]
    found: Json = {"name": a["name"], "index": a["index"]}
    if inside:
        found["weight_change"] = number(math.sqrt(sum(value**2 for value in inside) / len(inside)))
    for name in MEASURES:
        if name in a and name in b:
            found[name] = _difference(a[name], b[name])
    return found


def _difference(a: Json, b: Json) -> Json:
    difference = b["value"] - a["value"]
    error = math.hypot(a["stderr"] or 0.0, b["stderr"] or 0.0)
    errors = difference / error if error else 0.0
    return {"a": a, "b": b, "difference": number(difference), "stderr": number(error), "errors": number(errors)}


def _heads(a: Json, b: Json) -> list[Json]:
    """Heads on which the verdict is another."""
    return [
        {"layer": one["layer"], "head": one["head"], "a": one["verdict"], "b": other["verdict"]}
        for one, other in zip(a["heads"], b["heads"], strict=False)
        if one["verdict"] != other["verdict"]
    ]


def _tokens(a: Json, b: Json) -> Json | None:
    if a["tokens"] is None or b["tokens"] is None:
        return None
    return {name: _difference(a["tokens"][name], b["tokens"][name]) for name in ("entropy", "surprisal", "varentropy")}


def _facts(found: Json) -> list[tuple[str, str, str]]:
    changed = sum(one["change"]["value"] > 0 for one in found["weights"])
    facts = [("weights changed", str(changed), f"of {len(found['weights'])} matrices")]
    moved = [layer for layer in found["layers"] if "weight_change" in layer]
    if moved and changed:
        most = max(moved, key=lambda layer: layer["weight_change"])
        facts.append(("most in layer", str(most["index"]), f"{100 * most['weight_change']:.2g} % of their length"))
    for name, part in (found["tokens"] or {}).items():
        if name != "varentropy":
            facts.append((name, f"{part['b']['value']:.3g}", f"nats a token, {part['a']['value']:.3g} before"))
    if found["heads"]:
        facts.append(("heads", str(len(found["heads"])), "with another verdict"))
    return facts


def _drawn_weights(found: Json, title: str) -> bytes | None:
    layers = [layer for layer in found["layers"] if "weight_change" in layer]
    if not layers:
        return None
    with figure(title=title) as (fig, [axis]):
        axis.bar(
            [layer["index"] for layer in layers], [100 * layer["weight_change"] for layer in layers], color=PALETTE[0]
        )
        axis.set(xlabel="layer (from the input)", ylabel="change of its weights (percent of their length)")
    return render(fig, "svg")


def _drawn_measures(found: Json) -> bytes:
    layers: list[Any] = found["layers"]
    with figure(title="After minus before, in standard errors") as (fig, [axis]):
        for place, (name, label) in enumerate(MEASURES.items()):
            known = [(layer["index"], layer[name]["errors"]) for layer in layers if name in layer]
            if known:
                axis.plot(*zip(*known, strict=True), color=PALETTE[place], marker=MARKERS[place], label=label)
        for level in (-CLEAR, CLEAR):
            axis.axhline(level, color=BLACK, linestyle=":", marker="")
        axis.set(xlabel="layer (from the input)", ylabel="difference (standard errors)")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return render(fig, "svg")
