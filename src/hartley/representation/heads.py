"""What an attention head does with the keys it sees: spread, the first key, and how few keys carry its mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hartley.info.attention import attention_entropy
from hartley.info.checks import check_fraction
from hartley.representation.concentration import fewest_holding

COLLAPSED, OVERLOADED = 0.1, 0.9  # of the entropy that a head could have; the margins are ours
ERRORS = 2.0  # standard errors that a verdict is clear of them
Verdict = Literal["collapsed", "overloaded", "within"]


def head_spread(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return each head's entropy as a share of the keys that its query sees, ``[N, H]`` of the N queries that see two.

    ``weights [B, H, Q, K]`` and the bool ``mask``, broadcasting to ``[B, 1, Q, K]``, are as in
    `hartley.info.head_entropy`, whose mean this is before it is taken.

    >>> head_spread(torch.full((1, 1, 1, 4), 0.25))
    tensor([[1.]])
    """
    share = attention_entropy(weights, mask, "row").transpose(1, 2)
    return share[_seen(weights, mask)[:, 0] > 1]


def first_key_mass(weights: Tensor) -> Tensor:
    """Return the attention on the first key, ``[B * (Q - 1), H]``, of every query but the first.

    A head that puts most of its mass there rests: the first token holds what it adds (an attention sink).
    """
    return weights[:, :, 1:, 0].transpose(1, 2).flatten(0, 1)


def cache_share(weights: Tensor, shares: Sequence[float], kv_heads: int, queries: int) -> Tensor:
    """Return which share of the keys in a cache holds each of ``shares`` of the attention, ``[B * queries, G, S]``.

    The last ``queries`` queries are looked at, which see the fullest cache, with a causal model; heads that share keys
    and values count together (G = ``kv_heads``).

    >>> cache_share(torch.tensor([[[[1.0, 0.0], [0.75, 0.25]]]]), [0.5, 0.9], kv_heads=1, queries=1)
    tensor([[[0.5000, 1.0000]]])
    """
    heads, keys = weights.shape[1], weights.shape[3]
    if heads % kv_heads:
        raise ValueError(f"kv_heads must divide the {heads} heads; got {kv_heads}")
    last = weights[:, :, -queries:].float().unflatten(1, (kv_heads, heads // kv_heads)).mean(2)
    seen = torch.arange(keys - last.shape[2], keys, device=weights.device) + 1
    found = fewest_holding(last, shares) / seen[None, None, :, None]
    return found.transpose(1, 2).flatten(0, 1)


def verdicts(
    shares: np.ndarray, stderr: np.ndarray, below: float = COLLAPSED, above: float = OVERLOADED
) -> list[list[Verdict]]:
    """Say of every head, ``[L, H]``, whether it has "collapsed" or is "overloaded", two standard errors clear of it.

    ``shares`` and ``stderr`` are of `head_spread`; a head whose error is unknown (NaN) is judged by its share alone.

    >>> verdicts(np.array([[0.05, 0.08, 0.5, 0.97]]), np.array([[0.01, 0.02, 0.1, 0.01]]))
    [['collapsed', 'within', 'within', 'overloaded']]

    Source: Jha & Reagen 2025, "Entropy-Guided Attention for Private LLMs"; the margins are ours.
    """
    check_fraction("below", below)
    check_fraction("above", above)
    error = ERRORS * np.nan_to_num(stderr)
    low, high = shares + error < below, shares - error > above
    names: dict[tuple[bool, bool], Verdict] = {(True, False): "collapsed", (False, True): "overloaded"}
    return [
        [names.get((bool(a), bool(b)), "within") for a, b in zip(*rows, strict=True)]
        for rows in zip(low, high, strict=True)
    ]


def _seen(weights: Tensor, mask: Tensor | None) -> Tensor:
    """How many keys each query may see, ``[B, 1, Q]``."""
    batch, _, queries, keys = weights.shape
    if mask is None:
        return torch.full((batch, 1, queries), keys, device=weights.device)
    return mask.expand(batch, 1, queries, keys).sum(-1)
