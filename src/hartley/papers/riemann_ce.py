"""Cross-entropy optimisation and reasoning: rare events, known zeros of zeta, and top-p on whole chains of tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from mpmath import nzeros, zetazero
from numpy.typing import NDArray
from scipy.stats import gamma, norm
from torch import Tensor

from hartley.decoding import top_p
from hartley.decoding.path_top_p import NextLogits, Path, from_transformers, path_top_p
from hartley.engines.transformers import TransformersEngine
from hartley.info.cross_entropy_method import CrossEntropyMethod, Family, Gaussian, Minimum
from hartley.models import load
from hartley.papers.figures import BLACK, BLUE, GREEN, ORANGE, figure, shades
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.zeta import zeta

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="riemann-ce",
    title="Analysis on Riemann Hypothesis with Cross Entropy Optimization and Reasoning",
    authors="Kevin Li, Fulu Li",
    year=2024,
    arxiv="2409.19790",
    claim="The cross-entropy method needs fewer samples than crude Monte Carlo for the same error on a rare event and "
    "locates known zeros of zeta to eight places; top-p on the joint probability of K chains finds more probable "
    "chains and more right answers than top-p on each step.",
    where=("hartley.info.CrossEntropyMethod", "hartley.decoding.path_top_p"),
)

TARGET = 0.05  # relative error, one standard deviation, that samples are counted to
FINAL = 10_000  # samples of the estimate itself
SIGMAS = 3  # standard errors that a judged row must clear
MORE = "above 0 (no figure given)"
START = 10  # the first zero is at 14.13
ZERO = 1e-6  # |zeta| of what counts as found
TOP_P = 0.9
EXAMPLES = """\
Question: 2 + 5
Reasoning: Two plus five is seven.
Answer: 7

Question: 8 + 4
Reasoning: Eight plus four is twelve.
Answer: 12

Question: 3 + 6
Reasoning: Three plus six is nine.
Answer: 9

