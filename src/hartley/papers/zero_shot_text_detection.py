"""Zero-shot detection: error rates on Markov texts whose writer is known, then a model's own text against people's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from hartley.decoding import chain
from hartley.detection import Calibration, Detection, Scores, decide, read, score_from_logits
from hartley.detection.wealth import log_wealth
from hartley.engines import Engine, open_engine
from hartley.models.texts import passages, speeches
from hartley.papers.figures import BLUE, GREEN, ORANGE, PURPLE, figure
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.texts import seeds, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.05
STATES, CONCENTRATION, SHARE = 50, 0.3, 0.7  # of the chains: A has Dirichlet rows, B is 0.7 A + 0.3 of another
LENGTHS = (25, 50, 100, 200, 400)  # tokens of a Markov text
PREFIXES = (8, 16, 32, 64, 128)  # tokens of a text of the language model or a person
OPENING = 16  # tokens of a person's text that the model goes on from
MARKOV_SEED = 7
SCALES = {  # chains, texts of each, texts of the language model, tokens of each
    "tiny": (2, 100, 3, 16),
    "small": (5, 400, 40, 128),
}

PAPER = Paper(
    slug="zero-shot-text-detection",
    title="Zero-Shot Statistical Tests for LLM-Generated Text Detection using Finite Sample Concentration Inequalities",
    authors="Tara Radvand, Mojtaba Abdolmaleki, Mohamed Mostagir, Ambuj Tewari",
    year=2025,
    arxiv="2501.02406",
    claim="A text is told from a model's own by its log-perplexity less the model's mean entropy along it: the "
    "model's own text is rejected at most as often as the level allows at every length, the error on another writer's "
    "falls exponentially with the length, and people's text is told from the model's with an AUROC above 0.9.",
    where=("hartley.detection.detect", "hartley.detection.Detector", "hartley detect FILE..."),
)


class Markov(NamedTuple):
    """What was measured on texts of the chains ``[chain, text, length]``."""

    own: np.ndarray  # the running p-value of texts of A under A, at each of LENGTHS
    other: np.ndarray  # of texts of B under A
    own_statistic: np.ndarray  # T at each of LENGTHS
    other_statistic: np.ndarray


class Model(NamedTuple):
    """Scores of the language model's own texts and of people's, under the model."""

    own: list[Scores]
    read_back: list[Scores]  # the same texts after a detour through text
    human: list[Scores]


def reproduce(scale: Scale) -> Evidence:
    """Test texts of Markov chains and of the default model, and people's, for having been written by the model.

    Markov: chains of 50 states with Dirichlet(0.3) rows; the other writer is 0.7 of the chain and 0.3 of another. Texts
    start in a state drawn evenly. A Type I row holds if the exact (Clopper-Pearson) 95% upper bound of the rate is at
    most 0.05; "by token n" counts a text if it was rejected at any of its first n tokens. The errors' fall is the slope
    of the logarithm of the Type II error between 25 and 100 tokens, with half a text added so that none is no infinity.

    Model: the default model goes on from the first 16 tokens of Moby-Dick and State of the Union excerpts at
    temperature 1, nothing removed but the end of the text; the person's text is the excerpt's own next tokens. Openings
    are not judged.
    AUROC is of T, people's text being the higher; its error is over 2,000 resamplings of the texts, and a row holds if
    their 95% interval does. Type I of so few texts can only be consistent with 0.05 or not, by an exact binomial test.
    "Read back" scores the model's texts after they were written out and cut into tokens again, which need not give the
    tokens that were drawn. An error bar of a rate r of n is sqrt(r (1 - r) / n), with one text added on either side.
    """
    chains, count, texts, length = SCALES[scale]
    markov = measure_markov(chains, count)
    engine = open_engine()
    model = measure_model(engine, texts, length)
    rows = [*judge_markov(markov), *judge_model(model, length)]
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(markov, model, length),
        seeds=(MARKOV_SEED, *seeds(texts)),
        settings={
            "alpha": ALPHA,
            "chains": chains,
            "Markov texts": f"{chains * count} of each writer",
            "model texts": texts,
            "tokens": length,
            "temperature": 1.0,
            "engine": f"{engine.name} {engine.dtype}",
        },
    )


def measure_markov(chains: int, count: int) -> Markov:
    """Write ``count`` texts with each of several chains and their other writers, and score them under the chain."""
    found: list[list[np.ndarray]] = []
    whole = max(LENGTHS) + 1
    for place in range(chains):
        rng = np.random.default_rng([MARKOV_SEED, place])
        a, noise = rng.dirichlet(np.full(STATES, CONCENTRATION), (2, STATES))
        b = SHARE * a + (1 - SHARE) * noise
        table = torch.from_numpy(np.log(np.maximum(a, 1e-300))).float()
        line: list[np.ndarray] = []
        for writer in (a, b):
            ids = torch.from_numpy(walk(writer, whole, count, rng)).flatten()
            joined = score_from_logits(table[ids], ids)  # texts end to end; the tokens at their joints are left out
            scores = [joined[start : start + whole - 1] for start in range(0, len(ids), whole)]
            wealth = torch.stack([log_wealth(score) for score in scores]).cummax(1).values
            statistic = torch.stack([score.surprisal - score.entropy for score in scores]).cumsum(1)
            ends = torch.tensor(LENGTHS)
            line += [
                wealth[:, ends - 1].neg().exp().clamp(max=1).numpy(),
                (statistic[:, ends - 1] / ends).numpy(),
            ]
        found.append([line[0], line[2], line[1], line[3]])
    return Markov(*(np.stack(column) for column in zip(*found, strict=True)))


def walk(chain: np.ndarray, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Texts of a chain, ``[count, length]``, each from a state drawn evenly."""
    states = rng.integers(STATES, size=count)
    edges = chain.cumsum(1)
    texts = [states]
    for _ in range(length - 1):
        states = np.minimum((edges[states] < rng.random(count)[:, None]).sum(1), STATES - 1)
        texts.append(states)
    return np.stack(texts, 1)


