"""Likelihood over-optimisation: a policy small enough to know its true reward, trained on preferences for too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hartley.info import top_k_entropy, top_k_mass
from hartley.papers.figures import BLACK, MARKERS, PALETTE, figure
from hartley.papers.intervals import above, interval, rank_correlation, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.training import OverOptimisationMonitor, dpo_loss, ipo_loss, slic_hinge_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="likelihood-overoptimisation",
    title="Understanding Likelihood Over-optimisation in Direct Alignment Algorithms",
    authors="Zhengyan Shi, Sander Land, Acyr Locatelli, Matthieu Geist, Max Bartolo",
    year=2024,
    arxiv="2410.11677",
    claim="Trained long enough by DPO, a policy loses true reward while its margin still grows; the entropy of its ten "
    "likeliest tokens first rises and then falls as it does, and for a hinge loss their mass falls: stopping on these "
    "signals keeps reward.",
    where=(
        "hartley.training.OverOptimisationMonitor",
        "hartley.training.plugins.transformers.OverOptimisationCallback",
        "hartley watch",
    ),
)

VOCABULARY, LENGTH, PAIRS, HELD_OUT = 40, 12, 400, 200
SPREAD = 1.3  # standard deviation of the reference's logits
RATE, EVERY = 0.02, 50
EARLY = 200  # the step that later ones are compared with, fixed before the runs
TOP = 10
BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LOOSE, TIGHT, IPO, HINGE = "DPO, β=0.05", "DPO, β=0.5", "IPO, τ=0.05", "hinge, γ=1"
SCALES: dict[Scale, tuple[int, int, tuple[float, ...]]] = {  # seeds, steps, betas of DPO
    "tiny": (4, 450, (0.05, 0.5)),
    "small": (10, 2000, BETAS),
}


class World(NamedTuple):
    """Several independent problems side by side, a seed each (S)."""

    reference: Tensor  # log-probabilities [S, V, V] of the next token after each
    reward: Tensor  # [S, V, V] of each transition, hidden from the training
    chosen: Tensor  # [S, N, T + 1] tokens, the first of which is the prompt
    rejected: Tensor
    held_chosen: Tensor
    held_rejected: Tensor


class Course(NamedTuple):
    """What one method came to at each evaluation, for each seed: [evaluations, S]."""

    steps: list[int]
    reward: NDArray[np.float64]  # expected true reward of an answer, exactly
    margin: NDArray[np.float64]  # nats a token, on the training pairs
    logps: NDArray[np.float64]  # of held-out chosen answers, nats a token
    entropy: NDArray[np.float64]  # top-10, bits a token, over the policy's own positions, exactly
    mass: NDArray[np.float64]


def reproduce(scale: Scale) -> Evidence:
    """Train a table of next-token logits on preferences between short texts, and watch the paper's indicators.

    The policy is one table of 40 by 40 logits, so that the true reward of what it writes, its top-10 entropy and its
    top-10 mass are exact expectations, not samples; nothing is shared between contexts as in a network. A reference
    with random logits writes 400 pairs of 12 tokens after a random prompt token; the one with the larger hidden reward
    (a random number for each transition) is chosen. Every method trains with Adam at a rate of 0.02 on all pairs at
    once. Indicators are read every 50 steps; log-likelihoods are of 200 held-out pairs. The detector has its default
    thresholds. Judged rows hold if Student's 95% interval over the seeds does. No language model is trained here.
    """
    count, steps, betas = SCALES[scale]
    world = make_world(count)
    courses = {name: train(world, name, steps) for name in [*(f"DPO, β={beta:g}" for beta in betas), IPO, HINGE]}
    rows = judge(courses)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(courses),
        seeds=list(range(count)),
        settings={
            "vocabulary": VOCABULARY, "pairs": PAIRS, "tokens": LENGTH, "steps": steps, "evaluated every": EVERY,
            "betas": list(betas),
        },
    )  # fmt: skip


def make_world(count: int) -> World:
    """The problems of the seeds 0 to ``count`` - 1."""
    parts: list[tuple[Tensor, ...]] = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        size = (VOCABULARY, VOCABULARY)
        reference = (SPREAD * torch.randn(size, generator=generator)).log_softmax(-1)
        reward = torch.randn(size, generator=generator)
        prompts = torch.randint(VOCABULARY, (PAIRS + HELD_OUT,), generator=generator)
        texts = torch.stack([write(reference, prompts, generator) for _ in range(2)])
        gains = reward[texts[..., :-1], texts[..., 1:]].sum(-1)
        better = gains.argmax(0)
        at = torch.arange(PAIRS + HELD_OUT)
        chosen, rejected = texts[better, at], texts[1 - better, at]
        parts.append((reference, reward, chosen[:PAIRS], rejected[:PAIRS], chosen[PAIRS:], rejected[PAIRS:]))
    return World(*(torch.stack(part) for part in zip(*parts, strict=True)))


def write(log_probs: Tensor, prompts: Tensor, generator: torch.Generator) -> Tensor:
    """Texts [N, T + 1] drawn from a table of log-probabilities after the first tokens ``prompts`` [N]."""
    tokens = [prompts]
    for _ in range(LENGTH):
        tokens.append(torch.multinomial(log_probs[tokens[-1]].exp(), 1, generator=generator)[:, 0])
    return torch.stack(tokens, -1)


@one_thread()
def train(world: World, name: str, steps: int) -> Course:
    """Train every seed's policy by one method, evaluating every 50 steps."""
    table = world.reference.clone().requires_grad_()
    optimiser = torch.optim.Adam([table], lr=RATE, fused=True)
    pairs = places(torch.cat([world.chosen, world.rejected], 1))
    ref = [half.flatten() for half in sequence(world.reference, pairs).chunk(2, 1)]
    lengths = torch.full_like(ref[0], LENGTH)
    found = [evaluate(world, table)]
    for step in range(1, steps + 1):
        policy = [half.flatten() for half in sequence(table.log_softmax(-1), pairs).chunk(2, 1)]
        if name == HINGE:
            loss = slic_hinge_loss(*policy, chosen_lengths=lengths, rejected_lengths=lengths, reduction="sum")
        elif name == IPO:
            loss = ipo_loss(*policy, *ref, tau=0.05, reduction="sum")
        else:
            loss = dpo_loss(*policy, *ref, beta=float(name.rpartition("=")[2]), reduction="sum")
        optimiser.zero_grad()
        (loss / PAIRS).backward()  # the mean over pairs of each seed, whose policies have nothing in common
        optimiser.step()
        if step % EVERY == 0:
            found.append(evaluate(world, table))
    columns = (np.array(column) for column in zip(*found, strict=True))
    return Course(list(range(0, steps + 1, EVERY)), *columns)


