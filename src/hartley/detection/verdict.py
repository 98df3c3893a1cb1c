"""From the scores of a text to a verdict: what was measured, how strong it is, and whether it can mean anything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from hartley.detection.calibration import Calibration
from hartley.detection.scores import LAMBDAS, Scores
from hartley.detection.wealth import SIDES, Totals
from hartley.info.checks import check_one_of
from hartley.info.plain import plain

Method = Literal["evalue", "calibrated", "zscore"]
Alternative = Literal["two-sided", "greater", "less"]
METHODS = ("evalue", "calibrated", "zscore")

REACH = 1.0  # nats a token: a text whose perplexity had to be 2.7 times the expected one to be rejected is too short
STILL = 1.0  # nats^2: with less variance in all, T hardly moves whoever wrote the text
STILLEST = 1e-9  # nats^2 a token: less is the rounding of a model that is equally unsure of every token


@dataclass(frozen=True)
class Detection:
    """Whether a text is one that the model would have written.

    ``decision`` is "rejected", "not rejected" or "undecidable"; ``reason`` says why for the last. Rejecting "the model
    wrote it" is no evidence that a person did; not rejecting is no evidence that the model did.

    ``p_values`` has one for every alternative, by the chosen method:

    - **evalue**: 1 over the largest E-value along the text. If the text was drawn from the distributions that were
      scored, a p-value of alpha or less comes up with probability at most alpha: exactly, for any model, at any length,
      and also if the text is watched while it grows and stopped at will.
    - **calibrated**: the rank among the texts of a calibration; at most alpha with probability at most alpha for texts
      exchangeable with those.
    - **zscore**: the normal approximation, which long texts approach; nothing is guaranteed.

    A p-value of one alternative has its guarantee if that alternative was chosen before looking. ``log_e_value`` is
    that of the whole text: E-values have mean 1 and may be averaged, or multiplied over independent texts.
    """

    decision: Literal["rejected", "not rejected", "undecidable"]
    reason: str
    statistic: float  #: T, log-perplexity less mean entropy, nats a token; NaN without tokens
    log_perplexity: float  #: mean surprisal, nats a token
    mean_entropy: float  #: nats a token
    n_tokens: int  #: tokens that were judged
    total_variance: float  #: of N T if the model wrote the text, nats^2
    impossible: int  #: tokens that the sampler could not have drawn
    sufficient: float  #: a T this far from 0 would surely have been rejected, nats a token; NaN for a calibration
    log_e_value: float  #: ln E at the end of the text
    z_score: float  #: N T in standard deviations; NaN where there is no variance
    p_values: dict[str, float]
    method: Method
    alternative: Alternative
    alpha: float

    @property
    def p_value(self) -> float:
        """The p-value of the chosen alternative."""
        return self.p_values[self.alternative]

    @property
    def e_value(self) -> float:
        """E at the end of the text, inf where it overflows."""
        return math.exp(self.log_e_value) if self.log_e_value < 709 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it: numbers that are not finite become None."""
        content = asdict(self) | {"p_value": self.p_value, "e_value": self.e_value}
        return plain(content)


def decide(
    scores: Scores | Totals,
    *,
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    method: Method = "evalue",
    calibration: Calibration | None = None,
) -> Detection:
    """Return the verdict on the scores of a text; see :class:`Detection` for what each ``method`` guarantees.

    ``alternative`` is "greater" (more surprising than the model's own text, as human text usually is), "less" (more
    predictable, as greedy text is) or "two-sided". A text that was not rejected and had no power to be is undecidable:
    one with too little variance (:func:`needed_variance`), or so short that a sure rejection takes a T of more
    than 1 nat a token.

    Raises ``ValueError`` for an unknown method or alternative, ``alpha`` outside (0, 1), and a calibration that is
    missing for its method or given to another.

    >>> import torch
    >>> from hartley.detection import score_from_logits
    >>> print(decide(score_from_logits(torch.zeros(300, 50), torch.arange(300) % 50)).reason.split(": ")[1])
    the model is sure, or equally unsure, of every token
    """
    check_one_of("alternative", alternative, tuple(SIDES))
    check_one_of("method", method, METHODS)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1); got {alpha!r}")
    if (calibration is not None) != (method == "calibrated"):
        raise ValueError(
            f"calibration must be given with method='calibrated' and with no other; got method={method!r} and "
            f"calibration={'None' if calibration is None else 'one of ' + calibration.model}"
        )
    if isinstance(scores, Scores):
        totals = Totals()
        totals.add(scores)
    else:
        totals = scores
    count = totals.n_tokens
    statistic = (totals.surprisal - totals.entropy) / count if count else math.nan
    z = _z_score(totals)
    p_values = {side: _p_value(side, method, totals, statistic, z, calibration) for side in SIDES}
    unable = _unable(totals, alternative, alpha, method, calibration)
    rejected = p_values[alternative] <= alpha and (method == "evalue" or not unable)
    return Detection(
        "rejected" if rejected else "undecidable" if unable else "not rejected",
        "" if rejected else unable,
        statistic,
        totals.surprisal / count if count else math.nan,
        totals.entropy / count if count else math.nan,
        count,
        totals.variance,
        totals.impossible,
        _sufficient(totals, alternative, alpha, method),
        totals.log_e_value(alternative),
        z,
        p_values,
        method,
        alternative,
        alpha,
    )