def measure_model(engine: Engine, count: int, length: int) -> Model:
    """Let the model go on from people's openings, and score its text and theirs."""
    whole = [engine.tokenizer.encode(text)[: OPENING + length] for text in human_texts(count)]
    openings = [ids[:OPENING] for ids in whole]
    written = write(engine, {"plain": chain()}, openings, length)["plain"]
    endless = WithoutEnds(engine.tokenizer.stop_ids)
    own = [text.tokens.tolist() for text in written]
    back = [engine.tokenizer.encode(engine.tokenizer.decode(ids)) for ids in own]

    def score(texts: Sequence[Sequence[int]]) -> list[Scores]:
        return [
            read(ids, engine, prompt=opening, sampler=endless, floor=1e-12)[:length]
            for ids, opening in zip(texts, openings, strict=True)
        ]

    return Model(score(own), score(back), score([ids[OPENING:] for ids in whole]))


class WithoutEnds:
    """The model kept from ending its text, as it was when it wrote."""

    def __init__(self, ends: frozenset[int]) -> None:
        self.ends = torch.tensor(sorted(ends))

    def mask(self, logits: Tensor) -> Tensor:
        """``logits [N, V]`` with the end tokens removed."""
        return logits.index_fill(1, self.ends, -torch.inf)


def human_texts(count: int) -> list[str]:
    """People's texts, novel and speeches in turn."""
    novel, speech = passages(), speeches()
    every = len(speech) // len(novel)
    mixed = [text for place, text in enumerate(novel) for text in (text, *speech[place * every : (place + 1) * every])]
    return mixed[:count]


def rate(what: str, paper: str, hits: int, count: int, holds: bool | None) -> Row:
    """A row for ``hits`` of ``count`` texts, with the error of a rate that is never quite 0."""
    near = (hits + 1) / (count + 2)
    return Row(what, paper, hits / count, f"of {count} texts", holds, float(np.sqrt(near * (1 - near) / count)))


def upper(hits: int, count: int) -> float:
    """The exact 95% upper bound of a rate of which ``hits`` of ``count`` were seen (Clopper and Pearson).

    >>> round(upper(0, 59), 3)
    0.05
    """
    return 1.0 if hits == count else float(stats.beta.ppf(0.95, hits + 1, count - hits))


