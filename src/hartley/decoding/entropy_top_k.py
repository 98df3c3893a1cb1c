"""Entropy-driven top-k: few candidates where the model is sure, many where it is not."""

import torch
from torch import Tensor

from hartley.decoding.sampler import Rule, truncation
from hartley.info.checks import check_count, check_positive
from hartley.info.head import Head


@truncation
def entropy_top_k(
    k_max: int = 2000, k_min: int = 1, center: float = 5.0, slope: float = 1.0, h_max: float = 10.0
) -> Rule:
    """Keep the ``k`` most probable tokens and all tied with the last; ``k`` follows the entropy (:func:`entropy_to_k`).

    The entropy is that of the model at temperature 1, whatever comes before in a chain, so a temperature never changes
    ``k``. Raises ``ValueError`` unless 1 <= ``k_min`` <= ``k_max`` and ``slope`` and ``h_max`` are positive.

    >>> kept = entropy_top_k().mask(torch.linspace(300, 0, 100)[None]).isfinite()
    >>> int(kept.sum())  # at 0.2 nats
    17

    Source: Wei et al. 2025, "Perceive, Understand and Restore"; the constants are its, for a vocabulary of 16,384 image
    tokens.
    """
    check_count("entropy_top_k_k_min", k_min)
    check_count("entropy_top_k", k_max)
    if k_max < k_min:
        raise ValueError(f"entropy_top_k must be at least k_min={k_min}; got {k_max}")
    check_positive("entropy_top_k_slope", slope)
    check_positive("entropy_top_k_h_max", h_max)

    def rule(head: Head) -> Head:
        k = entropy_to_k(head.origin.entropy, k_max, k_min, center, slope, h_max)

        def kth(head: Head) -> Tensor:  # by logits, since log-probabilities may round into ties
            last = torch.minimum(k, head.known)[:, None] - 1
            return head.logits.gather(-1, head.tokens.gather(-1, last))

        def tied(head: Head) -> Tensor:
            return (head.logits.gather(-1, head.tokens) >= kth(head)) & head.filled

        return head.widen(k=k + 1).keep(tied, k=lambda head: (head.logits >= kth(head)).sum(-1) + 1)

    return rule


def entropy_to_k(
    entropy: Tensor, k_max: int = 2000, k_min: int = 1, center: float = 5.0, slope: float = 1.0, h_max: float = 10.0
) -> Tensor:
    """How many tokens to keep at an ``entropy`` in nats: a logistic curve from ``k_min`` to ``k_max``, int64.

    >>> entropy_to_k(torch.tensor([0.0, 2.0, 5.0, 10.0]))
    tensor([  14,   96, 1000, 1987])

    Rounded half to even. Source: Wei et al. 2025.
    """
    height = torch.sigmoid(slope * (entropy.double().clamp(0.0, h_max) - center))
    return (k_min + (k_max - k_min) * height).round().clamp(k_min, k_max).long()


def for_vocabulary(size: int, share: float = 2000 / 16384) -> dict[str, float]:
    """The curve of :func:`entropy_top_k` rescaled to a vocabulary of another ``size``, as keyword arguments.

    >>> curve = for_vocabulary(49152)
    >>> curve["k_max"], round(curve["h_max"], 3)  # tokens, nats
    (6000, 10.803)
    """
    check_count("size", size - 1)
    limit = float(torch.tensor(float(size), dtype=torch.float64).log())
    return {"k_max": max(1, round(share * size)), "center": limit / 2, "slope": 10 / limit, "h_max": limit}
