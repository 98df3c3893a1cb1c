"""The entropy mechanism of RL: entropy spent early, and two losses that hold it, on a bandit with a decoy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hartley.papers.decoy_bandit import ACTIONS, CONTEXTS, RATE, SAMPLES, UPDATES, Curve, Loss, learn, of_tokens
from hartley.papers.figures import MARKERS, PALETTE, figure
from hartley.papers.intervals import above, interval, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.training.rl import EntropyPerformanceLaw, clip_cov_loss, kl_cov_loss, ppo_loss, token_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 100
SCALES = {"tiny": (2, 5), "small": (4, 150)}  # bandits, rollouts
FITTED = 0.18  # of the rollouts, those that the law is fitted to: 36 of 200 in the paper
EARLY = 0.08  # of the rollouts: 200 of 2,400 updates in the paper
BONUS = 0.1
LIMIT = 0.02  # of the reward, for the law's error on what it did not see

GRPO, HIGHER, PLAIN, FLAT = "GRPO", "GRPO, clip-higher", "no ratio clip", f"GRPO + {BONUS} entropy"
CLIP, KL = "Clip-Cov", "KL-Cov"

PAPER = Paper(
    slug="entropy-mechanism-rl",
    title="The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    authors="Ganqu Cui, Yuchen Zhang, Jiacheng Chen, Lifan Yuan and others",
    year=2025,
    arxiv="2505.22617",
    claim="GRPO spends most of its entropy early, and its reward follows -a exp(H) + b; Clip-Cov and KL-Cov end with "
    "more entropy and a higher reward, which a flat entropy bonus does not reach.",
    where=("hartley.training.rl.clip_cov_loss", "hartley.training.rl.kl_cov_loss",
           "hartley.training.rl.EntropyPerformanceLaw", "hartley.training.plugins.trl.EntropyGRPOTrainer"),
)  # fmt: skip


def ways(seed: int) -> dict[str, Loss]:
    """The losses that are compared. A bandit has few tokens, so far larger shares than the paper's are touched."""

    def with_bonus(log_prob, old, advantages, logits):  # pyright: ignore
        return of_tokens(ppo_loss)(log_prob, old, advantages, logits) - BONUS * token_entropy(logits).mean()

    draws = torch.Generator().manual_seed(seed)
    return {
        GRPO: of_tokens(ppo_loss),
        HIGHER: of_tokens(ppo_loss, epsilon_high=0.28),
        PLAIN: of_tokens(kl_cov_loss, ratio=0.0),
        FLAT: with_bonus,
        CLIP: of_tokens(clip_cov_loss, ratio=0.5, cov_low=0.3, cov_high=50.0, generator=draws),
        KL: of_tokens(kl_cov_loss, ratio=0.2, beta=3.0),
    }


def reproduce(scale: Scale) -> Evidence:
    """Train a tabular policy on a bandit whose likeliest action is a decoy, with each loss, from the same draws.

    128 contexts of 32 actions: one pays 0.6 and begins at probability 0.5, a hidden one pays 1 and begins at 0.006.
    8 samples a context, 8 updates a rollout. No language model is trained; coefficients are chosen for this size, and
    the row without a ratio clip shows how much of KL-Cov's effect is that it drops the clip. The law is fitted to the
    first 18% of the rollouts of GRPO. Judged rows hold if Student's 95% interval over the bandits does.
    """
    count, rollouts = SCALES[scale]
    seeds = list(range(SEED, SEED + count))
    with one_thread():
        runs = {name: [learn(ways(seed)[name], rollouts, seed) for seed in seeds] for name in ways(0)}
    rows = judge(runs)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(runs),
        seeds=seeds,
        settings={
            "bandits": count, "rollouts": rollouts, "contexts": CONTEXTS, "actions": ACTIONS, "samples": SAMPLES,
            "updates": UPDATES, "rate": RATE,
        },
    )  # fmt: skip


def fitted(curve: Curve) -> EntropyPerformanceLaw:
    """The law of the first rollouts of a run."""
    first = max(3, round(FITTED * len(curve.entropy)))
    return EntropyPerformanceLaw(n_bootstrap=200).fit(curve.entropy[:first], curve.reward[:first])


def unseen_error(curve: Curve) -> float:
    """Root mean square error of that law on the rollouts after them."""
    first = max(3, round(FITTED * len(curve.entropy)))
    missed = fitted(curve).predict(curve.entropy[first:]) - curve.reward[first:]
    return float(np.sqrt(np.mean(missed**2)))