def places(texts: Tensor) -> Tensor:
    """Where the transitions of texts [S, N, T + 1] stand in a table laid flat: [S, N, T]."""
    return VOCABULARY * texts[..., :-1] + texts[..., 1:]


def sequence(log_probs: Tensor, where: Tensor) -> Tensor:
    """Log-probability [S, N] of the texts whose transitions are ``where``, summed over their tokens."""
    return log_probs.flatten(1).gather(1, where.flatten(1)).view(where.shape).sum(-1)


@torch.no_grad()
def evaluate(world: World, table: Tensor) -> tuple[list[float], ...]:
    """Reward, margin, log-likelihood, top-10 entropy and mass of each seed's policy."""
    log_probs = table.log_softmax(-1)
    probs = log_probs.exp()
    value, entropy, mass = (
        (probs * world.reward).sum(-1),
        torch.as_tensor(top_k_entropy(TOP, logits=table, base=2)),
        torch.as_tensor(top_k_mass(TOP, logits=table)),
    )
    at = torch.full((len(table), VOCABULARY), 1 / VOCABULARY)  # where the policy is, prompts being uniform
    totals = torch.zeros(3, len(table))
    for _ in range(LENGTH):
        totals += torch.stack([(at * one).sum(-1) for one in (value, entropy, mass)])
        at = torch.einsum("sv,svw->sw", at, probs)
    ratios = log_probs - world.reference
    margin = (sequence(ratios, places(world.chosen)) - sequence(ratios, places(world.rejected))).mean(-1) / LENGTH
    logps = sequence(log_probs, places(world.held_chosen)).mean(-1) / LENGTH
    columns = (totals[0], margin, logps, totals[1] / LENGTH, totals[2] / LENGTH)
    return tuple(column.double().tolist() for column in columns)


