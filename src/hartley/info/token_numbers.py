"""What the sums over a row of logits say of it, and the slope of each number by the logits.

With p = softmax(z), L = ln p, H the entropy and u = L + H: every number has a slope of the form p (a + b u + c u^2),
with one a, b and c a row, but for a few listed tokens (the label, the k likeliest, those that a teacher names), for
label smoothing, which is the same everywhere, and for a teacher's own probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hartley.info.distribution import normalised, shannon

NOWHERE = -(1 << 62)  # the label of a place that has none: outside every part of a vocabulary
LEAST = 1e-30  # a probability below it is taken for it where one divides


class TokenStatistics(NamedTuple):
    """The distribution over the next token at N places, in the leading shape of what was given; nats.

    In float64 for float64 inputs, else float32. What was not asked for is None.

    >>> from hartley.info import logits_statistics
    >>> found = logits_statistics(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([1]), top_k=2)
    >>> found.entropy, found.top_k_mass
    (tensor([0.8324]), tensor([0.9100]))
    """

    log_prob: Tensor | None  # of the label
    logsumexp: Tensor
    entropy: Tensor
    varentropy: Tensor  # nats^2
    top_k_mass: Tensor | None  # of the k likeliest tokens
    top_k_entropy: Tensor | None  # of those alone, renormalised to 1
    kl: Tensor | None  # KL(teacher || this)


class Sums(NamedTuple):
    """Of each row: its largest logit and what `hartley.info.kernels.tiles_reference.sums` adds up; float64 ``[N]``."""

    top: Tensor
    rest: Tensor
    first: Tensor
    second: Tensor

    @property
    def logsumexp(self) -> Tensor:
        """ln sum e^z."""
        return self.top + self.rest.log1p()

    @property
    def entropy(self) -> Tensor:
        """Nats."""
        return self.rest.log1p() - self.first / (1 + self.rest)

    @property
    def varentropy(self) -> Tensor:
        """Nats^2."""
        mean = self.first / (1 + self.rest)
        return (self.second / (1 + self.rest) - mean.square()).clamp(min=0.0)


def merged(parts: Tensor) -> Sums:
    """The sums of whole rows from those of their tiles, ``parts [T, 4, N]``."""
    top, place = parts[:, 0].max(0)
    shift = (parts[:, 0] - top).masked_fill(parts[:, 0].isneginf(), 0.0)  # such a tile has no total to be shifted
    weight, total = shift.exp(), 1 + parts[:, 1]
    others = (weight * total).scatter(0, place[None], 0.0).sum(0)
    return Sums(
        top,
        parts[:, 1].gather(0, place[None]).squeeze(0) + others,
        (weight * (parts[:, 2] + shift * total)).sum(0),
        (weight * (parts[:, 3] + shift * (2 * parts[:, 2] + shift * total))).sum(0),
    )


@dataclass
class Found:
    """What one pass leaves of N rows, in float64."""

    sums: Sums
    size: int  # of the vocabulary
    best: Tensor  # [N, k] the largest logits, falling
    best_ids: Tensor  # [N, k] their tokens
    labels: Tensor | None = None  # [N]
    label_logit: Tensor | None = None  # [N]
    smoothing: float = 0.0
    plain_sum: Tensor | None = None  # [N] of all logits, for smoothing
    teacher: Sums | None = None
    teacher_gap: Tensor | None = None  # [N] mean over the teacher of its logit less ours
    named_ids: Tensor | None = None  # [N, K] the tokens that a teacher names
    named_probs: Tensor | None = None  # [N, K] its probabilities
    named_logits: Tensor | None = None  # [N, K] our logits there

    @property
    def named_rest(self) -> tuple[Tensor, Tensor]:
        """What a teacher's named tokens leave of its probability and of ours, ``[N]`` each."""
        assert self.named_probs is not None
        assert self.named_logits is not None
        ours = (self.named_logits - self.sums.logsumexp[:, None]).exp().sum(-1)
        return (1 - self.named_probs.sum(-1)).clamp(min=0.0), (1 - ours).clamp(min=LEAST)


