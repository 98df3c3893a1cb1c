"""Minimum-probability truncation: keep what is at least a fraction as likely as the likeliest token."""

import torch

from hartley.decoding.sampler import PerRow, Rule, column, truncation
from hartley.info.checks import check_fraction


@truncation
def min_p(p: PerRow) -> Rule:
    """Keep every token whose probability is at least ``p`` times the largest one.

    ``p`` is in (0, 1], one value or one per row ``[B]``. Raises ``ValueError`` outside it.

    >>> min_p(0.5).mask(torch.tensor([[2.0, 1.9, 0.0]]))
    tensor([[2.0000, 1.9000,   -inf]])

    Source: Nguyen et al. 2024, "Turning Up the Heat", equation 2.
    """
    check_fraction("min_p", p)
    depth = column(torch.as_tensor(p).log())
    return lambda head: head.above(head.max_log_prob + depth)
