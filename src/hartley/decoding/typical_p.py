"""Locally typical truncation: keep the tokens whose surprisal lies closest to the entropy of the step."""

import torch
from torch import Tensor

from hartley.decoding.sampler import PerRow, column, truncation
from hartley.info.checks import check_fraction
from hartley.info.head import Head, Rule


@truncation
def typical_p(p: PerRow) -> Rule:
    """Keep the tokens with the smallest ``|surprisal - entropy|`` that hold a mass of ``p``, and ties with the last.

    The most probable token may be removed: that is the method. ``p`` is in (0, 1], one value or one per row ``[B]``; 1
    keeps everything. Raises ``ValueError`` outside it.

    >>> typical_p(0.2).mask(torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log())
    tensor([[   -inf, -1.3863,    -inf,    -inf]])

    Source: Meister et al. 2023, "Locally Typical Sampling", equation 10, by its greedy rule.
    """
    check_fraction("typical_p", p)

    def keep(head: Head) -> Tensor:
        deviation = (head.log_probs + head.entropy[:, None]).abs()
        ordered, order = deviation.sort(dim=-1)
        before = (head.log_probs.exp().gather(-1, order).cumsum(-1, dtype=torch.float64)).roll(1, -1)
        before[:, 0] = 0.0
        last = ((before < column(p)).sum(-1, keepdim=True) - 1).clamp(min=0)
        kept = deviation <= ordered.gather(-1, last)
        # A list that has not come down to the entropy hides closer tokens: keeping its end asks for more
        end = head.log_probs.gather(-1, head.known[:, None] - 1)
        return kept | (end > -head.entropy[:, None]) | (column(torch.as_tensor(p)) >= 1)

    return keep
