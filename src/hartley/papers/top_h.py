"""Top-H: text drawn at high temperatures, scored by the plain model, against top-p and min-p."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hartley.decoding import Sampler, chain, min_p, temperature, top_h, top_p
from hartley.engines import open_engine
from hartley.papers.figures import MARKERS, PALETTE, figure
from hartley.papers.intervals import above, interval, rank_correlation, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.texts import STORIES, Text, distinct, mean_surprisal, seeds, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUNCATIONS: dict[str, tuple[Sampler, ...]] = {
    "plain": (),
    "top-p 0.9": (top_p(0.9),),
    "min-p 0.1": (min_p(0.1),),
    "top-H 0.4": (top_h(0.4),),
    "top-H 0.4, partial": (top_h(0.4, rule="partial"),),
}
COOL, HOT = 1.0, 2.0
SCALES = {  # temperatures, texts of each setting, tokens of each text
    "tiny": ((COOL, HOT), 2, 8),
    "small": ((0.7, COOL, 1.5, HOT, 2.5), 6, 48),
}

PAPER = Paper(
    slug="top-h",
    title="Top-H Decoding: Adapting the Creativity and Coherence with Bounded Entropy in Text Generation",
    authors="Erfan Baghaei Potraghloo, Seyedarmin Azizi, Souvik Kundu, Massoud Pedram",
    year=2025,
    arxiv="2509.02510",
    claim="At temperature 2, text drawn under Top-H has a lower surprisal under the plain model than text drawn under "
    "top-p or min-p, and its surprisal rises less from temperature 1 than that of top-p.",
    where=("hartley.decoding.top_h", "hartley generate --temperature 2 --top-h 0.4"),
)


def reproduce(scale: Scale) -> Evidence:
    """Continue story openings on the default model at several temperatures, with and without truncation after them.

    Surprisal is that of the drawn tokens under the model at temperature 1, the paper's own measure of coherence; no
    benchmark of reasoning is run. "Top-H" is the rule the paper states, "partial" the other inequality that its code
    and transformers compute, at the same alpha. Each text has its own opening and its own seed, the same in every
    setting; the model is kept from ending its text. Judged rows hold if Student's 95% interval over the texts does.
    """
    temperatures, count, length = SCALES[scale]
    settings = {
        f"{name}, T={value:g}": chain(temperature(value), *truncations)
        for name, truncations in TRUNCATIONS.items()
        for value in temperatures
    }
    drawn = write(open_engine(), settings, STORIES[:count], length)
    texts = {name: {value: drawn[f"{name}, T={value:g}"] for value in temperatures} for name in TRUNCATIONS}
    rows = judge(texts)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(texts),
        seeds=seeds(count),
        settings={"texts": count, "tokens": length, "temperatures": list(temperatures)},
    )


def judge(texts: dict[str, dict[float, list[Text]]]) -> list[Row]:
    """The table, from what was drawn under each truncation at each temperature."""
    nats = {name: {value: mean_surprisal(found) for value, found in row.items()} for name, row in texts.items()}
    hot = {name: row[HOT] for name, row in nats.items()}
    rise = {name: row[HOT] - row[COOL] for name, row in nats.items()}
    unit = "nats/token"
    rows = [
        above("surprisal at T=2: top-p less Top-H", "Top-H lower", hot["top-p 0.9"] - hot["top-H 0.4"], unit),
        above("surprisal at T=2: min-p less Top-H", "Top-H lower", hot["min-p 0.1"] - hot["top-H 0.4"], unit),
        above(
            "surprisal at T=2: min-p less Top-H by the partial rule",
            "Top-H lower (the rule of its code)",
            hot["min-p 0.1"] - hot["top-H 0.4, partial"],
            unit,
        ),
        above(
            "rise of surprisal from T=1 to T=2: top-p less Top-H",
            "quality falls 34.1 points (top-p), 3.8 (Top-H)",
            rise["top-p 0.9"] - rise["top-H 0.4"],
            unit,
        ),
        above(
            "pool of Top-H at T=1 follows the step's entropy",
            "few choices when sure, many when unsure",
            [rank_correlation(text.entropy, text.kept) for text in texts["top-H 0.4"][COOL]],
            "(rank correlation)",
        ),
    ]
    for value in (COOL, HOT):
        rows += [shown(f"{name}, T={value:g}: surprisal", "", row[value], unit) for name, row in nats.items()]
    for name, row in texts.items():
        rows.append(shown(f"{name}, T={HOT:g}: pool", "", [text.kept.mean() for text in row[HOT]], "tokens"))
    return rows + [
        shown(f"{name}, T={HOT:g}: distinct 3-grams", "", distinct(row[HOT]), "(share)") for name, row in texts.items()
    ]


def draw(texts: dict[str, dict[float, list[Text]]]) -> Figure:
    """Surprisal against temperature for each truncation, and Top-H's pool against the entropy of the step."""
    at_hot = {name: mean_surprisal(row[HOT]).mean() for name, row in texts.items()}
    title = (
        f"At temperature 2: {at_hot['top-p 0.9']:.1f} nats a token under top-p, {at_hot['top-H 0.4']:.1f} under Top-H, "
        f"{at_hot['min-p 0.1']:.1f} under min-p"
    )
    with figure(1, 2, title=title, width=15, height=6) as (fig, [left, right]):
        for (name, row), color, marker in zip(texts.items(), PALETTE, MARKERS, strict=False):
            spans = [interval(mean_surprisal(found)) for found in row.values()]
            left.errorbar(
                list(row), [s.mean for s in spans], [s.error for s in spans], marker=marker, color=color, label=name
            )
        left.set(xlabel="temperature", ylabel="surprisal under the model at T=1 (nats/token)")
        left.legend()
        for name, color, marker in zip(list(texts)[1:], PALETTE[1:], MARKERS[1:], strict=False):
            steps = [(text.entropy, text.kept) for text in texts[name][COOL]]
            entropy, kept = np.concatenate([s[0] for s in steps]), np.concatenate([s[1] for s in steps])
            right.plot(entropy, kept, marker, color=color, alpha=0.5, markersize=5, label=name)
        right.set(xlabel="entropy of the step at T=1 (nats)", ylabel="pool (tokens kept)", yscale="log")
        right.legend()
    return fig
