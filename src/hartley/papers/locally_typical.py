"""Locally typical sampling: how far surprisal lies from entropy, token by token, in human and in sampled text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hartley.decoding import Sampler, chain, temperature, top_k, top_p, typical_p
from hartley.engines import open_engine
from hartley.models.texts import passages
from hartley.papers.figures import BLUE, ORANGE, figure
from hartley.papers.intervals import above, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.texts import Text, mean_surprisal, read, repetition, seeds, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMPT = 48  # tokens of each passage that the model is given; the author's own words follow
SCALES = {"tiny": (2, 12), "small": (8, 128)}  # passages, tokens of each text
SAMPLERS: dict[str, Sampler] = {
    "plain": chain(),
    "top-p 0.9": top_p(0.9),
    "top-k 10": top_k(10),
    "top-k 30": top_k(30),
    "greedy": temperature(0),
    "typical 0.2": typical_p(0.2),
    "typical 0.95": typical_p(0.95),
}
HUMAN = "human"

PAPER = Paper(
    slug="locally-typical",
    title="Locally Typical Sampling",
    authors="Clara Meister, Tiago Pimentel, Gian Wiher, Ryan Cotterell",
    year=2023,
    arxiv="2202.00666",
    claim="The surprisal of human words lies nearer to the model's entropy than that of words drawn from the model "
    "itself; typical sampling brings it nearer than top-p and top-k do, and repeats less than top-k.",
    where=("hartley.decoding.typical_p", "hartley generate --typical-p 0.2"),
)


def reproduce(scale: Scale) -> Evidence:
    """Continue passages of Moby-Dick on the default model under several samplers, beside Melville's own words.

    Every text follows the first 48 tokens of its passage. A deviation is the distance of a token's surprisal from the
    entropy of its step, both of the model at temperature 1; repetition is the share of 3-grams that stood earlier in
    the text. Each text has its own passage and its own seed, the same under every sampler; the model is kept from
    ending its text. Judged rows hold if Student's 95% interval over the passages does.
    """
    count, length = SCALES[scale]
    engine = open_engine()
    ids = [engine.tokenizer.encode(passage)[: PROMPT + length] for passage in passages()[:count]]
    texts = {HUMAN: [read(engine, passage[:PROMPT], passage[PROMPT:]) for passage in ids]}
    texts |= write(engine, SAMPLERS, [passage[:PROMPT] for passage in ids], length)
    rows = judge(texts)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(texts),
        seeds=seeds(count),
        settings={"texts": count, "tokens": length, "prompt_tokens": PROMPT, "temperature": 1.0},
    )


def deviation(texts: Sequence[Text]) -> np.ndarray:
    """Mean distance of surprisal from entropy of each text, nats ``[N]``."""
    return np.array([np.abs(text.surprisal - text.entropy).mean() for text in texts])


def judge(texts: dict[str, list[Text]]) -> list[Row]:
    """The table, from the human text and what was drawn under each sampler."""
    far = {name: deviation(found) for name, found in texts.items()}
    repeats = {name: repetition(found) for name, found in texts.items()}
    unit = "nats/token"
    rows = [above("deviation: plain less human", "human text stays near the entropy", far["plain"] - far[HUMAN], unit)]
    rows += [
        above(f"deviation: {other} less {typical}", "typical nearer to the entropy", far[other] - far[typical], unit)
        for other, typical in (
            ("plain", "typical 0.95"),
            ("top-p 0.9", "typical 0.95"),
            ("top-k 30", "typical 0.2"),
            ("top-k 10", "typical 0.2"),
        )
    ]
    rows += [
        above(f"repetition: {other} less typical 0.2", "typical repeats less", repeats[other] - repeats["typical 0.2"],
              "of 3-grams")
        for other in ("top-k 30", "top-k 10")
    ]  # fmt: skip
    rows.append(
        shown("human: surprisal less entropy", "", [(t.surprisal - t.entropy).mean() for t in texts[HUMAN]], unit)
    )
    for name, found in texts.items():
        rows += [
            shown(f"{name}: deviation", "", far[name], unit),
            shown(f"{name}: surprisal", "", mean_surprisal(found), unit),
            shown(f"{name}: repetition", "", repeats[name], "of 3-grams"),
        ]
        if name != HUMAN:
            rows.append(shown(f"{name}: pool", "", [text.kept.mean() for text in found], "tokens"))
    return rows


def draw(texts: dict[str, list[Text]]) -> Figure:
    """Histograms of surprisal less entropy: each sampler over the human text."""
    far = {name: deviation(found).mean() for name, found in texts.items()}
    title = (
        f"Surprisal lies {far[HUMAN]:.2f} nats from the entropy in human text, {far['plain']:.2f} in plain samples, "
        f"{far['typical 0.2']:.2f} under typical 0.2"
    )
    bins = np.linspace(-5, 8, 53).tolist()
    spread = {
        name: np.clip(np.concatenate([text.surprisal - text.entropy for text in found]), bins[0], bins[-1])
        for name, found in texts.items()
    }
    names = [name for name in texts if name not in (HUMAN, "top-k 10")]
    with figure(2, 3, title=title, width=15, height=8) as (fig, axes):
        for axis, name in zip(axes, names, strict=True):
            axis.hist(spread[HUMAN], bins=bins, density=True, color="lightgrey", label="human")
            color = ORANGE if name.startswith("typical") else BLUE
            axis.hist(spread[name], bins=bins, density=True, histtype="step", linewidth=2, color=color, label=name)
            axis.axvline(0, color="black", linewidth=1)
            axis.set(xlabel="surprisal less entropy (nats, cut at 8)", ylabel="tokens (share per nat)", ylim=(0, 0.8))
            axis.set_title(f"{name}: {far[name]:.2f} nats away")
            axis.legend()
    return fig
