"""The entropy of attention: over how many keys a query spreads, and which heads have collapsed or are overloaded."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import check_one_of, row_name
from hartley.info.distribution import SUM_TOLERANCE, safe_log, shannon, working_dtype

Normalize = Literal["context", "row"] | None


def attention_entropy(weights: Tensor, mask: Tensor | None = None, normalize: Normalize = None) -> Tensor:
    """Return -sum_j a_ij ln a_ij of each query's attention ``weights [..., Q, K]``, nats ``[..., Q]``.

    Parameters
    ----------
    weights
        What softmax gives: not negative, each row summing to 1 over the keys that its query may see. Half precision is
        summed in float32.
    mask
        Bool, broadcasting to ``[..., Q, K]``: the keys that a query may see, None for all. A row that may see none
        counts as nothing: 0.
    normalize
        None for nats; "context" for the share of ln K, the most any row could have; "row" for the share of the
        logarithm of the number of keys that this query may see (0 where that is one key). Under a causal mask the first
        rows are low by "context" whatever the model does, and not by "row".

    Returns
    -------
    In float32 (float64 where the weights are), differentiable; between 0 and ln K, or 0 and 1.

    Raises
    ------
    ValueError
        For weights without a query and a key axis, a mask that does not broadcast or is not bool, negative weights and
        rows that do not sum to 1, which it names.

    >>> uniform = torch.full((1, 4), 0.25)
    >>> attention_entropy(uniform), attention_entropy(uniform, normalize="row")
    (tensor([1.3863]), tensor([1.]))

    Source: Jha & Reagen 2025, "Entropy-Guided Attention for Private LLMs", section 3.
    """
    check_one_of("normalize", normalize, (None, "context", "row"))
    seen = visible(weights, mask)
    a = weights.to(working_dtype(weights.dtype))
    if mask is not None:
        a = a.masked_fill(~seen, 0)
    _check_weights(a.detach(), seen.any(-1), weights.dtype)
    found = shannon(safe_log(a), a)
    if normalize is None:
        return found
    counts = seen.sum(-1) if normalize == "row" else torch.full_like(found, weights.shape[-1], dtype=torch.int64)
    most = counts.clamp(min=1).to(found.dtype).log()
    return torch.where(most > 0, found / torch.where(most > 0, most, 1), 0)


class HeadEntropy(NamedTuple):
    """The mean entropy of each head's queries, as a share of what they could have."""

    shares: Tensor  # [L, H] in 0 .. 1, mean over the queries that see at least two keys
    queries: int  # averaged over

    def collapsed(self, below: float = 0.1) -> Tensor:
        """Which heads, bool ``[L, H]``, attend to almost nothing but one key."""
        return self.shares < below

    def overloaded(self, above: float = 0.9) -> Tensor:
        """Which heads, bool ``[L, H]``, attend to nearly everything alike."""
        return self.shares > above

    def merge(self, other: HeadEntropy) -> HeadEntropy:
        """What both have seen together."""
        total = self.queries + other.queries
        if total == 0:
            return self
        return HeadEntropy((self.shares * self.queries + other.shares * other.queries) / total, total)


def head_entropy(attentions: tuple[Tensor, ...] | list[Tensor], mask: Tensor | None = None) -> HeadEntropy:
    """Average the entropy of every head of L layers over its queries, each as a share of the keys that it may see.

    ``attentions`` holds ``[B, H, Q, K]`` a layer, as transformers models give with ``output_attentions=True`` and
    ``attn_implementation="eager"``. ``mask`` is bool, broadcasting to ``[B, 1, Q, K]``: which keys a query may see
    (`causal_mask`). Raises ``ValueError`` as `attention_entropy`, and for no layers or layers of different shapes.

    >>> head_entropy([torch.full((1, 1, 2, 4), 0.25)]).overloaded()
    tensor([[True]])
    """
    shapes = {tuple(layer.shape) for layer in attentions}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ValueError(f"attentions must hold one [B, H, Q, K] a layer, all alike; got {sorted(shapes)}")
    counts = visible(attentions[0], mask).sum(-1) > 1
    count = int(counts[:, 0].sum())
    shares: list[Tensor] = []
    for layer in attentions:
        share = attention_entropy(layer.detach(), mask, "row").masked_fill(~counts, 0)
        shares.append(share.sum((0, 2)) / max(1, count))
    return HeadEntropy(torch.stack(shares), count)


def causal_mask(padding: Tensor) -> Tensor:
    """Return which keys each query may see, bool ``[B, 1, T, T]``, for a causal model and its ``padding [B, T]``.

    ``padding`` is what transformers calls the attention mask: true or 1 for a token, false or 0 for padding, whose rows
    see nothing.

    >>> causal_mask(torch.tensor([[1, 1, 0]]))[0, 0]
    tensor([[ True, False, False],
            [ True,  True, False],
            [False, False, False]])
    """
    real = padding.bool()
    size = real.shape[-1]
    earlier = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    return (earlier & real[:, None, :] & real[:, :, None])[:, None]


def visible(weights: Tensor, mask: Tensor | None) -> Tensor:
    """The mask in the shape of the weights, all true without one; refuses what does not fit."""
    if weights.ndim < 2 or 0 in weights.shape[-1:]:
        raise ValueError(f"weights must have shape [..., Q, K] with at least one key; got {tuple(weights.shape)}")
    if not weights.is_floating_point():
        raise TypeError(f"weights must be floating point; got {weights.dtype}")
    if mask is None:
        return torch.ones_like(weights, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, true where a query may see a key; got {mask.dtype}")
    try:
        return mask.expand_as(weights)
    except RuntimeError:
        shapes = f"{tuple(weights.shape)}; got {tuple(mask.shape)}"
        raise ValueError(f"mask must broadcast to the weights' shape, {shapes}") from None


def _check_weights(weights: Tensor, some: Tensor, dtype: torch.dtype) -> None:
    bad = (weights < 0).any(-1)
    if bool(bad.any()):
        raise ValueError(f"weights must not be negative; got {float(weights.min()):.6g}{row_name(bad)}")
    total, tolerance = weights.sum(-1), SUM_TOLERANCE[dtype]
    bad = some & ~((total - 1).abs() <= tolerance)
    if bool(bad.any()):
        raise ValueError(
            f"weights must sum to 1 within {tolerance:g} over the keys that a query may see;"
            f" got {float(total[bad][0]):.7g}{row_name(bad)}"
        )
