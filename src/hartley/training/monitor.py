"""Watching a run: is it over-optimised, has its entropy collapsed, and how far can its score still go?

The indicators of over-optimisation are of the k likeliest tokens at every position of some held-out answers: their
entropy, renormalised (bits, as the paper has it), and the probability mass they hold. DPO and IPO that go too far make
the entropy fall while the chosen answers get less likely; a hinge that goes too far lets mass leak out of the top k.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hartley.info import logits_statistics
from hartley.info.checks import check_count, check_fraction, check_non_negative

DECAY = 0.9  # of the moving averages that the detector compares
FEWEST = 8  # steps that a law is fitted to
ERRORS = 2.0  # standard errors that a fall of the entropy must clear


class Reading(NamedTuple):
    """Top-k entropy (bits) and mass of some answers: means over tokens with their errors, and means over answers.

    One standard error, of a mean over tokens whose answers are drawn independently; NaN for fewer than two answers.
    """

    entropy: float
    entropy_error: float
    mass: float
    mass_error: float
    sequence_entropy: float
    sequence_mass: float
    tokens: int
    sequences: int


class Signal(NamedTuple):
    """Over-optimisation seen: which signal, at which evaluation, how far below its best, and where to go back to."""

    name: str  # "entropy" or "mass"
    step: int
    drop: float  # bits for the entropy, a share for the mass
    restore_step: int


class Forecast(NamedTuple):
    """What the law makes of a run so far: the score at an entropy of 0, with a 95% interval, and the fit."""

    ceiling: float
    low: float
    high: float
    a: float
    b: float


def top_k_sums(logits: Tensor, mask: Tensor | None = None, *, k: int = 10, renormalise: bool = True) -> Tensor:
    """Return for each answer its tokens, and the sums over them of top-``k`` entropy (bits) and top-``k`` mass.

    Shapes: ``logits`` [B, T, V] of any floating dtype (float32 inside), ``mask`` [B, T] (bool or 0/1) of the tokens
    that count, all where it is None. Returns [B, 3] in float64; concatenate those of several batches for `read_sums`.
    ``renormalise``: divide the ``k`` probabilities by their mass before the entropy (at most log2 ``k``), else not.
    A ``k`` above V is V. Raises ``ValueError`` for a mask of another shape, NaN or +inf.

    >>> top_k_sums(torch.zeros(1, 2, 100), k=10)  # uniform: a mass of 10/100, and log2 10 = 3.3219 bits a token
    tensor([[2.0000, 6.6439, 0.2000]], dtype=torch.float64)

    Source: Shi et al. 2024, "Understanding Likelihood Over-optimisation", section 5.
    """
    check_count("k", k)
    if logits.ndim != 3:
        raise ValueError(f"logits must be [B, T, V]; got shape {tuple(logits.shape)}")
    if mask is not None and mask.shape != logits.shape[:2]:
        raise ValueError(f"mask must have shape {tuple(logits.shape[:2])}, as the logits; got {tuple(mask.shape)}")
    counted = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device) if mask is None else mask.bool()
    with torch.no_grad():
        found = logits_statistics(logits, top_k=min(k, logits.shape[-1]), mask=counted)
        assert found.top_k_mass is not None  # top_k was asked for
        assert found.top_k_entropy is not None
        mass, entropy = found.top_k_mass.double(), found.top_k_entropy.double() / math.log(2)
        if not renormalise:
            entropy = mass * entropy - torch.xlogy(mass, mass) / math.log(2)
        parts = [counted.double(), entropy.masked_fill(~counted, 0.0), mass.masked_fill(~counted, 0.0)]
    return torch.stack([part.sum(-1) for part in parts], -1)


def read_sums(sums: Tensor) -> Reading:
    """Return the means of `top_k_sums` [B, 3] with their errors; answers without tokens do not count.

    Without any token all is NaN, and `OverOptimisationMonitor.update` passes it by.

    >>> round(read_sums(top_k_sums(torch.zeros(3, 2, 100), k=10)).mass, 4)
    0.1
    """
    sums = sums[sums[:, 0] > 0].double().cpu()
    tokens, size = sums[:, 0], len(sums)
    if not size:
        nothing = math.nan
        return Reading(nothing, nothing, nothing, nothing, nothing, nothing, 0, 0)
    means, errors, by_sequence = [], [], []
    for total in (sums[:, 1], sums[:, 2]):
        mean = float(total.sum() / tokens.sum())
        apart = total - mean * tokens  # a ratio of two sums over independent answers
        spread = math.sqrt(float((apart**2).sum()) * size / (size - 1)) if size > 1 else math.nan
        means.append(mean)
        errors.append(spread / float(tokens.sum()))
        by_sequence.append(float((total / tokens).mean()))
    return Reading(
        means[0], errors[0], means[1], errors[1], by_sequence[0], by_sequence[1], int(tokens.sum()), size
    )  # fmt: skip


def expectation_adjusted_distinct(
    sequences: Sequence[Sequence[int]], vocab_size: int, orders: Sequence[int] = (1, 2, 3, 4, 5)
) -> float:
    """Return the expectation-adjusted share of distinct n-grams (EAD), averaged over ``orders``; about 0 to 1.

    For each n it is N / (V [1 - ((V - 1) / V)^C]): N distinct among C n-grams of all ``sequences`` (tokens), over the
    number expected if each were one of V at random. V is ``vocab_size`` for every n, as the EAD paper has it. An order
    longer than every sequence is left out; NaN if all are.

    >>> round(expectation_adjusted_distinct([[1, 2, 3], [1, 2, 3]], 1000, orders=(1,)), 4)  # 3 distinct of 6
    0.5013

    Source: Liu et al. 2022, "Rethinking and Refining the Distinct Metric"; in Shi et al. 2024, section 4.
    """
    check_count("vocab_size", vocab_size)
    shares: list[float] = []
    for n in orders:
        check_count("orders", n)
        grams = Counter(tuple(sequence[i : i + n]) for sequence in sequences for i in range(len(sequence) - n + 1))
        if total := grams.total():
            expected = -vocab_size * math.expm1(total * math.log1p(-1 / vocab_size)) if vocab_size > 1 else 1.0
            shares.append(len(grams) / expected)
    return math.fsum(shares) / len(shares) if shares else math.nan


class OverOptimisationMonitor:
    """Says when preference training has gone too far, from the indicators of some held-out prompts.

    Both signals compare a moving average (0.9 of the last one, started at the first value) with its own maximum, and
    must last for ``patience`` evaluations in a row. **entropy**: the top-``k`` entropy is more than ``delta_h`` bits
    (and two standard errors of the evaluation's mean) below it, while the chosen answers are less likely than at the
    first evaluation. **mass**: the top-``k`` mass is more than ``delta_m`` below it. Each fires once. ``every`` is the
    number of steps between evaluations, for whoever calls (`due`). The thresholds are ours: the paper gives none.
    Raises ``ValueError`` for settings out of range.

    >>> monitor = OverOptimisationMonitor(patience=1)
    >>> for step, entropy in enumerate([2.0, 2.2, 2.0, 1.5, 1.0, 0.5]):
    ...     for signal in monitor.update(50 * step, topk_entropy=entropy, topk_mass=0.9, logps_chosen=-1.0 - step):
    ...         print(signal.name, signal.step, signal.restore_step)
    entropy 150 50

    Source: indicators from Shi et al. 2024, section 5; the detector is Hartley's.
    """

    def __init__(
        self, k: int = 10, every: int = 50, delta_h: float = 0.05, delta_m: float = 0.02, patience: int = 3
    ) -> None:
        for name, count in (("k", k), ("every", every), ("patience", patience)):
            check_count(name, count)
        check_non_negative("delta_h", delta_h)
        check_non_negative("delta_m", delta_m)
        self.k, self.every, self.delta_h, self.delta_m, self.patience = k, every, delta_h, delta_m, patience
        self.steps: list[int] = []
        self.signals: list[Signal] = []
        self.first_logps: float | None = None
        self.logps: float | None = None
        self.entropy = _Peak()
        self.mass = _Peak()

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after this step."""
        return step % self.every == 0

    @property
    def fired(self) -> bool:
        """Whether any signal has fired."""
        return bool(self.signals)

    @property
    def restore_step(self) -> int | None:
        """The evaluation to go back to: the maximum of what fired first; None while nothing has."""
        return self.signals[0].restore_step if self.signals else None

    @property
    def likelihood_drift(self) -> float:
        """Change of the chosen answers' mean log-probability since the first evaluation, nats a token; 0 at first."""
        return 0.0 if self.first_logps is None or self.logps is None else self.logps - self.first_logps

    def update(
        self, step: int, *, topk_entropy: float, topk_mass: float, logps_chosen: float, entropy_error: float = 0.0
    ) -> list[Signal]:
        """Take one evaluation and return the signals that it makes fire.

        ``topk_entropy`` is in bits, ``logps_chosen`` the mean log-probability of the chosen answers in nats a token,
        ``entropy_error`` one standard error of the first (NaN, where there is none, counts as 0). An evaluation with a
        NaN or an infinity is passed by. Raises ``ValueError`` for a ``step`` that is not after the last one.
        """
        if self.steps and step <= self.steps[-1]:
            raise ValueError(f"step must be after the last one, {self.steps[-1]}; got {step}")
        if not all(map(math.isfinite, (topk_entropy, topk_mass, logps_chosen))):
            return []
        self.steps.append(step)
        self.logps = logps_chosen
        self.first_logps = logps_chosen if self.first_logps is None else self.first_logps
        self.entropy.push(step, topk_entropy)
        self.mass.push(step, topk_mass)
        error = entropy_error if math.isfinite(entropy_error) else 0.0
        fell = self.entropy.drop > max(self.delta_h, ERRORS * error) and logps_chosen < self.first_logps
        found: list[Signal] = []
        for name, peak, low in (("entropy", self.entropy, fell), ("mass", self.mass, self.mass.drop > self.delta_m)):
            peak.low = peak.low + 1 if low else 0
            if peak.low >= self.patience and name not in [signal.name for signal in self.signals]:
                found.append(Signal(name, step, peak.drop, peak.best_step))
                self.signals.append(found[-1])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything but the settings, as numbers, lists and dictionaries."""
        return {
            "steps": list(self.steps),
            "signals": [list(signal) for signal in self.signals],
            "first_logps": self.first_logps,
            "logps": self.logps,
            "entropy": vars(self.entropy).copy(),
            "mass": vars(self.mass).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps = list(state["steps"])
        self.signals = [Signal(*signal) for signal in state["signals"]]
        self.first_logps, self.logps = state["first_logps"], state["logps"]
        vars(self.entropy).update(state["entropy"])
        vars(self.mass).update(state["mass"])


class _Peak:
    """A moving average and its maximum."""

    def __init__(self) -> None:
        self.average = self.best = -math.inf
        self.best_step = 0
        self.low = 0  # evaluations in a row that were too low

    def push(self, step: int, value: float) -> None:
        first = self.average == -math.inf
        self.average = value if first else DECAY * self.average + (1 - DECAY) * value
        if self.average >= self.best:  # of equals the later one: it has learned more
            self.best, self.best_step = self.average, step

    @property
    def drop(self) -> float:
        return self.best - self.average


class CollapseAlarm:
    """Rings when an entropy stays under a floor, or under a share of its first value.

    ``floor`` is in the entropy's own unit, ``share`` in (0, 1]; with both the higher of the two counts. It rings once,
    after ``patience`` values in a row, and says where the fall began. Raises ``ValueError`` without either.

    >>> alarm = CollapseAlarm(share=0.5, patience=2)
    >>> [alarm.update(step, entropy) for step, entropy in enumerate([2.0, 1.5, 0.9, 0.8, 0.7])]
    [False, False, False, True, False]
    >>> alarm.since, alarm.level
    (2, 1.0)
    """

    def __init__(self, floor: float | None = None, share: float | None = 0.2, patience: int = 3) -> None:
        if floor is None and share is None:
            raise ValueError("floor and share are both None; give the entropy that is too low")
        if floor is not None:
            check_non_negative("floor", floor)
        if share is not None:
            check_fraction("share", share)
        check_count("patience", patience)
        self.floor, self.share, self.patience = floor, share, patience
        self.first: float | None = None
        self.since: int | None = None  # the first step of the low values in a row
        self.low = 0
        self.rang = False

    @property
    def level(self) -> float | None:
        """What the entropy has to stay above; None before the first value where only a share is given."""
        share = None if self.share is None or self.first is None else self.share * self.first
        return max((one for one in (self.floor, share) if one is not None), default=None)

    def update(self, step: int, entropy: float) -> bool:
        """Take one value and return whether the alarm rings at it; NaN and infinities are passed by."""
        if not math.isfinite(entropy):
            return False
        self.first = entropy if self.first is None else self.first
        level = self.level
        assert level is not None  # the first value is there
        if entropy >= level:
            self.low, self.since = 0, None
            return False
        self.since = step if self.low == 0 else self.since
        self.low += 1
        rings = self.low >= self.patience and not self.rang
        self.rang |= rings
        return rings

    def state_dict(self) -> dict[str, Any]:
        """Everything but the settings."""
        return {name: getattr(self, name) for name in ("first", "since", "low", "rang")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        vars(self).update(state)


def forecast_ceiling(entropy: Sequence[float], score: Sequence[float], *, law: Any = None) -> Forecast:
    """Return the score that R = b - a exp(H) promises once all entropy (nats) is spent, with a 95% interval.

    The two series are of the same steps, in their order. ``law`` is an `EntropyPerformanceLaw`; without one, its
    interval comes from resampling blocks of neighbouring steps, about the cube root of their number long. The interval
    is of the fit: it says nothing on whether the law will go on to hold.
    Raises ``ValueError`` for fewer than 8 steps, where the score fell as the entropy did (the law does not describe
    such a run), and for what the law itself refuses.

    >>> import numpy as np
    >>> entropy = np.linspace(1.5, 0.2, 40)
    >>> found = forecast_ceiling(entropy, 0.8 - 0.2 * np.exp(entropy))
    >>> round(found.ceiling, 6), round(found.high - found.low, 6)
    (0.6, 0.0)

    Source: the law is Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", eq. 1.
    """
    if len(entropy) < FEWEST:
        raise ValueError(f"entropy and score must have at least {FEWEST} steps; got {len(entropy)}")
    if law is None:
        from hartley.training.rl.performance_law import EntropyPerformanceLaw

        law = EntropyPerformanceLaw(block_length=max(2, round(len(entropy) ** (1 / 3))))
    law.fit(entropy, score)
    if law.a_ <= 0:
        raise ValueError("the score fell as the entropy did, and the law R = b - a exp(H) does not describe such a run")
    low, high = law.ceiling_interval_
    return Forecast(law.ceiling_, low, high, law.a_, law.b_)
