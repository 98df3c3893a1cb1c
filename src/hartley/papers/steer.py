"""STEER: how well each estimator foretells a change of entropy, and what weighing by it does on a bandit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hartley.papers.decoy_bandit import RATE, Curve, Loss, learn, of_tokens
from hartley.papers.figures import MARKERS, PALETTE, figure
from hartley.papers.intervals import above, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.training.rl import entropy_change, ppo_loss, steer_loss, token_covariance, token_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 200
SCALES = {"tiny": (2, 200, 5), "small": (4, 4000, 150)}  # seeds, states, rollouts
SIZES = (20, 200)  # tokens of the vocabularies
SPREADS = (1, 2)  # standard deviations of the logits: the estimators' ranks depend on it
STEP = 1e-3
LOOK = 5  # rollouts, where the sheet of the bandit was read
OMEGA, OFFICIAL, EXACT, COVARIANCE = "Omega", "released code", "exact first order", "covariance"
GRPO, MILD, STRONG = "GRPO", "STEER, lambda_min 0.8", "STEER, lambda_min 0.1"

PAPER = Paper(
    slug="steer",
    title="Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective",
    authors="Zhezheng Hao, Hong Wang, Haoyang Liu, Jian Luo, Jiarui Yu, Hande Dong, Qiang Lin, Can Wang, Jiawei Chen",
    year=2025,
    arxiv="2510.10150",
    claim="Omega foretells a token's change of entropy better than the covariance does; weighing tokens down by it "
    "slows the loss of entropy and raises the reward.",
    where=("hartley.training.rl.steer_loss", "hartley.training.rl.entropy_change",
           "hartley.training.plugins.trl.EntropyGRPOTrainer"),
)  # fmt: skip


class Foretold(NamedTuple):
    """The true change of entropy per unit of step in many states, and what each estimator says."""

    true: NDArray[np.float64]
    said: dict[str, NDArray[np.float64]]

    def correlation(self, name: str) -> float:
        """Pearson's, with the truth."""
        return float(np.corrcoef(self.true, self.said[name])[0, 1])

    def error(self, name: str) -> float:
        """Mean square."""
        return float(np.mean((self.true - self.said[name]) ** 2))