def needed_variance(method: Method, alternative: Alternative, alpha: float) -> float:
    """Variance of N T, nats^2, that a text needs for a verdict of "not rejected" to mean anything.

    The E-value rejects a surprisal off by x nats in all where lambda x - lambda^2 variance / 2 reaches ln(K / alpha),
    K bets. The best lambda is sqrt(2 ln(K / alpha) / variance). With less variance than makes it the largest of the
    grid, only deviations far beyond the text's own spread could be seen. The z-score is held to the same, since a
    normal approximation needs as much; a calibration only needs T to move at all.

    >>> round(needed_variance("evalue", "two-sided", 0.05), 1)  # 16 tokens of a language model, at 4 nats^2 each
    66.2
    """
    if method == "calibrated":
        return STILL
    bets = len(LAMBDAS[SIDES[alternative]])
    return 2 * math.log(bets / alpha) / max(LAMBDAS) ** 2


def _sufficient(totals: Totals, alternative: Alternative, alpha: float, method: Method) -> float:
    if method == "calibrated":
        return math.nan
    if method == "evalue":
        return totals.sufficient(alternative, alpha)
    if not totals.n_tokens:
        return math.inf
    quantile = NormalDist().inv_cdf(1 - alpha / (1 + (alternative == "two-sided")))
    return quantile * math.sqrt(totals.variance) / totals.n_tokens


def _z_score(totals: Totals) -> float:
    deviation = totals.surprisal - totals.entropy
    if totals.variance > STILLEST * totals.n_tokens:
        return deviation / math.sqrt(totals.variance)
    return math.inf if deviation == math.inf else math.nan


def _p_value(
    side: str, method: Method, totals: Totals, statistic: float, z: float, calibration: Calibration | None
) -> float:
    if method == "evalue":
        return math.exp(-totals.peaks[side])
    if calibration is not None:
        return calibration.p_value(statistic, side)
    if math.isnan(z):
        return 1.0
    if totals.impossible:
        return 0.0
    return math.erfc({"greater": z, "less": -z, "two-sided": abs(z)}[side] / math.sqrt(2)) / (2 - (side == "two-sided"))


def _unable(
    totals: Totals, alternative: Alternative, alpha: float, method: Method, calibration: Calibration | None
) -> str:
    """Why the text cannot be judged, empty if it can."""
    if not totals.n_tokens:
        return "the text has no token with a prediction: the first one has none"
    if method == "zscore" and totals.impossible:
        return ""
    needed = needed_variance(method, alternative, alpha)
    if totals.variance < needed:
        had = f"the text has a variance of {totals.variance:.3g} nats² in all, and the test needs {needed:.0f} to see a"
        if totals.variance < 0.1 * totals.n_tokens:
            return f"{had} deviation: the model is sure, or equally unsure, of every token"
        return f"{had} deviation: {totals.n_tokens} tokens are too few"
    if calibration is None:
        if (reach := _sufficient(totals, alternative, alpha, method)) > REACH:
            return f"{totals.n_tokens} tokens are too few: a sure rejection takes a T of {reach:.2f} nats a token"
        return ""
    if calibration.smallest_p_value(alternative) > alpha:
        return (
            f"the calibration has {len(calibration.statistics)} texts, and a rejection at {alpha:g} needs at least "
            f"{math.ceil((2 if alternative == 'two-sided' else 1) / alpha) - 1}"
        )
    low, high = min(calibration.lengths), max(calibration.lengths)
    if not low <= totals.n_tokens <= high:
        return f"the text has {totals.n_tokens} tokens, and those of the calibration {low} to {high}"
    return ""