def spent_early(curve: Curve) -> float:
    """Of the entropy that a run loses, the share lost in its first rollouts."""
    h = curve.entropy
    early = max(1, round(EARLY * (len(h) - 1)))
    return float((h[0] - h[early]) / (h[0] - h[-1]))


def concentration(curve: Curve) -> float:
    """Mean covariance of the top 2% of the tokens, over the mean size of all."""
    c = np.sort(curve.covariances)[::-1]
    return float(c[: max(1, len(c) // 50)].mean() / np.abs(c).mean())


def judge(runs: dict[str, list[Curve]]) -> list[Row]:
    """The table, from the runs of each loss."""
    entropy = {name: np.array([run.entropy[-1] for run in found]) for name, found in runs.items()}
    reward = {name: np.array([run.reward[-1] for run in found]) for name, found in runs.items()}
    early = np.array([spent_early(run) for run in runs[GRPO]])
    rows = [
        above("GRPO: share of its entropy spent in the first 8% of updates, less one half", "73% are spent",
              early - 0.5, "(share)"),
        within("GRPO: error of the law on rollouts it was not fitted to", "0.009 (maths), 0.012 (code)",
               [unseen_error(run) for run in runs[GRPO]], "(reward)", LIMIT),
        above("GRPO: covariance of the top 2% of tokens over the mean size, less 3",
              "1.385 against a mean of 0.003", np.array([concentration(run) for run in runs[GRPO]]) - 3, "(ratio)"),
        above("entropy at the end: Clip-Cov less GRPO", "more", entropy[CLIP] - entropy[GRPO], "nats"),
        above("entropy at the end: KL-Cov less GRPO", "over 10 times as much", entropy[KL] - entropy[GRPO], "nats"),
        above("reward: Clip-Cov less GRPO", "+1.8 points (7B), +4.5 (32B)", reward[CLIP] - reward[GRPO], "(reward)"),
        above("reward: KL-Cov less GRPO", "+2.0 points (7B), +6.4 (32B)", reward[KL] - reward[GRPO], "(reward)"),
        above("reward: KL-Cov less the same without its penalty", "not measured there", reward[KL] - reward[PLAIN],
              "(reward)"),
        above("reward: KL-Cov less GRPO with a flat entropy bonus", "a flat bonus gains nothing",
              reward[KL] - reward[FLAT], "(reward)"),
    ]  # fmt: skip
    for name in runs:
        rows.append(shown(f"{name}: entropy at the end", "", entropy[name], "nats"))
        rows.append(shown(f"{name}: reward at the end", "", reward[name], "(reward)"))
    ceilings = [fitted(run).ceiling_ for run in runs[GRPO]]
    return [*rows, shown("GRPO: ceiling that the law foretells", "", ceilings, "(reward)")]


def draw(runs: dict[str, list[Curve]]) -> Figure:
    """Entropy and reward against rollouts, and reward against exp(entropy) with the law."""

    def mean(found: Sequence[Curve], name: str) -> np.ndarray:
        return np.mean([getattr(run, name) for run in found], axis=0)

    ends = {name: interval([run.reward[-1] for run in found]).mean for name, found in runs.items()}
    others = max(value for name, value in ends.items() if name != KL)
    found = "Only KL-Cov finds" if ends[KL] > others + 0.05 else "KL-Cov does not find"
    title = (
        f"{found} the hidden action often: reward {ends[KL]:.2f}, without its penalty {ends[PLAIN]:.2f}, "
        f"Clip-Cov {ends[CLIP]:.2f}, GRPO {ends[GRPO]:.2f}"
    )
    with figure(1, 3, title=title, width=20, height=6) as (fig, [entropies, rewards, law]):
        for (name, found), color, marker in zip(runs.items(), PALETTE, MARKERS, strict=False):
            h, r = mean(found, "entropy"), mean(found, "reward")
            style = {"color": color, "marker": marker, "markevery": max(1, len(h) // 8), "label": name}
            entropies.semilogy(h, **style)
            rewards.plot(r, **style)
            law.plot(np.exp(h), r, **style)
        x = np.linspace(1, np.exp(runs[GRPO][0].entropy[0]), 50)
        law.plot(x, fitted(runs[GRPO][0]).predict(np.log(x)), "k:", marker="", label="law, first 18% of GRPO")
        entropies.set(xlabel="rollout (8 updates each)", ylabel="policy entropy (nats)")
        rewards.set(xlabel="rollout (8 updates each)", ylabel="expected reward (1 = best)")
        law.set(xlabel="exp(entropy) (effective actions)", ylabel="expected reward (1 = best)")
        rewards.legend()
        law.legend(handles=law.lines[-1:])
    return fig