def judge_markov(found: Markov) -> list[Row]:
    """The rows of the chains."""
    chains, count, _ = found.own.shape
    total = chains * count
    rows: list[Row] = []
    for place, length in enumerate(LENGTHS):
        hits = int((found.own[:, :, place] <= ALPHA).sum())
        what = f"Markov, own text rejected by token {length}"
        rows.append(rate(what, "at most 0.05", hits, total, upper(hits, total) <= ALPHA))
    slopes = np.array([slope(line) for line in found.other])
    low, high = np.quantile(resampled_slopes(found.other), [0.025, 0.975])
    rows.append(
        Row(
            "Markov, logarithm of the Type II error, 25 to 100 tokens",
            "falls linearly",
            float(slopes.mean()),
            "nats a token",
            bool(high < 0),
            float(high - low) / 3.92,
        )
    )
    for place, length in enumerate(LENGTHS):
        hits = int((found.other[:, :, place] <= ALPHA).sum())
        rows.append(rate(f"Markov, other writer's text rejected by token {length}", "tends to 1", hits, total, None))
    for place, length in enumerate(LENGTHS):
        hits = sum(
            calibrated(found.own_statistic[i, :, place], found.other_statistic[i, :, place]) for i in range(chains)
        )
        what = f"Markov, other writer's text rejected at {length} tokens, calibrated"
        rows.append(rate(what, "tends to 1", hits, total, None))
    return rows


def calibrated(own: np.ndarray, other: np.ndarray) -> int:
    """How many of ``other`` are rejected, one-sided, against a calibration on ``own``."""
    known = Calibration("own", "chain", "", tuple(own.tolist()), (1,) * len(own))
    return sum(known.p_value(float(value), "greater") <= ALPHA for value in other)


def slope(p_values: np.ndarray) -> float:
    """Fall of the logarithm of the Type II error from 25 to 100 tokens, nats a token, of texts ``[text, length]``."""
    error = ((p_values > ALPHA).sum(0) + 0.5) / (len(p_values) + 1)
    return float((np.log(error[LENGTHS.index(100)]) - np.log(error[0])) / (100 - LENGTHS[0]))


def resampled_slopes(p_values: np.ndarray, times: int = 1000) -> np.ndarray:
    """Mean slopes of the chains over resamplings of their texts."""
    rng = np.random.default_rng(MARKOV_SEED)
    count = p_values.shape[1]
    return np.array(
        [np.mean([slope(line[rng.integers(count, size=count)]) for line in p_values]) for _ in range(times)]
    )


def judge_model(found: Model, length: int) -> list[Row]:
    """The rows of the language model."""
    ends = prefixes(length)
    measured = {end: auroc(found, end, statistic) for end in ends}
    last, first = measured[ends[-1]], measured[ends[0]]
    rise = last.draws - first.draws
    rows = [
        Row(
            f"AUROC of T at {ends[-1]} tokens less 0.9",
            "0.987 to 0.999 (8B to 32B models)",
            last.value - 0.9,
            "",
            bool(np.quantile(last.draws, 0.025) > 0.9),
            float(last.draws.std()),
        ),
        Row(
            f"rise of the AUROC of T from {ends[0]} to {ends[-1]} tokens",
            "rises with length",
            last.value - first.value,
            "",
            bool(np.quantile(rise, 0.025) > 0),
            float(rise.std()),
        ),
    ]
    count = len(found.own)
    own = rejections(found.own, length)
    consistent = stats.binomtest(own, count, ALPHA, alternative="greater").pvalue > ALPHA
    rows.append(rate("model's own text rejected, E-value", "at most 0.05", own, count, bool(consistent)))
    rows += [
        Row(f"AUROC of T at {end} tokens", "", auc.value, "", None, float(auc.draws.std()))
        for end, auc in measured.items()
    ]
    for name, of in (("log-perplexity alone", log_perplexity), ("log-perplexity / entropy", ratio)):
        other = auroc(found, length, of)
        rows.append(Row(f"AUROC of {name} at {length} tokens", "", other.value, "", None, float(other.draws.std())))
    for end in ends:
        what = f"person's text rejected by token {end}, E-value"
        rows.append(rate(what, "", rejections(found.human, end), count, None))
    back = rejections(found.read_back, length)
    rows.append(rate("model's own text rejected, read back as text", "", back, count, None))
    for name, scores in (
        ("model's own text", found.own),
        ("its own text read back", found.read_back),
        ("person's text", found.human),
    ):
        values = np.array([statistic(score) for score in scores])
        error = float(values.std(ddof=1) / np.sqrt(count))
        rows.append(
            Row(f"T of {name}", "0" if scores is found.own else "", float(values.mean()), "nats a token", None, error)
        )
    return rows


