"""In-context navigation: look-alikes of the top tokens fill the middle ranks; listing what was said leads past them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hartley.decoding.in_context_navigation import (
    CausalTextModel,
    Exploration,
    InContextNavigator,
    Judge,
    TextModel,
    list_prompt,
    map_at_k,
)
from hartley.decoding.vocabulary_keys import KeyReport, cluster_vocabulary, spurious_key_report
from hartley.engines.transformers import TransformersEngine
from hartley.models import DEFAULT, load
from hartley.papers.figures import BLUE, ORANGE, figure
from hartley.papers.intervals import above, interval, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS, PER_ROUND = 5, 4
PROBES = ROUNDS * PER_ROUND
COMPLETION = 8  # tokens after the first, closing quote included
CLUSTERS = 512  # as the authors took for a vocabulary of this size
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # fixed on three instructions that are not measured
TINY_SEED = 1

PAPER = Paper(
    slug="icn",
    title="Correlation and Navigation in the Vocabulary Key Representation Space of Language Models",
    authors="Letian Peng, Chenyang An, Jingbo Shang",
    year=2024,
    arxiv="2410.02284",
    claim="Among the middle-ranked next tokens, those outside the key clusters of the top ones lead to right answers "
    "more often; listing what was explored in the prompt finds more different right answers with as many probes.",
    where=(
        "hartley.decoding.in_context_navigation.InContextNavigator",
        "hartley.decoding.vocabulary_keys.spurious_key_report",
    ),
)


@dataclass(frozen=True)
class Question:
    """An instruction with many right answers, and the judge that knows them."""

    name: str
    instruction: str
    key: dict[str, str]  # every accepted spelling -> the answer it means

    def right(self, answer: str) -> str | None:
        """The right answer that ``answer`` spells, case, article and plural aside; None for a wrong one."""
        plain = re.sub(r"^the\s+", "", answer.strip().strip(".,;:!").casefold())
        return next((self.key[form] for form in (plain, plain.removesuffix("s")) if form in self.key), None)

    @property
    def judge(self) -> Judge:
        """Whether an answer is right."""
        return lambda answer: self.right(answer) is not None


@cache
def gold_sets() -> list[Question]:
    """Twelve questions with all their answers, or as many as we could name: our own lists of plain facts."""
    text = files("hartley.papers").joinpath("data/gold_sets.json").read_text(encoding="utf-8")
    questions: list[Question] = []
    for name, entry in json.loads(text).items():
        key = {
            re.sub(r"^the\s+", "", form.casefold()): answer.split("|")[0]
            for answer in entry["answers"]
            for form in answer.split("|")
        }
        questions.append(Question(name, CHAT.format(entry["instruction"]), key))
    return questions


class PlantedLists(nn.Module):
    """A tiny model of lists without repeats, whose output keys lie in planted clusters.

    160 words belong to 8 categories, and are dealt at random to 20 clusters of 8 words with keys close together, so a
    word's neighbours mostly belong elsewhere. The query is the sum of a vector for the category and one for each word
    listed so far; it learns to predict the category's other words, the n-th with weight 1/n, from lists with slips.
    """

    CATEGORIES, EACH, CLUSTER, DIMENSIONS, SPREAD = 8, 20, 8, 32, 0.35
    STEPS, BATCH = 500, 64

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = self.CATEGORIES * self.EACH
        self.clusters = torch.randperm(size, generator=generator) // self.CLUSTER
        centres = torch.randn(size // self.CLUSTER, self.DIMENSIONS, generator=generator)
        offsets = torch.randn(size, self.DIMENSIONS, generator=generator)
        normalize = nn.functional.normalize
        self.keys = normalize(centres, dim=1)[self.clusters] + self.SPREAD * normalize(offsets, dim=1)
        self.category = nn.Parameter(torch.zeros(self.CATEGORIES, self.DIMENSIONS))
        self.word = nn.Parameter(torch.zeros(size, self.DIMENSIONS))
        self._learn(generator)

    def forward(self, category: Tensor, listed: Tensor) -> Tensor:
        """Logits ``[B, V]`` of the next word after ``listed`` (0 or 1, ``[B, V]``) under ``category [B]``."""
        return (self.category[category] + listed @ self.word) @ self.keys.T

    def _learn(self, generator: torch.Generator) -> None:
        optimiser = torch.optim.AdamW(self.parameters(), lr=3e-2, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-2, total_steps=self.STEPS)
        shape = (self.BATCH, self.keys.shape[0])
        owner = torch.arange(shape[1]) // self.EACH
        popularity = -torch.arange(1, self.EACH + 1).log().repeat(self.CATEGORIES).expand(shape)
        for _ in range(self.STEPS):
            category = torch.randint(self.CATEGORIES, (self.BATCH,), generator=generator)
            ours = owner == category[:, None]
            gumbel = -torch.empty(shape).exponential_(generator=generator).log()  # puts words in order by popularity
            score = (popularity + gumbel).masked_fill(~ours, -torch.inf)
            length = torch.randint(self.EACH, (self.BATCH, 1), generator=generator)
            last = score.topk(self.EACH, dim=1).values.gather(1, length)
            slip = torch.rand((self.BATCH, 1), generator=generator) * self.EACH / (~ours).sum(1, keepdim=True)
            listed = (score > last) | (~ours & (torch.rand(shape, generator=generator) < slip))
            target = popularity.masked_fill(~ours | listed, -torch.inf).softmax(1)
            loss = nn.functional.cross_entropy(self(category, listed.float()), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def questions(self) -> list[Question]:
        """One for each category."""
        return [
            Question(
                f"category {category}",
                f"List words of category {category}.",
                {word: word for word in map(self.token_text, range(category * self.EACH, (category + 1) * self.EACH))},
            )
            for category in range(self.CATEGORIES)
        ]

    @torch.no_grad()
    def next_logits(self, text: str) -> Tensor:
        """The logits of the next word of the list that ``text`` holds."""
        category = torch.tensor([int(number) for number in re.findall(r"category (\d+)", text)[:1]])
        listed = torch.zeros(1, self.keys.shape[0])
        listed[0, [int(word) for word in re.findall(r'"word(\d+)"', text)]] = 1.0
        return self(category, listed)[0]

    def token_text(self, token: int) -> str:
        """A token is a word."""
        return f"word{token}"

    def complete(self, text: str, tokens: Sequence[int], max_new_tokens: int, stop: str) -> list[str]:
        """A word is a whole answer."""
        return [self.token_text(token) + stop for token in tokens]


@cache
def planted_lists() -> PlantedLists:
    """The planted model of the tiny scale, trained once."""
    return PlantedLists(TINY_SEED)


@dataclass(frozen=True)
class Found:
    """What was measured on one question."""

    report: KeyReport
    navigated: Exploration
    plain: Exploration
    gained: dict[str, list[int]]  # distinct right answers after each probe, "navigated" and "plain"
    fall: float  # of the product of query and explored keys, when the prompt lists the answers they led to
    log_fall: float  # of the log-probability of the explored tokens, nats


def ask(model: TextModel, question: Question, clusters: Tensor, n: int, k: int) -> Found:
    """Measure one question: the middle ranks of its first slot, then 20 probes with and without navigation."""
    report = spurious_key_report(
        model, list_prompt(question.instruction), question.judge, n, k, clusters, max_new_tokens=COMPLETION
    )
    navigated, plain = (
        InContextNavigator(
            model,
            rounds=ROUNDS,
            per_round=PER_ROUND,
            judge=question.judge,
            max_explored=listed,
            max_new_tokens=COMPLETION,
        ).explore(question.instruction)
        for listed in (None, 0)
    )
    first, *later = [model.next_logits(prompt).double() for prompt in navigated.prompts]
    falls: list[Tensor] = []
    for round, logits in enumerate(later, start=1):
        probed = [probe.token for probe in navigated.probes if probe.round < round]
        log_falls = first.log_softmax(0)[probed] - logits.log_softmax(0)[probed]
        falls.append(torch.stack([(first[probed] - logits[probed]).mean(), log_falls.mean()]))
    fall, log_fall = torch.stack(falls).mean(0).tolist()
    gained = {"navigated": distinct_right(question, navigated), "plain": distinct_right(question, plain)}
    return Found(report, navigated, plain, gained, fall, log_fall)


def distinct_right(question: Question, found: Exploration) -> list[int]:
    """How many different right answers were found after each probe."""
    right: set[str] = set()
    counts: list[int] = []
    for answer in found.answers:
        right.update({meant} if (meant := question.right(answer)) else ())
        counts.append(len(right))
    return counts


def reproduce(scale: Scale) -> Evidence:
    """Twelve questions with many answers on the default model; at the tiny scale eight on a model with planted keys.

    At the open slot of a numbered list, the 100 likeliest first tokens (tiny: 40) are each completed greedily, judged
    against our own lists of facts, and set apart by whether their keys share a k-means cluster with the top 10 (tiny:
    4). Then 20 probes, 4 in each of 5 rounds, with the answers so far listed in the prompt (navigated) and without
    (plain): both take first tokens never taken before, and both complete them from the empty list. One probe counts as
    right whatever came before; distinct right answers count once. A product of query and key says little alone, since
    all of them may fall together, so the log-probability of explored tokens stands beside it. Judged rows hold if
    Student's 95% interval over the questions does. The planted model was made to show the effect: it checks the
    machinery and is no evidence.
    """
    if scale == "tiny":
        planted = planted_lists()
        found = {q.name: ask(planted, q, planted.clusters, n=40, k=4) for q in planted.questions()}
        settings: dict[str, Any] = {"model": "planted", "clusters": int(planted.clusters.max()) + 1, "n": 40, "k": 4}
    else:
        model = default_model()
        clusters = cluster_vocabulary(model.keys, CLUSTERS, random_state=0)
        found = {q.name: ask(model, q, clusters, n=100, k=10) for q in gold_sets()}
        settings = {"model": DEFAULT, "clusters": CLUSTERS, "n": 100, "k": 10}
    rows = judge(list(found.values()))
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(list(found.values())),
        seeds=(TINY_SEED,) if scale == "tiny" else (0,),
        settings={
            **settings,
            "rounds": ROUNDS,
            "probes per round": PER_ROUND,
            "tokens per completion": COMPLETION,
            "questions": list(found),
        },
    )


def default_model() -> CausalTextModel:
    """The default model, float32, with its own tokenizer."""
    from transformers import AutoTokenizer

    model = load(DEFAULT)
    return CausalTextModel(TransformersEngine.open(model).model, AutoTokenizer.from_pretrained(model.directory))


def judge(found: Sequence[Found]) -> list[Row]:
    """The table, from what was measured on each question."""
    n, k = len(found[0].report.tokens), found[0].report.k
    sides = [(f.report.inside, f.report.outside) for f in found if 0 < f.report.inside.proportion < 1]
    gained = {name: [float(f.gained[name][-1]) for f in found] for name in ("navigated", "plain")}
    maps = {
        name: [map_at_k(getattr(f, name).hits, len(getattr(f, name).hits)) for f in found]
        for name in ("navigated", "plain")
    }
    middle = f"ranks {k + 1}-{n}"
    return [
        above(
            f"accuracy at {middle}: outside less inside the clusters of the top {k}",
            "outside is more accurate",
            [100 * (outside.accuracy - inside.accuracy) for inside, outside in sides],
            "points",
        ),
        above(
            f"distinct right answers of {PROBES} probes: navigated less plain",
            "navigation finds more",
            _less(gained["navigated"], gained["plain"]),
            "answers",
        ),
        above(
            f"MAP@{PROBES}: navigated less plain",
            "navigation is more precise",
            _less(maps["navigated"], maps["plain"]),
            "(share)",
        ),
        above(
            "product of query and explored keys: fall when they are listed",
            "small products with explored keys",
            [f.fall for f in found],
            "(logit)",
        ),
        above(
            "log-probability of explored tokens: fall when listed",
            "explored tokens are left behind",
            [f.log_fall for f in found],
            "nats",
        ),
        shown(
            f"mean rank at {middle}: outside less inside",
            "outside is not ranked higher",
            [outside.mean_rank - inside.mean_rank for inside, outside in sides],
            "ranks",
        ),
        shown(f"accuracy of the top {k}", "", [100 * fmean(f.report.correct[:k]) for f in found], "%"),
        shown(f"accuracy at {middle}, inside", "", [100 * inside.accuracy for inside, _ in sides], "%"),
        shown(f"accuracy at {middle}, outside", "", [100 * outside.accuracy for _, outside in sides], "%"),
        shown(f"share of {middle} inside", "", [100 * inside.proportion for inside, _ in sides], "%"),
        *(shown(f"distinct right answers, {name}", "", values, "answers") for name, values in gained.items()),
        *(shown(f"MAP@{PROBES}, {name}", "", values, "(share)") for name, values in maps.items()),
    ]


def _less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def draw(found: Sequence[Found]) -> Figure:
    """Accuracy against rank, inside and outside the main clusters; distinct right answers against probes."""
    sides = [(f.report.inside.accuracy, f.report.outside.accuracy) for f in found]
    inside, outside = (100 * fmean(value for value in side if value == value) for side in zip(*sides, strict=True))
    last = {name: fmean(f.gained[name][-1] for f in found) for name in ("navigated", "plain")}
    title = (
        f"Middle ranks: {inside:.0f}% right inside the top tokens' clusters, {outside:.0f}% outside. "
        f"{PROBES} probes: {last['navigated']:.1f} right answers navigated, {last['plain']:.1f} plain"
    )
    with figure(1, 2, title=title, width=15, height=6) as (fig, [left, right]):
        n, k = len(found[0].report.tokens), found[0].report.k
        width = (n - k) // 3
        buckets = [(k + width * third, k + width * (third + 1)) for third in range(3)]
        for main, name, color, marker in ((True, "inside", ORANGE, "s"), (False, "outside", BLUE, "o")):
            rates = [(bucket, _accuracies(found, main, *bucket)) for bucket in buckets]
            drawn = [(bucket, interval(values)) for bucket, values in rates if len(values) > 1]
            places = [(first + 1 + end) / 2 + (width / 30 if main else -width / 30) for (first, end), _ in drawn]
            spans = [span for _, span in drawn]
            left.errorbar(
                *(places, [100 * s.mean for s in spans], [100 * s.error for s in spans]),
                color=color,
                marker=marker,
                label=f"{name} the clusters of the top {k}",
            )
        left.set(xlabel="rank of the first token", ylabel="right answers (%, ± one standard error)", ylim=(0, None))
        left.set_xticks([(first + 1 + end) / 2 for first, end in buckets], [f"{a + 1}-{b}" for a, b in buckets])
        left.legend()
        for name, color, marker in (("navigated", BLUE, "o"), ("plain", ORANGE, "s")):
            spans = [interval([float(f.gained[name][probe]) for f in found]) for probe in range(PROBES)]
            right.errorbar(
                *(range(1, PROBES + 1), [s.mean for s in spans], [s.error for s in spans]),
                color=color,
                marker=marker,
                label=name,
            )
        right.set(xlabel="probes", ylabel="distinct right answers (± one standard error)", ylim=(0, None))
        right.set_xticks(range(0, PROBES + 1, PER_ROUND))
        right.legend()
    return fig


def _accuracies(found: Sequence[Found], main: bool, first: int, end: int) -> list[float]:
    """Accuracy on one side at ranks first+1..end, for each question that has any tokens there."""
    chosen = [[f.report.correct[i] for i in range(first, end) if f.report.in_main[i] == main] for f in found]
    return [fmean(correct) for correct in chosen if correct]
