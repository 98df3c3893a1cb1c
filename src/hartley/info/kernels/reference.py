"""The definition of every fast operation, in plain torch: slow, short, and what the other kernels are tested against.

Shapes: B rows, V vocabulary, K kept. ``scale [B]`` is one over the temperature. Everything is computed in the dtype of
``logits`` (float32 or float64) and differs from the fast kernels by rounding alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """What one pass over ``logits * scale`` leaves of each row, and whatever helps to find the largest logits later."""

    max_logit: Tensor  # [B], of the logits before scaling
    logsumexp: Tensor  # [B], float64: logits may be large, and log-probabilities are differences to it
    entropy: Tensor  # [B], nats
    varentropy: Tensor  # [B], nats^2
    sound: bool  # no row has NaN, +inf or nothing but -inf
    index: Any


class Listed(NamedTuple):
    """The most probable tokens of each row."""

    tokens: Tensor  # [B, K] ids, falling in probability, ties by id; 0 in empty slots
    log_probs: Tensor  # [B, K], -inf in empty slots
    known: Tensor  # [B], how many slots are filled
    complete: Tensor  # [B], no other token has any probability


class Kept(NamedTuple):
    """The tokens a mask left of each row, packed to the front and renormalised."""

    tokens: Tensor  # [B, K], falling log-probability; 0 in empty slots
    log_probs: Tensor  # [B, K], -inf in empty slots
    known: Tensor  # [B], how many slots are filled
    log_mass: Tensor  # [B], of the kept tokens before renormalising
    entropy: Tensor  # [B], nats
    varentropy: Tensor  # [B], nats^2
    start: Tensor  # [B], place of the first one in the order of all tokens, from 0; -1 where tokens between are missing
    least: int  # how many the row with the fewest has
    short: Tensor | None  # bool [B]: the last token listed was kept, and others follow; None if that is nowhere so


class Facts(NamedTuple):
    """What is said of a drawn token."""

    log_prob: Tensor  # [B], under the distribution drawn from
    surprisal: Tensor  # [B], nats, under the model at temperature 1
    rank: Tensor  # [B], 1 is the model's most probable token; ties by id
    kept: Tensor  # [B], tokens that could have been drawn
    mass: Tensor  # [B], of those under the model at temperature 1


class KeptSet(NamedTuple):
    """A list of tokens to describe a draw by; fields as in :class:`Kept`."""

    tokens: Tensor
    log_probs: Tensor
    known: Tensor
    start: Tensor
    log_mass: Tensor  # [B], float64: log-probability of the set under the model; NaN where nobody has summed it


def _moments(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    probs = log_probs.exp()
    surprisal = -log_probs.masked_fill(probs == 0, 0.0)
    entropy = (probs * surprisal).sum(-1)
    return entropy, (probs * (surprisal - entropy[:, None]) ** 2).sum(-1)


def statistics(logits: Tensor, scale: Tensor) -> Statistics:
    """Maximum; logsumexp, entropy and varentropy of ``softmax(logits * scale)``; NaN for a row with NaN or +inf."""
    top = logits.amax(-1)
    depth = (logits - top[:, None]) * scale.to(logits.dtype)[:, None]
    log_sum = depth.logsumexp(-1)
    entropy, varentropy = _moments(depth - log_sum[:, None])
    sound = bool(entropy.isfinite().all())
    return Statistics(top, top * scale + log_sum, entropy, varentropy, sound, None)


def look(logits: Tensor, scale: Tensor, k: int) -> tuple[Statistics, Listed]:
    """:func:`statistics` and the ``k`` :func:`largest`; the list of rows that are not sound means nothing."""
    passed = statistics(logits, scale)
    return passed, largest(logits, None, torch.full_like(scale, k, dtype=torch.int64), scale, passed.logsumexp, None)


def largest(logits: Tensor, index: Any, k: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """List each row's ``k [B]`` largest finite logits, ties by id, with their log-probabilities.

    Of the given ``rows [R]`` alone, if not None, here and in :func:`above`: the lists are ``[R, K]`` then.
    """
    if rows is not None:
        logits, k, scale, log_sum = logits[rows], k[rows], scale[rows], log_sum[rows]
    size = logits.shape[1]
    wanted = k.clamp(max=size)
    width = int(wanted.max())
    values, tokens = logits.sort(dim=-1, descending=True, stable=True)
    values, tokens = values[:, :width], tokens[:, :width]
    empty = (torch.arange(width, device=logits.device) >= wanted[:, None]) | (values == -torch.inf)
    log_probs = (values * scale[:, None] - log_sum[:, None]).to(logits.dtype)
    known = (~empty).sum(-1)
    complete = (known < wanted) | (known == size)
    return Listed(tokens.masked_fill(empty, 0), log_probs.masked_fill(empty, -torch.inf), known, complete)


def above(logits: Tensor, index: Any, level: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """List the tokens of each row with a log-probability of at least about ``level [B]``, and never fewer than one."""
    log_probs = logits * scale[:, None] - log_sum[:, None]
    margin = 1e-5 * (1 + log_sum.abs())
    k = ((log_probs >= (level - margin)[:, None]) & (logits > -torch.inf)).sum(-1).clamp(min=1)
    return largest(logits, index, k, scale, log_sum, rows)


def depth(
    logits: Tensor,
    index: Any,
    scale: Tensor,
    log_sum: Tensor,
    level: Tensor,
    mass: Tensor,
    listed: tuple[Tensor, Tensor],
) -> Tensor:
    """How many of the most probable tokens reach down to the last of those :func:`nearest` to ``level [B]``.

    ``listed`` is what is known (log_probs, known): the kernels guess from it and a part of the row.
    """
    log_probs = (logits * scale[:, None] - log_sum[:, None]).sort(dim=-1, descending=True).values
    kept = nearest(log_probs, (log_probs > -torch.inf).sum(-1), level, mass)
    return logits.shape[1] - kept.flip(-1).to(torch.int8).argmax(-1)


def nucleus(log_probs: Tensor, known: Tensor, mass: Tensor) -> Tensor:
    """Mask of the first tokens of each list up to and with the one that brings their mass to ``mass [B]``."""
    filled = torch.arange(log_probs.shape[1], device=log_probs.device) < known[:, None]
    probs = log_probs.double().exp()
    return (probs.cumsum(-1) - probs < mass[:, None]) & filled


def nearest(log_probs: Tensor, known: Tensor, level: Tensor, mass: Tensor) -> Tensor:
    """Mask of the tokens nearest to log-probability ``level [B]`` that hold a ``mass [B]``, with ties.

    Everything where the mass is 1, or where the list ends above the level: nearer tokens may follow.
    """
    filled = torch.arange(log_probs.shape[1], device=log_probs.device) < known[:, None]
    distance = (log_probs - level[:, None]).abs()
    ordered, order = distance.sort(dim=-1, stable=True)
    held = log_probs.gather(-1, order).exp().cumsum(-1, dtype=torch.float64)
    last = (held < mass[:, None]).sum(-1, keepdim=True).clamp(max=log_probs.shape[1] - 1)
    kept = distance <= ordered.gather(-1, last)
    end = log_probs.gather(-1, known[:, None] - 1).squeeze(-1)
    everything = (mass >= 1) | (end > level)
    return (kept | everything[:, None]) & filled


def deviation(logits: Tensor) -> Tensor:
    """Population standard deviation ``[B]`` of the finite logits of each row."""
    finite = logits > -torch.inf
    count = finite.sum(-1, keepdim=True)
    mean = logits.masked_fill(~finite, 0.0).sum(-1, keepdim=True) / count
    return ((logits - mean).masked_fill(~finite, 0.0).square().sum(-1) / count.squeeze(-1)).sqrt()


def restrict(tokens: Tensor, log_probs: Tensor, mask: Tensor, known: Tensor, start: Tensor, complete: Tensor) -> Kept:
    """Keep the slots where ``mask [B, K]`` is true (and filled), in their order, renormalised."""
    mask = mask & (log_probs > -torch.inf)
    short = mask.gather(-1, known[:, None] - 1).squeeze(-1) & ~complete
    count = mask.sum(-1)
    width = max(int(count.max()), 1)
    order = (~mask).to(torch.int8).sort(dim=-1, stable=True).indices[:, :width]
    kept = log_probs.masked_fill(~mask, -torch.inf).gather(-1, order)
    log_mass = kept.logsumexp(-1)
    kept = kept - log_mass[:, None]
    ids = tokens.masked_fill(~mask, 0).gather(-1, order)
    last = order.gather(-1, (count - 1).clamp(min=0)[:, None]).squeeze(-1)
    joined = (start >= 0) & (last - order[:, 0] + 1 == count)
    start = torch.where(joined, start + order[:, 0], -1)
    least = int(count.min())
    return Kept(ids, kept, count, log_mass, *_moments(kept), start, least, short if bool(short.any()) else None)


def noise(seeds: Tensor, tokens: Tensor) -> Tensor:
    """A standard exponential variate for each (seed, token), by SplitMix64, in float64; the same on any device."""

    def shift_right(z: Tensor, bits: int) -> Tensor:  # torch has no unsigned shift
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = seeds + (tokens + 1) * (0x9E3779B97F4A7C15 - (1 << 64))
    z = (z ^ shift_right(z, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    z = (z ^ shift_right(z, 27)) * (0x94D049BB133111EB - (1 << 64))
    uniform = (shift_right(z ^ shift_right(z, 31), 11).double() + 0.5) * 2.0**-53
    return -torch.log1p(-uniform)


def race(tokens: Tensor, log_probs: Tensor, known: Tensor, seeds: Tensor) -> Tensor:
    """Draw one token a row: the largest ratio of probability to exponential noise (the Gumbel-max trick, exact).

    The noise depends on the row's seed and the token's id alone, so a draw does not depend on the order of the list,
    and two truncations of one distribution agree whenever both keep the winner.
    """
    score = log_probs.double() - noise(seeds[:, None], tokens).log()
    score[torch.arange(tokens.shape[1], device=tokens.device) >= known[:, None]] = -torch.inf
    return tokens.gather(-1, score.argmax(-1, keepdim=True)).squeeze(-1)


def race_all(logits: Tensor, scale: Tensor, index: Any, seeds: Tensor) -> Tensor:
    """:func:`race` over the whole vocabulary at ``softmax(logits * scale)``."""
    tokens = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    known = torch.full_like(seeds, logits.shape[1])
    return race(tokens, (logits - logits.amax(-1, keepdim=True)) * scale[:, None], known, seeds)


def describe(logits: Tensor, index: Any, log_sum: Tensor, token: Tensor, kept: KeptSet | None) -> Facts:
    """Facts of the drawn tokens; ``kept`` is the set drawn from, None for the vocabulary.

    For the whole vocabulary ``log_prob`` is the model's own, at temperature 1.
    """
    own = logits.gather(-1, token[:, None])
    ids = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (ids < token[:, None]))
    surprisal = (log_sum - own.squeeze(-1)).to(logits.dtype)
    if kept is None:
        finite = (logits > -torch.inf).sum(-1)
        return Facts(-surprisal, surprisal, before.sum(-1) + 1, finite, torch.ones_like(surprisal))
    tokens, log_probs, known, _, _ = kept
    filled = torch.arange(tokens.shape[1], device=logits.device) < known[:, None]
    log_prob = log_probs.masked_fill((tokens != token[:, None]) | ~filled, -torch.inf).amax(-1)
    mass = ((logits.gather(-1, tokens) - log_sum[:, None]).exp() * filled).sum(-1).clamp(max=1.0).to(logits.dtype)
    return Facts(log_prob, surprisal, before.sum(-1) + 1, known, mass)