def numbers(found: Found) -> TokenStatistics:
    """What is asked for, ``[N]`` each."""
    sums, lse = found.sums, found.sums.logsumexp
    mass = top_entropy = None
    if found.best.shape[1]:
        mass = (found.best - lse[:, None]).exp().sum(-1)
        top_entropy = shannon(*normalised(found.best))
    kl = _divergence(found)
    return TokenStatistics(_log_prob(found), lse, sums.entropy, sums.varentropy, mass, top_entropy, kl)


def _log_prob(found: Found) -> Tensor | None:
    if found.labels is None or found.label_logit is None:
        return None
    value = (found.label_logit - found.sums.top) - found.sums.rest.log1p()
    if found.plain_sum is not None:
        mean = found.plain_sum / found.size - found.sums.logsumexp
        value = (1 - found.smoothing) * value + found.smoothing * mean
    return value.masked_fill(found.labels == NOWHERE, 0.0)


def _divergence(found: Found) -> Tensor | None:
    lse = found.sums.logsumexp
    if found.teacher is not None and found.teacher_gap is not None:
        return (found.teacher_gap - found.teacher.logsumexp + lse).clamp(min=0.0)
    if found.named_probs is None or found.named_logits is None:
        return None
    left, ours = found.named_rest
    p = found.named_probs
    gap = p.log() - (found.named_logits - lse[:, None])
    tail = left * (left.clamp(min=LEAST).log() - ours.log())
    return ((p * gap.masked_fill(p == 0, 0.0)).sum(-1) + tail).clamp(min=0.0)


class Slope(NamedTuple):
    """p (a + b u + c u^2) + everywhere - teacher * t, and ``extra`` at the tokens ``ids``; float64."""

    weights: Tensor  # [3, N] a, b, c
    ids: Tensor  # [N, J]
    extra: Tensor  # [N, J]
    everywhere: Tensor | None  # [N]
    teacher: Tensor | None  # [N]: t is the teacher's probability of a token


def slope(found: Found, grads: tuple[Tensor | None, ...]) -> Slope:
    """The slope, by logit, of the numbers weighted with ``grads``, one ``[N]`` each in the order of its fields."""
    sums = found.sums
    lse, varentropy = sums.logsumexp, sums.varentropy
    zero = torch.zeros_like(lse)
    log_prob_g, lse_g, entropy_g, varentropy_g, mass_g, top_g, kl_g = (zero if g is None else g.double() for g in grads)
    a = lse_g - varentropy_g * varentropy
    b = 2 * varentropy_g - entropy_g
    listed: list[tuple[Tensor, Tensor]] = []
    everywhere = teacher = None
    if found.labels is not None and grads[0] is not None:
        log_prob_g = log_prob_g.masked_fill(found.labels == NOWHERE, 0.0)
        a = a - log_prob_g
        listed.append((found.labels[:, None], (1 - found.smoothing) * log_prob_g[:, None]))
        if found.plain_sum is not None:
            everywhere = log_prob_g * (found.smoothing / found.size)
    if found.best.shape[1]:
        q_log, q = normalised(found.best)
        p = (found.best - lse[:, None]).exp()
        a = a - mass_g * p.sum(-1)
        level = q_log.masked_fill(q == 0, 0.0) + shannon(q_log, q)[:, None]
        listed.append((found.best_ids, mass_g[:, None] * p - top_g[:, None] * q * level))
    if found.teacher is not None:
        a, teacher = a + kl_g, kl_g
    elif found.named_ids is not None and found.named_logits is not None and found.named_probs is not None:
        left, ours = found.named_rest
        share = 1 - left / ours  # how far the tail as a whole is from the teacher's
        a = a + kl_g * share
        q = (found.named_logits - lse[:, None]).exp()
        listed.append((found.named_ids, kl_g[:, None] * (q * (1 - share)[:, None] - found.named_probs)))
    none = found.best_ids[:, :0]
    ids = torch.cat([none, *(ids for ids, _ in listed)], 1)
    extra = torch.cat([none.double(), *(extra for _, extra in listed)], 1)
    return Slope(torch.stack([a, b, varentropy_g]), ids, extra, everywhere, teacher)