def prefixes(length: int) -> list[int]:
    """The lengths at which texts of ``length`` are judged."""
    return [end for end in PREFIXES if end <= length]


def statistic(score: Scores) -> float:
    """T, nats a token."""
    return score.statistic


def log_perplexity(score: Scores) -> float:
    """The likelihood baseline, nats a token."""
    return score.log_perplexity


def ratio(score: Scores) -> float:
    """Log-perplexity over mean entropy."""
    return score.log_perplexity / score.mean_entropy


def rejections(scores: Sequence[Scores], end: int) -> int:
    """How many texts the two-sided E-value rejects by token ``end``."""
    found: list[Detection] = [decide(score[:end], alpha=ALPHA) for score in scores]
    return sum(one.decision == "rejected" for one in found)


class Area(NamedTuple):
    """An AUROC and its resamplings."""

    value: float
    draws: np.ndarray


def auroc(found: Model, end: int, of: Callable[[Scores], float], times: int = 2000) -> Area:
    """How often a person's text scores above one of the model's, at ``end`` tokens, with resamplings of both."""
    own, human = (np.array([of(score[:end]) for score in scores]) for scores in (found.own, found.human))
    wins = (human[:, None] > own) + 0.5 * (human[:, None] == own)
    rng = np.random.default_rng(MARKOV_SEED)
    count = len(own)
    draws = [wins[rng.integers(count, size=count)][:, rng.integers(count, size=count)].mean() for _ in range(times)]
    return Area(float(wins.mean()), np.array(draws))


def draw(markov: Markov, model: Model, length: int) -> Figure:
    """Errors against length on the chains; T of the model's text and of people's; AUROC against length."""
    chains, count, _ = markov.own.shape
    ends = prefixes(length)
    areas = [auroc(model, end, statistic) for end in ends]
    worst = float((markov.own[:, :, -1] <= ALPHA).mean())
    title = (
        f"Own text is rejected in {worst:.2%} of cases at level {ALPHA:.0%}; at {length} tokens a person's text is "
        f"told from the model's with an AUROC of {areas[-1].value:.3f}"
    )
    with figure(1, 3, title=title, width=19, height=6) as (fig, [left, middle, right]):
        lengths = np.array(LENGTHS)
        for name, p_values, color in (
            ("own text (Type I)", markov.own, BLUE),
            ("other writer (Type II)", markov.other, ORANGE),
        ):
            wrong = p_values <= ALPHA if p_values is markov.own else p_values > ALPHA
            hits = wrong.sum((0, 1))
            seen = hits > 0
            left.plot(lengths[seen], hits[seen] / (chains * count), color=color, label=name)
        left.axhline(ALPHA, color="grey", linestyle=":", label="level")
        left.set(xlabel="length (tokens)", ylabel="errors (share of texts)", yscale="log")
        left.legend()
        both = [[statistic(score) for score in scores] for scores in (model.own, model.human)]
        bins = np.linspace(min(map(min, both)), max(map(max, both)), 17)
        for name, values, color in zip(("model's own", "people's"), both, (BLUE, ORANGE), strict=True):
            middle.hist(values, bins=list(bins), alpha=0.6, color=color, label=name)
        middle.set(xlabel=f"T of {length} tokens (nats a token)", ylabel="texts (count)")
        middle.legend()
        for name, of, color in (
            ("T", statistic, BLUE),
            ("log-perplexity alone", log_perplexity, PURPLE),
            ("ratio", ratio, GREEN),
        ):
            found = [auroc(model, end, of) for end in ends]
            right.errorbar(ends, [a.value for a in found], [a.draws.std() for a in found], color=color, label=name)
        right.set(xlabel="length (tokens)", ylabel="AUROC (1 tells all apart)")
        right.legend()
    return fig