def foretell(size: int, spread: float, states: int, seed: int) -> Foretold:
    """Take one step of the full softmax gradient in random states, for one sampled token each with A of +1 or -1."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(states, size, generator=generator, dtype=torch.float64)
    probs = logits.softmax(-1)
    token = torch.multinomial(probs, 1, generator=generator)
    advantages = 2.0 * torch.randint(0, 2, (states,), generator=generator).double() - 1
    log_prob, h = probs.log().gather(-1, token)[:, 0], token_entropy(logits)
    move = (torch.zeros_like(probs).scatter_(-1, token, 1.0) - probs) * advantages[:, None]
    true = (token_entropy(logits + STEP * move) - h) / STEP
    given = (log_prob, log_prob, advantages, h)
    said = {
        OMEGA: -entropy_change(*given),
        OFFICIAL: -entropy_change(*given, estimator="official"),
        COVARIANCE: -token_covariance(log_prob, advantages, torch.ones_like(log_prob)),
        EXACT: -entropy_change(*given, estimator="exact", logits=logits),
    }
    return Foretold(true.numpy(), {name: values.numpy() for name, values in said.items()})


def weighed(lambda_min: float) -> Loss:
    """STEER on the bandit, whose entropy is one a context."""

    def loss(log_prob, old, advantages, logits):  # pyright: ignore
        h = token_entropy(logits.detach())[:, None].expand_as(log_prob)
        return steer_loss(log_prob, old, advantages, h, torch.ones_like(log_prob), lambda_min=lambda_min)[0]

    return loss


def reproduce(scale: Scale) -> Evidence:
    """Foretell the change of entropy in random states, and train on the bandit with a decoy.

    Estimators: one token is sampled in each of 4,000 softmax distributions of 20 or 200 normal logits, whose standard
    deviation is 1 or 2 (how far the estimators differ depends on it); the logits take one step of 0.001 along the
    policy gradient, and each estimate stands against the true change. Training: the bandit of the entropy mechanism's
    page, with clip 0.2 / 0.28. No language model is trained. Judged rows hold if Student's 95% interval over the seeds
    does.
    """
    count, states, rollouts = SCALES[scale]
    seeds = list(range(SEED, SEED + count))
    losses = {GRPO: of_tokens(ppo_loss, epsilon_high=0.28), MILD: weighed(0.8), STRONG: weighed(0.1)}
    with one_thread():
        foretold = {
            f"V={size}, logits of sd {spread}": [foretell(size, spread, states, seed) for seed in seeds]
            for size in SIZES
            for spread in SPREADS
        }
        runs = {name: [learn(loss, rollouts, seed) for seed in seeds] for name, loss in losses.items()}
    rows = judge(foretold, runs)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(foretold, runs),
        seeds=seeds,
        settings={"seeds": count, "states": states, "step": STEP, "rollouts": rollouts, "rate": RATE},
    )


def judge(foretold: dict[str, list[Foretold]], runs: dict[str, list[Curve]]) -> list[Row]:
    """The table, from the estimates by vocabulary and the runs by loss."""
    rows: list[Row] = []
    for states, found in foretold.items():
        r = {name: np.array([f.correlation(name) for f in found]) for name in found[0].said}
        errors = {name: np.array([f.error(name) for f in found]) for name in found[0].said}
        rows += [
            above(f"{states}: correlation with the true change, Omega less covariance", "clearly higher",
                  r[OMEGA] - r[COVARIANCE], "(Pearson)"),
            above(f"{states}: mean square error, covariance less Omega", "lower",
                  errors[COVARIANCE] - errors[OMEGA], "nats²"),
            within(f"{states}: 1 less the correlation of the exact first order", "", 1 - r[EXACT], "(Pearson)", 1e-3),
        ]  # fmt: skip
        rows += [shown(f"{states}: correlation of {name}", "", r[name], "(Pearson)") for name in r]
        rows += [shown(f"{states}: mean square error of {name}", "", errors[name], "nats²") for name in errors]
    early = {name: np.array([run.entropy[LOOK] for run in found]) for name, found in runs.items()}
    reward = {name: np.array([run.reward[-1] for run in found]) for name, found in runs.items()}
    for name in (MILD, STRONG):
        rows += [
            above(f"entropy after {LOOK} rollouts: {name} less GRPO", "entropy is kept", early[name] - early[GRPO],
                  "nats"),
            above(f"reward at the end: {name} less GRPO", "+4.4 points (7B)", reward[name] - reward[GRPO], "(reward)"),
        ]  # fmt: skip
    rows += [shown(f"{name}: entropy after {LOOK} rollouts", "", early[name], "nats") for name in runs]
    return rows + [shown(f"{name}: reward at the end", "", reward[name], "(reward)") for name in runs]


def draw(foretold: dict[str, list[Foretold]], runs: dict[str, list[Curve]]) -> Figure:
    """Foretold against true changes for 20 tokens, and entropy and reward of the bandit."""
    one = next(iter(foretold.values()))[0]
    ends = {name: float(np.mean([run.reward[-1] for run in found])) for name, found in runs.items()}
    escapes = "escapes" if max(ends[MILD], ends[STRONG]) > ends[GRPO] + 0.05 else "does not escape"
    title = (
        f"Omega foretells the change of entropy (r = {one.correlation(OMEGA):.2f}, covariance "
        f"{one.correlation(COVARIANCE):.2f}); weighing by it slows the loss, and {escapes} the decoy"
    )
    with figure(1, 3, title=title, width=20, height=6) as (fig, [estimates, entropies, rewards]):
        some = slice(0, 300)
        for name, color, marker in zip((COVARIANCE, OFFICIAL, OMEGA), PALETTE, MARKERS, strict=False):
            estimates.plot(
                one.true[some], one.said[name][some], marker, color=color, markersize=4, alpha=0.6,
                label=f"{name}, r = {one.correlation(name):.2f}",
            )  # fmt: skip
        reach = np.abs(one.true[some]).max()
        estimates.plot([-reach, reach], [-reach, reach], "k:", marker="", linewidth=1)
        estimates.set(xlabel="true change of entropy (nats / step)", ylabel="foretold (nats / step)", ylim=(-3, 3))
        estimates.legend()
        for (name, found), color, marker in zip(runs.items(), PALETTE, MARKERS, strict=False):
            for axis, field in ((entropies, "entropy"), (rewards, "reward")):
                curve = np.mean([getattr(run, field) for run in found], axis=0)
                axis.plot(
                    curve[: len(curve)], color=color, marker=marker, markevery=max(1, len(curve) // 8), label=name
                )
        entropies.set(xlabel="rollout (8 updates each)", ylabel="policy entropy (nats)", yscale="log")
        rewards.set(xlabel="rollout (8 updates each)", ylabel="expected reward (1 = best)")
        entropies.legend()
    return fig