class Stop(NamedTuple):
    """Where the detector stopped one seed's run: the evaluation it fired at (the last if never), and goes back to."""

    fired: bool
    at: int
    back: int


def stops(course: Course) -> list[Stop]:
    """The detector with its default thresholds on each seed."""
    found: list[Stop] = []
    for seed in range(course.reward.shape[1]):
        monitor = OverOptimisationMonitor(every=EVERY)
        for place, step in enumerate(course.steps):
            monitor.update(
                step,
                topk_entropy=course.entropy[place, seed],
                topk_mass=course.mass[place, seed],
                logps_chosen=course.logps[place, seed],
            )
            if monitor.signals:
                found.append(Stop(True, place, course.steps.index(monitor.signals[0].restore_step)))
                break
        else:
            found.append(Stop(False, len(course.steps) - 1, len(course.steps) - 1))
    return found


def judge(courses: dict[str, Course]) -> list[Row]:
    """The table, from the courses of all methods."""
    loose, hinge = courses[LOOSE], courses[HINGE]
    early = loose.steps.index(EARLY)
    seeds = np.arange(loose.reward.shape[1])
    stopped = stops(loose)
    at, back = (np.array([getattr(stop, name) for stop in stopped]) for name in ("at", "back"))
    unit, bits = "reward/text", "bits/token"
    dpo = [course for name, course in courses.items() if name.startswith("DPO")]
    fits = [inverted_u(dpo, seed) for seed in seeds]
    rows = [
        above(f"{LOOSE}: reward at step {EARLY} less at the end", "falls after a peak",
              loose.reward[early] - loose.reward[-1], unit),
        above(f"{LOOSE}: margin at the end less at step {EARLY}", "still grows",
              loose.margin[-1] - loose.margin[early], "nats/token"),
        above(f"{LOOSE}: log-likelihood of held-out chosen texts, first less last", "falls",
              loose.logps[0] - loose.logps[-1], "nats/token"),
        above(f"{LOOSE}: top-10 entropy at step {EARLY} less at the end", "falls as it over-optimises",
              loose.entropy[early] - loose.entropy[-1], bits),
        above(f"{LOOSE}: largest later top-10 entropy less the first", "rises before it falls",
              loose.entropy[1:].max(0) - loose.entropy[0], bits),
        above(f"{LOOSE}: top-10 entropy and reward after the reward's peak go together", "they fall together",
              [_after_peak(loose, seed) for seed in seeds], "(rank correlation)"),
        above(f"{LOOSE}: reward where the detector stops less at the end", "stopping keeps reward",
              loose.reward[at, seeds] - loose.reward[-1], unit),
        above(f"{HINGE}: top-10 mass, first less last", "mass leaks out of the top 10",
              hinge.mass[0] - hinge.mass[-1], "(share)"),
        above("DPO, all β and steps: curvature of reward over log-likelihood, turned round", "an inverted U",
              [-fit[0] for fit in fits], "reward per (nats/token)²"),
        shown("DPO, all β and steps: RMSE that a parabola takes off a line's", "24.42% (7B), 25.78% (35B)",
              [100 * fit[1] for fit in fits], "%"),
        shown(f"{LOOSE}: reward where the detector goes back to less at the end", "",
              loose.reward[back, seeds] - loose.reward[-1], unit),
        shown(f"{LOOSE}: reward at its peak less where the detector stops", "",
              loose.reward.max(0) - loose.reward[at, seeds], unit),
        shown(f"{LOOSE}: step of the reward's peak", "", [loose.steps[i] for i in loose.reward.argmax(0)], "steps"),
        shown(f"{LOOSE}: step where the detector stops", "", [loose.steps[i] for i in at], "steps"),
        shown(f"{HINGE}: top-10 entropy, last less first", "keeps rising", hinge.entropy[-1] - hinge.entropy[0], bits),
    ]  # fmt: skip
    for name in (LOOSE, TIGHT, IPO, HINGE):
        course = courses[name]
        rows.append(
            shown(f"{name}: reward at its peak less at the end", "", course.reward.max(0) - course.reward[-1], unit)
        )
        fired = [float(stop.fired) for stop in stops(course)]
        rows.append(shown(f"{name}: runs that the detector stops", "", fired, "(share)"))
    return rows


