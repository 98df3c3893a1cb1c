"""Locally typical truncation: keep the tokens whose surprisal lies closest to the entropy of the step."""

import torch

from hartley.decoding.sampler import PerRow, Rule, truncation
from hartley.info.checks import check_fraction


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

    mass = torch.as_tensor(p, dtype=torch.float64)

    return lambda head: head.keep(
        lambda head: head.nearest(-head.entropy, mass), k=lambda head: head.depth(mass, -head.entropy)
    )