"""
SEED = 0  # runs, trees and questions count up from it


class Sizes(NamedTuple):
    """How much one scale runs."""

    runs: int  # of each rare event
    until: int  # the last window of zeta ends here
    trees: int
    widths: tuple[int, ...]  # paths kept, K
    questions: int  # put to the default model


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(runs=12, until=26, trees=12, widths=(1, 4), questions=0),
    "small": Sizes(runs=200, until=100, trees=150, widths=(1, 2, 4, 8), questions=20),
}


def reproduce(scale: Scale) -> Evidence:
    """Two halves, as in the paper: an optimiser, and a decoder that accumulates the probabilities of paths.

    The first estimates tails of a normal and of a sum of five exponentials, whose probabilities are known exactly, and
    compares the samples needed with those of crude Monte Carlo; then it searches windows of width 1 on the critical
    line for zeros of the zeta function and compares what it finds with mpmath's. It finds again zeros that were known;
    it says nothing about any other, and nothing here bears on the hypothesis in the paper's title.

    The second draws chains from random trees, planted so that the likeliest first token leads to flat continuations and
    the best chain is known; then, at small scale, it adds one-digit numbers in words with the default model. The rivals
    are one ordinary top-p sample, and the most probable of K of them, which cost the same tokens. For this half the
    paper's abstract gives no figures, and its formulas were not available to us: that a chain is scored by the sum of
    its log-probabilities is our reading.
    """
    sizes = SIZES[scale]
    rare = {event.name: measure(event, sizes.runs) for event in EVENTS}
    zeros = search_zeros(sizes.until)
    trees = [PlantedTree(SEED + i) for i in range(sizes.trees)]
    on_trees = {k: [compare(tree, k, SEED + i) for i, tree in enumerate(trees)] for k in sizes.widths}
    asked = ask_default_model(sizes.questions, sizes.widths) if sizes.questions else {}
    rows = [
        *(row for found in rare.values() for row in found.rows()),
        *zero_rows(zeros, sizes.until),
        *chain_rows("planted trees", on_trees, judge_answers=True),
        *chain_rows("default model adding", asked, judge_answers=False),
    ]
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(rare, on_trees, float(np.mean([tree.best for tree in trees]))),
        seeds=(SEED,),
        settings={
            "rare events": f"{sizes.runs} runs of each, samples 1,000 an iteration and 10,000 at the end",
            "zeta": f"60 samples an iteration, windows of width 1 from t = {START} to {sizes.until}",
            "top_p": TOP_P,
            "trees": sizes.trees,
            "questions": sizes.questions,
        },
    )


# Rare events


class Exponential:
    """Independent exponentials: parameters ``[D]``, their means. A family of one's own for the cross-entropy method."""

    def sample(self, params: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Draw ``n`` points ``[N, D]``."""
        return rng.exponential(params, size=(n, len(params)))

    def log_density(self, x: NDArray[Any], params: NDArray[Any]) -> NDArray[Any]:
        """Log-density ``[N]``, nats."""
        return (-x / params - np.log(params)).sum(-1)

    def fit(self, x: NDArray[Any], weights: NDArray[Any], params: NDArray[Any]) -> NDArray[Any]:
        """Weighted means."""
        return np.average(x, axis=0, weights=weights)


class Event(NamedTuple):
    """A sum of independent terms that reaches ``gamma``, with its exact probability."""

    name: str
    gamma: float
    exact: float
    family: Family
    nominal: Any


EVENTS = [
    *(Event(f"P(Z >= {g})", g, float(norm.sf(g)), Gaussian(), [[0.0], [1.0]]) for g in (2, 3, 4, 5)),
    Event("P(sum of 5 exponentials >= 30)", 30, float(gamma.sf(30, 5)), Exponential(), [1.0] * 5),
]


class Rare(NamedTuple):
    """The runs of one event."""

    event: Event
    ratios: NDArray[np.float64]  # estimate / exact, one a run
    climb: float  # samples before the final ones, the mean over runs

    @property
    def variance(self) -> float:
        """Relative variance of one final sample."""
        return FINAL * float(((self.ratios - 1) ** 2).mean())

    @property
    def crude(self) -> float:
        """Samples that crude Monte Carlo needs to the target, in closed form."""
        return (1 - self.event.exact) / self.event.exact / TARGET**2

    @property
    def samples(self) -> tuple[float, float]:
        """Samples that the cross-entropy method needs to the target, and their standard error."""
        final = self.variance / TARGET**2
        return self.climb + final, final * math.sqrt(2 / len(self.ratios))

    def rows(self) -> list[Row]:
        """Is the estimate right, and cheaper than the crude one?"""
        mean, error = float(self.ratios.mean()), float(self.ratios.std(ddof=1) / math.sqrt(len(self.ratios)))
        needed, spread = self.samples
        exact, cost = f"1 (exactly {self.event.exact:.5g})", f"below {self.crude:,.0f}, crude Monte Carlo's"
        name = f"{self.event.name}: samples to {TARGET:.0%} error"
        return [
            Row(f"{self.event.name}: estimate / exact", exact, mean, "", abs(mean - 1) < SIGMAS * error, error),
            Row(name, cost, needed, "samples", needed + SIGMAS * spread < self.crude, spread),
        ]


def measure(event: Event, runs: int) -> Rare:
    """Run the cross-entropy method on one event, each time with the next seed."""
    found = [
        CrossEntropyMethod(event.family, random_state=SEED + i).rare_event(
            lambda x: x.sum(-1), event.gamma, event.nominal, n_final=FINAL
        )
        for i in range(runs)
    ]
    return Rare(
        event, np.array([f.estimate for f in found]) / event.exact, float(np.mean([f.nfev for f in found])) - FINAL
    )


# Zeros of zeta


def seek(low: float, high: float, seed: int, sigma: float | None = None) -> Minimum:
    """Search a window ``low <= t <= high`` for the smallest |zeta|, on the line Re s = 1/2.

    With ``sigma`` the real part is searched too, in (0, 1) and from there.
    """
    middle, width = (low + high) / 2, (high - low) / 2
    line = sigma is None

    def size(x: NDArray[Any]) -> NDArray[Any]:
        real, t = (np.full(len(x), 0.5), x[:, 0]) if line else (x[:, 0], x[:, 1])
        inside = (t >= low) & (t <= high) & (real > 0) & (real < 1)
        values = np.full(len(x), np.inf)  # or the zero next door would win
        values[inside] = np.abs(zeta(real[inside] + 1j * t[inside]))
        return values

    method = CrossEntropyMethod(
        Gaussian(min_sd=1e-12), n_samples=60, elite_frac=0.15, smoothing=0.8, tol=1e-10, random_state=seed
    )
    return method.minimize(size, middle, width) if line else method.minimize(size, [sigma, middle], [0.3, width])


def search_zeros(until: int) -> list[Minimum]:
    """Search every window of width 1; those without a zero end at a border, where |zeta| is not small."""
    found = [seek(low, low + 1, SEED + low) for low in range(START, until)]
    return [f for f in found if f.fun < ZERO]


def zero_rows(zeros: list[Minimum], until: int) -> list[Row]:
    """Compare with mpmath: how many, and how near."""
    known = [float(zetazero(i + 1).imag) for i in range(int(nzeros(until)))]
    places = np.array([float(f.x[0]) for f in zeros])
    off = max((float(np.abs(places - t).min()) for t in known), default=math.inf) if len(places) else math.inf
    ends = [seek(math.floor(t), math.floor(t) + 1, SEED + i, sigma=0.75).x[0] for i, t in enumerate(known)]
    found = f"zeros of zeta found for t from {START} to {until}"
    aside = float(np.abs(np.array(ends) - 0.5).max())
    return [
        Row(found, f"{len(known)} (mpmath)", len(zeros), "zeros", len(zeros) == len(known)),
        Row("largest distance from a zero of mpmath's to the nearest one found", "below 1e-8", off, "in t", off < 1e-8),
        Row("largest distance from real part 1/2 where searches of two dimensions end", "0", aside, "", None),
    ]


# Chains of tokens


class Problem(Protocol):
    """A prompt, a model to go on from it, and the right answer."""

    prompt: tuple[int, ...]
    depth: int
    ends: frozenset[int]
    right: int

    def model(self) -> NextLogits:
        """The model, with a cache of its own where it has one."""
        ...

    def answer(self, path: Path) -> int | None:
        """The answer a chain comes to."""
        ...


class PlantedTree:
    """A random tree of token sequences, ``[V] * DEPTH``, whose last token is an answer.

    A node is sharp (one continuation is likely) or flat. The likeliest first token leads to a flat subtree; each of the
    next two opens a sharp chain, and both chains end in the planted answer. Off a chain all is flat.
    """

    vocabulary = 6
    depth: int = 6
    prompt: tuple[int, ...] = (0,)
    ends: frozenset[int] = frozenset()

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        size = self.vocabulary
        self.right = int(rng.integers(size))
        order = rng.permutation(size)
        first = rng.dirichlet(np.ones(size)) * 0.15
        first[order[:3]] += [0.4, 0.25, 0.2]
        self.tables = [np.log(first)[None]]
        sharp = np.zeros(size, bool)
        sharp[order[1:3]] = True
        for level in range(1, self.depth):
            rows = rng.dirichlet(np.full(size, 5.0), size=size**level)
            likely = rng.integers(size, size=size**level)
            if level == self.depth - 1:
                likely[:] = self.right
            at = np.flatnonzero(sharp)
            rows[at] *= 0.1
            rows[at, likely[at]] += 0.9
            self.tables.append(np.log(rows))
            follows = np.zeros((size**level, size), bool)
            follows[at, likely[at]] = True
            sharp = follows.ravel()
        scores = self.tables[0][0]
        for table in self.tables[1:]:
            scores = (scores[:, None] + table).ravel()
        self.best = float(scores.max())  # by looking at all of them

    def model(self) -> NextLogits:
        """Log-probabilities of the next token after the prompt and the tokens so far."""
        tables = [torch.from_numpy(table).float() for table in self.tables]
        powers = self.vocabulary ** torch.arange(self.depth)

        def next_logits(tokens: Tensor, parents: Tensor) -> Tensor:
            said = tokens[:, len(self.prompt) :]
            return tables[said.shape[1]][(said * powers[: said.shape[1]].flip(0)).sum(-1)]

        return next_logits

    def answer(self, path: Path) -> int:
        """The last token."""
        return path.tokens[-1]


class Addition:
    """One question of one-digit addition for a language model, after three worked examples."""

    depth: int = 24  # tokens an answer may have

    def __init__(self, engine: TransformersEngine, ends: frozenset[int], a: int, b: int) -> None:
        self.engine = engine
        self.ends = ends
        self.right = a + b
        self.prompt = tuple(engine.tokenizer.encode(f"{EXAMPLES}Question: {a} + {b}\nReasoning:"))

    def model(self) -> NextLogits:
        """The model with its own cache."""
        return from_transformers(self.engine.model)

    def answer(self, path: Path) -> int | None:
        """The last number of the text."""
        numbers = re.findall(r"\d+", self.engine.tokenizer.decode(path.tokens))
        return int(numbers[-1]) if numbers else None


class Best(NamedTuple):
    """The most probable chain that one way found."""

    log_prob: float  # nats
    right: bool  # its answer


JOINT, STEPS, BEAM = "path-level top-p", "best of K top-p samples", "beam search"


def compare(problem: Problem, k: int, seed: int, ways: Sequence[str] = (JOINT, STEPS, BEAM)) -> dict[str, Best]:
    """Solve one problem with K paths in each way."""

    def solve(way: str) -> list[Path]:
        generator = torch.Generator().manual_seed(seed)
        if way == STEPS:
            return independent(problem, k, generator)
        sampler = path_top_p(k, TOP_P) if way == JOINT else path_top_p(k, 1.0, deterministic=True)
        return sampler.generate(problem.model(), problem.prompt, problem.depth, problem.ends, generator)

    def best(paths: list[Path]) -> Best:
        path = max(paths, key=lambda path: path.log_prob)
        return Best(path.log_prob, problem.answer(path) == problem.right)

    return {way: best(solve(way)) for way in ways}


def independent(problem: Problem, k: int, generator: torch.Generator) -> list[Path]:
    """K ordinary top-p samples, run as one batch."""
    model, sampler = problem.model(), top_p(TOP_P)
    rows = torch.tensor([problem.prompt])
    logits, parents = model(rows, torch.zeros(1, dtype=torch.long)), torch.zeros(k, dtype=torch.long)
    scores = torch.zeros(k, dtype=torch.float64)
    ends = torch.tensor(sorted(problem.ends), dtype=rows.dtype)
    paths: list[Path] = []
    while True:
        draw, _ = sampler.step(logits[parents], None, generator)
        rows = torch.cat([rows[parents], draw.token[:, None]], dim=1)
        scores = scores - draw.surprisal
        ended = torch.isin(draw.token, ends)
        over = ended | (rows.shape[1] - len(problem.prompt) == problem.depth)
        for row, score, end in zip(rows[over].tolist(), scores[over].tolist(), ended[over].tolist(), strict=True):
            paths.append(Path(tuple(row[len(problem.prompt) :]), score, 1 / k, end))
        rows, scores, parents = rows[~over], scores[~over], parents[~over]
        if len(rows) == 0:
            return paths
        logits, parents = model(rows, parents), torch.arange(len(rows))


def ask_default_model(questions: int, widths: Sequence[int]) -> dict[int, list[dict[str, Best]]]:
    """Put one-digit additions to the default model, by K."""
    engine = TransformersEngine.open(load(), device="cpu")
    tokenizer = engine.tokenizer
    ends = tokenizer.stop_ids | {tokenizer.encode("7\n\n")[-1]}
    rng = np.random.default_rng(SEED)
    asked = [Addition(engine, ends, int(a), int(b)) for a, b in rng.integers(1, 10, size=(questions, 2))]
    return {k: [compare(q, k, SEED + i, (JOINT, STEPS)) for i, q in enumerate(asked)] for k in widths}


def chain_rows(where: str, found: dict[int, list[dict[str, Best]]], judge_answers: bool) -> list[Row]:
    """K paths against one ordinary top-p sample, and against K of them, which cost the same tokens."""

    def apart(k: int, rival: int, field: int) -> tuple[float, float]:
        gains = [float(a[JOINT][field]) - float(b[STEPS][field]) for a, b in zip(found[k], found[rival], strict=True)]
        return float(np.mean(gains)), float(np.std(gains, ddof=1) / math.sqrt(len(gains)))

    rows: list[Row] = []
    for k in found:
        if k == 1:
            continue
        for rival, of in ((1, "one top-p sample"), (k, f"the best of {k} top-p samples")):
            nats, error = apart(k, rival, 0)
            name = f"{where}, {k} paths: log-probability above that of {of}"
            rows.append(Row(name, MORE, nats, "nats", nats > SIGMAS * error, error))
        right, error = apart(k, 1, 1)
        better = right > SIGMAS * error if judge_answers else None
        name = f"{where}, {k} paths: right answers above those of one top-p sample"
        rows.append(Row(name, MORE, 100 * right, "percentage points", better, 100 * error))
    return rows


def draw(rare: dict[str, Rare], on_trees: dict[int, list[dict[str, Best]]], best: float) -> Figure:
    """Cost of a rare event; the search closing in on a zero; chains found, and right answers, by K."""
    with figure(2, 2, title="Tilting makes rare events cheap; more paths find likelier chains", height=9.6) as (
        fig,
        [cost, closing, chains, answers],
    ):
        for normal, colour, marker, label in ((True, BLUE, "o", "normal tail"), (False, ORANGE, "s", "5 exponentials")):
            some = [r for r in rare.values() if isinstance(r.event.family, Gaussian) == normal]
            needed, errors = zip(*(r.samples for r in some), strict=True)
            chance = [r.event.exact for r in some]
            cost.errorbar(chance, needed, yerr=errors, fmt=marker, color=colour, label=f"cross-entropy, {label}")
        chance = np.geomspace(1e-8, 0.05, 50)
        cost.loglog(chance, (1 - chance) / chance / TARGET**2, "--", color=BLACK, label="crude Monte Carlo (exact)")
        cost.set(xlabel="probability of the event", ylabel=f"samples to {TARGET:.0%} error")
        cost.legend()

        colours = shades(6)
        for step, (mean, sd) in enumerate(f[:, 0] for f in seek(12, 17, SEED).path[:6]):
            t = np.linspace(12, 17, 1000)
            closing.semilogy(t, norm.pdf(t, mean, sd), color=colours[step], label=f"{step}", marker="")
        closing.set(ylim=(1e-3, 1e4), xlabel="t on the line Re s = 1/2", ylabel="sampling density (1 per unit of t)")
        closing.axvline(14.134725, color=BLACK, linestyle=":", linewidth=1)
        closing.legend(title="iteration", ncols=2)

        k = list(on_trees)
        for way, colour, marker in ((JOINT, BLUE, "o"), (STEPS, ORANGE, "s"), (BEAM, GREEN, "^")):
            for axis, values in (
                (chains, {n: [p[way].log_prob for p in ps] for n, ps in on_trees.items()}),
                (answers, {n: [100.0 * p[way].right for p in ps] for n, ps in on_trees.items()}),
            ):
                means = [np.mean(v) for v in values.values()]
                errors = [np.std(v, ddof=1) / math.sqrt(len(v)) for v in values.values()]
                axis.errorbar(k, means, yerr=errors, color=colour, marker=marker, label=way)
        chains.axhline(best, color=BLACK, linestyle="--", marker="", label="best there is")
        chains.set(ylabel="log-probability of the best chain (nats)")
        answers.set(ylabel="right answers (%)", ylim=(0, 105))
        for axis in (chains, answers):
            axis.set_xscale("log", base=2)
            axis.set_xticks(k, [str(n) for n in k])
            axis.set(xlabel="K, paths kept, on planted trees")
        chains.legend()
    return fig
