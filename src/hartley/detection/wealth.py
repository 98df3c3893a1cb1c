"""The E-value: what bets against a model would have won along a text, if each bet is fair under the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hartley.detection.scores import LAMBDAS, Scores

SIDES = {"two-sided": slice(0, 10), "greater": slice(0, 5), "less": slice(5, 10)}
"""The bets of each alternative; "greater" is text more surprising than the model's own, "less" more predictable."""

_LAMBDAS = torch.tensor(LAMBDAS, dtype=torch.float64)


def log_wealth(scores: Scores, alternative: str = "two-sided") -> Tensor:
    """Return ln E after each token, ``[N]``, where E is the mean of E_lambda over the bets of the alternative.

    E_lambda multiplies exp(lambda s_t) / E[exp(lambda s_t) | past] along the text (the entropy H_t of the paper's
    martingale s_t - H_t cancels between numerator and denominator). If the text was drawn from the very distributions
    that were scored, every factor has mean 1 whatever came before, so E has mean 1 at every length and, by Ville's
    inequality, ever reaches 1/delta with probability at most delta. A token outside the support makes E infinite.

    >>> logits = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(2, 3)
    >>> from hartley.detection import score_from_logits
    >>> e = [float(log_wealth(score_from_logits(logits, [0, token])).exp()) for token in range(3)]
    >>> round(0.5 * e[0] + 0.25 * e[1] + 0.25 * e[2], 6)
    1.0
    """
    paths = stakes(scores)[:, SIDES[alternative]].cumsum(0)
    return paths.logsumexp(-1) - math.log(paths.shape[1])


def stakes(scores: Scores) -> Tensor:
    """Logarithm of the factor that each token multiplies each E_lambda by, ``[N, 10]``."""
    impossible = scores.surprisal.isinf()[:, None]
    surprisal = scores.surprisal.masked_fill(impossible[:, 0], 0.0)
    return (_LAMBDAS * surprisal[:, None] - scores.functions).masked_fill(impossible, torch.inf)


@dataclass
class Totals:
    """Running sums of a text, to which scores can be added as they come; all that a verdict needs."""

    n_tokens: int = 0
    surprisal: float = 0.0  # nats
    entropy: float = 0.0  # nats
    variance: float = 0.0  # nats^2
    impossible: int = 0  # tokens outside the support
    paths: Tensor = field(default_factory=lambda: torch.zeros(len(LAMBDAS), dtype=torch.float64))  # ln E_lambda
    peaks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SIDES, 0.0))  # largest ln E so far, E_0 = 1

    def add(self, scores: Scores) -> None:
        """Take in the next tokens of the text."""
        if not scores.n_tokens:
            return
        self.n_tokens += scores.n_tokens
        self.surprisal += float(scores.surprisal.sum())
        self.entropy += float(scores.entropy.sum())
        self.variance += scores.total_variance
        self.impossible += int(scores.surprisal.isinf().sum())
        paths = self.paths + stakes(scores).cumsum(0)
        for side, bets in SIDES.items():
            part = paths[:, bets]
            peak = float(part.logsumexp(-1).max()) - math.log(part.shape[1])
            self.peaks[side] = max(self.peaks[side], peak)
        self.paths = paths[-1]

    def sufficient(self, alternative: str, alpha: float) -> float:
        """How far from 0 a statistic T is enough for a rejection, whatever the course of the text, nats a token.

        In each direction it is where the best single bet, a share of the mean, reaches 1/alpha: (ln(K/alpha) + sum of
        psi(lambda)) / (|lambda| N) with psi the cumulant function of s - H. Two-sided: the larger of the two.
        """
        if not self.n_tokens or self.impossible:
            return 0.0 if self.impossible else math.inf
        functions = _LAMBDAS * (self.surprisal - self.entropy) - self.paths  # sum of psi(lambda)
        bets = SIDES[alternative]
        price = math.log(len(functions[bets]) / alpha)
        each = (price + functions) / (_LAMBDAS.abs() * self.n_tokens)
        sides = ("greater", "less") if alternative == "two-sided" else (alternative,)
        return max(float(each[SIDES[side]].min()) for side in sides)

    def log_e_value(self, alternative: str) -> float:
        """Logarithm of E at the end of what was taken in."""
        part = self.paths[SIDES[alternative]]
        return float(part.logsumexp(-1)) - math.log(len(part))