def _after_peak(course: Course, seed: int) -> float:
    start = min(int(course.reward[:, seed].argmax()), len(course.steps) - 3)
    return rank_correlation(course.entropy[start:, seed], course.reward[start:, seed])


def inverted_u(courses: Sequence[Course], seed: int) -> tuple[float, float]:
    """Curvature of the parabola of reward over log-likelihood, and the share of a line's RMSE that it takes off."""
    x = np.concatenate([course.logps[:, seed] for course in courses])
    y = np.concatenate([course.reward[:, seed] for course in courses])
    line, parabola = (np.polyfit(x, y, degree) for degree in (1, 2))
    errors = [float(np.sqrt(np.mean((np.polyval(fit, x) - y) ** 2))) for fit in (line, parabola)]
    return float(parabola[0]), 1 - errors[1] / errors[0]


def draw(courses: dict[str, Course]) -> Figure:
    """Reward, margin, likelihood, top-10 entropy and mass along the training, and reward over likelihood."""
    loose = courses[LOOSE]
    early = loose.steps.index(EARLY)
    growth = float((loose.margin[-1] - loose.margin[early]).mean())
    fall = float((loose.reward[early] - loose.reward[-1]).mean())
    title = f"{LOOSE}: from step {EARLY} on the margin gains {growth:.1f} nats a token and the reward loses {fall:.1f}"
    mark = float(np.mean([loose.steps[stop.at] for stop in stops(loose)]))
    panels = (
        ("reward", "true reward (per text)"),
        ("margin", "margin (nats/token)"),
        ("logps", "log-likelihood of chosen (nats/token)"),
        ("entropy", "top-10 entropy (bits/token)"),
        ("mass", "top-10 mass (share)"),
    )
    with figure(2, 3, title=title, width=18, height=10) as (fig, axes):
        for axis, (field, label) in zip(axes, panels, strict=False):
            for name, color, marker in zip((LOOSE, TIGHT, IPO, HINGE), PALETTE, MARKERS, strict=False):
                course = courses[name]
                spans = [interval(values) for values in getattr(course, field)]
                means = np.array([span.mean for span in spans])
                axis.plot(course.steps, means, color=color, marker=marker, markevery=4, label=name)
                low, high = [span.low for span in spans], [span.high for span in spans]
                axis.fill_between(course.steps, low, high, color=color, alpha=0.2, linewidth=0)
            axis.axvline(mark, color=BLACK, linestyle=":", marker="", label=f"detector stops {LOOSE}")
            axis.set(xlabel="step (number)", ylabel=label)
        axes[0].legend(fontsize=10)
        last = axes[5]
        for (name, course), color, marker in zip(courses.items(), PALETTE, MARKERS, strict=False):
            if name.startswith("DPO"):
                last.plot(course.logps.mean(1), course.reward.mean(1), marker, color=color, markersize=5, label=name)
        last.set(xlabel="log-likelihood of chosen (nats/token)", ylabel="true reward (per text)")
        last.legend(fontsize=10)
    return fig
