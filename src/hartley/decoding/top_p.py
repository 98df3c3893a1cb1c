"""Nucleus truncation: keep the fewest most probable tokens that hold a given mass."""

from torch import Tensor

from hartley.decoding.sampler import PerRow, column, truncation
from hartley.info.checks import check_fraction
from hartley.info.head import Head, Rule


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

    def keep(head: Head) -> Tensor:
        before = head.cumulative() - head.log_probs.exp()
        return before < column(p)

    return keep
