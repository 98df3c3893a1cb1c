"""Mirostat: the mean surprise of a text held at a target, against top-k and plain sampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hartley.decoding import Sampler, chain, mirostat, top_k
from hartley.engines import open_engine
from hartley.papers.figures import MARKERS, PALETTE, figure
from hartley.papers.intervals import above, interval, rank_correlation, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.texts import STORIES, Text, repetition, seeds, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LN2 = math.log(2.0)
NEAR = 0.25  # bits: how far from its target a mean may lie, interval included, and still count as held
TARGETS = {"mirostat 2 bits": 2, "mirostat 3 bits": 3, "mirostat 4 bits": 4, "mirostat 3 bits, Zipf": 3}
SCALES = {"tiny": (2, 10), "small": (8, 128)}  # texts of each sampler, tokens of each text

PAPER = Paper(
    slug="mirostat",
    title="Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity",
    authors="Sourya Basu, Govardana S. Ramachandran, Nitish S. Keskar, Lav R. Varshney",
    year=2021,
    arxiv="2007.14966",
    claim=f"Mirostat keeps the mean surprise of a text within {NEAR} bits of its target, where a small k drifts down "
    "into repetition and a large k drifts up, and text repeats less the more surprising it is.",
    where=("hartley.decoding.mirostat", "hartley generate --mirostat 2 --mirostat-tau 3"),
)


def samplers() -> dict[str, Sampler]:
    """What is compared: eta is 1 as in the paper; "Zipf" is its own form (mode 1), the others are mode 2."""
    return {
        "plain": chain(),
        "top-k 10": top_k(10),
        "top-k 1000": top_k(1000),
        **{name: mirostat(1 if "Zipf" in name else 2, tau=float(tau), eta=1.0) for name, tau in TARGETS.items()},
    }


def reproduce(scale: Scale) -> Evidence:
    """Continue story openings on the default model at temperature 1, under plain, top-k and Mirostat sampling.

    Surprise is that of the model, in bits. Each text has its own opening and its own seed, the same under every
    sampler; the model is kept from ending its text. A drift is the second half of a text less its first half;
    repetition is the share of 3-grams that stood earlier in the text. Judged rows hold if Student's 95% interval over
    the texts does.
    """
    count, length = SCALES[scale]
    texts = write(open_engine(), samplers(), STORIES[:count], length)
    rows = judge(texts)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(texts),
        seeds=seeds(count),
        settings={"texts": count, "tokens": length, "mirostat_eta": 1.0, "temperature": 1.0, "near_bits": NEAR},
    )


def surprise(texts: list[Text]) -> np.ndarray:
    """Surprise of each token, bits ``[N, T]``."""
    return np.stack([text.surprisal for text in texts]) / LN2


def drift(texts: list[Text]) -> np.ndarray:
    """Mean surprise of the second half of each text less that of its first half, bits ``[N]``."""
    first, second = np.array_split(surprise(texts), 2, axis=1)
    return second.mean(1) - first.mean(1)


def correlation(texts: dict[str, list[Text]]) -> np.ndarray:
    """Rank correlation, over the samplers, of repetition with mean surprise, for each opening ``[N]``."""
    means = np.array([surprise(found).mean(1) for found in texts.values()])
    repeats = np.array([repetition(found) for found in texts.values()])
    return np.array([rank_correlation(a, b) for a, b in zip(means.T, repeats.T, strict=True)])


def judge(texts: dict[str, list[Text]]) -> list[Row]:
    """The table, from what was drawn under each sampler."""
    means = {name: surprise(found).mean(1) for name, found in texts.items()}
    repeats = {name: repetition(found) for name, found in texts.items()}
    rows = [
        within(f"{name}: mean surprise less its target", "held at any length", means[name] - tau, "bits", NEAR)
        for name, tau in TARGETS.items()
    ]
    down = -drift(texts["top-k 10"])
    up = drift(texts["top-k 1000"])
    rows += [
        above("top-k 10: fall of surprise, first half to second", "falls (boredom)", down, "bits"),
        above("top-k 1000: rise of surprise, first half to second", "rises (confusion)", up, "bits"),
        above(
            "repetition: top-k 10 less mirostat 3 bits",
            "top-k with a small k repeats more",
            repeats["top-k 10"] - repeats["mirostat 3 bits"],
            "of 3-grams",
        ),
        above(
            "fall of repetition with mean surprise, over the samplers",
            "near-linear",
            -correlation(texts),
            "(rank correlation)",
        ),
    ]
    rows += [shown(f"{name}: mean surprise", "", means[name], "bits") for name in texts]
    rows += [shown(f"{name}: drift of surprise", "", drift(found), "bits") for name, found in texts.items()]
    return rows + [shown(f"{name}: repetition", "", repeats[name], "of 3-grams") for name in texts]


def draw(texts: dict[str, list[Text]]) -> Figure:
    """Running mean surprise against the place in the text, and repetition against mean surprise."""
    held = [surprise(texts[name]).mean() - tau for name, tau in TARGETS.items()]
    miss = max(map(abs, held))
    title = (
        f"Mirostat ends within {miss:.2f} bits of its target; "
        f"repetition and mean surprise have a rank correlation of {correlation(texts).mean():+.2f}"
    )
    with figure(1, 2, title=title, width=15, height=6) as (fig, [left, right]):
        for tau in sorted(set(TARGETS.values())):
            left.axhline(tau, color="grey", linewidth=1, linestyle=":")
        for (name, found), color, marker in zip(texts.items(), PALETTE, MARKERS, strict=True):
            bits = surprise(found)
            place = np.arange(1, bits.shape[1] + 1)
            running = bits.cumsum(1) / place
            style = "-" if name in TARGETS else "--"
            mean, error = running.mean(0), running.std(0, ddof=1) / np.sqrt(len(running))
            left.fill_between(place, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
            left.plot(place, mean, style, color=color, marker=marker, markevery=(0.15, 0.25), label=name)
            x, y = interval(bits.mean(1)), interval(repetition(found))
            right.plot(bits.mean(1), repetition(found), marker, color=color, alpha=0.3, markersize=5)
            right.errorbar(x.mean, y.mean, y.error, x.error, fmt=marker, color=color, label=name)
        left.set(xlabel="tokens written", ylabel="running mean surprise (bits)")
        right.set(xlabel="mean surprise of the text (bits)", ylabel="repeated 3-grams (share)")
        right.legend()
    return fig
