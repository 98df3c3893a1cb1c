"""Nucleus truncation: keep the fewest most probable tokens that hold a given mass."""

import torch

from hartley.decoding.sampler import PerRow, Rule, truncation
from hartley.info.checks import check_fraction


@truncation
def top_p(p: PerRow) -> Rule:
    """Keep the most probable tokens up to and with the one that brings their mass to ``p``.

    ``p`` is in (0, 1], one value or one per row ``[B]``. Raises ``ValueError`` outside it.

    >>> import torch
    >>> top_p(0.6).mask(torch.tensor([[0.5, 0.3, 0.2]]).log())
    tensor([[-0.6931, -1.2040,    -inf]])

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", equations 2 and 3.
    """
    check_fraction("top_p", p)

    # Rounding can bring the sum of all to 1 early, and everything must stay at 1
    whole = torch.where(torch.as_tensor(p) >= 1, 2.0, torch.as_tensor(p))

    return lambda head: head.keep(lambda head: head.nucleus(whole), k=lambda head: head.depth(p))
