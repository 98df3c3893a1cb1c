"""Top-H truncation: keep tokens while their entropy stays under a fraction of the entropy of the whole."""

from typing import Literal

import torch
from torch import Tensor

from hartley.decoding.sampler import PerRow, Rule, column, truncation
from hartley.info.checks import check_fraction, check_one_of
from hartley.info.head import Head

ROUNDING = 1e-6  # relative: what stands on the bound stays


@truncation
def top_h(alpha: PerRow, rule: Literal["paper", "partial"] = "paper", top_n: int = 100) -> Rule:
    """Keep the most probable tokens while their entropy, renormalised, is at most ``alpha`` times that of all tokens.

    ``alpha`` is in (0, 1], one value or one per row ``[B]``; the first token always stays. ``rule="partial"`` compares
    unnormalised partial sums over the ``top_n`` likeliest tokens instead, as transformers' ``top_h`` and the authors'
    code do: another inequality, whose ``alpha`` means something else (16 equal tokens at 0.4: 3 are kept by the paper's
    rule, 6 by this one). Raises ``ValueError`` for an ``alpha`` outside its range or another ``rule``.

    >>> top_h(0.55).mask(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log())
    tensor([[-0.9163, -1.2040,    -inf,    -inf]])

    Source: Potraghloo et al. 2025, "Top-H Decoding", algorithm 1.
    """
    check_fraction("top_h", alpha)
    check_one_of("top_h_rule", rule, ("paper", "partial"))
    if rule == "partial":
        return lambda head: head.widen(k=top_n + 1).keep(lambda head: _partial(head, alpha, top_n))
    # All of the entropy keeps all of the tokens, whatever the sums round to
    share = torch.where(torch.as_tensor(alpha) >= 1, 2.0, torch.as_tensor(alpha) * (1 + ROUNDING))
    return lambda head: head.keep(lambda head: _paper(head, share), k=lambda head: _guess(head, alpha))


def _guess(head: Head, alpha: PerRow) -> Tensor:
    """Equal tokens would need ``exp(alpha * entropy)``; long tails a few times as many."""
    return (4.0 * (alpha * head.entropy.double()).exp()).clamp(max=head.logits.shape[1]).long()


def _paper(head: Head, share: Tensor) -> Tensor:
    log_probs = head.log_probs.double()
    probs = log_probs.exp()
    mass = probs.cumsum(-1)
    # An empty slot makes NaN, there and in the empty slots after it, and NaN is not kept
    entropy = mass.log() - (probs * log_probs).cumsum(-1) / mass
    return entropy <= (share * head.entropy)[:, None].clamp(min=ROUNDING)


def _partial(head: Head, alpha: PerRow, top_n: int) -> Tensor:
    log_probs = head.log_probs[:, :top_n].double()
    probs = log_probs.exp()
    terms = probs * log_probs.masked_fill(probs == 0, 0.0)
    mass = probs.sum(-1, keepdim=True)
    partial = mass.log() * probs.cumsum(-1) - terms.cumsum(-1)  # times the mass, which stands on both sides
    kept = partial <= column(alpha) * partial[:, -1:] * (1 + ROUNDING)
    kept[:, 0] = True
    full = torch.zeros_like(head.filled)
    full[:, : kept.shape[1]] = kept
    return full & head.filled
