"""Floors under the probability of a token: a fixed one (epsilon) and one that follows the entropy (eta)."""

import torch

from hartley.decoding.sampler import PerRow, Rule, truncation
from hartley.info.checks import check_fraction


@truncation
def epsilon_cutoff(epsilon: PerRow) -> Rule:
    """Keep every token with a probability of at least ``epsilon``, and the most probable one.

    ``epsilon`` is in (0, 1], one value or one per row ``[B]``; 3e-4 to 9e-4 are usual. Raises ``ValueError`` outside
    it.

    >>> epsilon_cutoff(0.2).mask(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log())
    tensor([[-0.6931, -1.2040,    -inf,    -inf]])

    Source: Hewitt, Manning & Liang 2022, "Truncation Sampling as Language Model Desmoothing", section 3.
    """
    check_fraction("epsilon_cutoff", epsilon)
    floor = torch.as_tensor(epsilon).log()
    return lambda head: head.above(floor.expand(head.known.shape)[:, None])


@truncation
def eta_cutoff(eta: PerRow) -> Rule:
    """Keep every token with a probability of at least ``min(eta, sqrt(eta) * exp(-entropy))``, and the likeliest.

    ``eta`` is in (0, 1], one value or one per row ``[B]``; 3e-4 to 4e-3 are usual. Raises ``ValueError`` outside it.

    >>> eta_cutoff(0.3).mask(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log())
    tensor([[-0.6931, -1.2040,    -inf,    -inf]])

    Source: Hewitt, Manning & Liang 2022, "Truncation Sampling as Language Model Desmoothing", equation 6.
    """
    check_fraction("eta_cutoff", eta)
    log_eta = torch.as_tensor(eta).log()
    return lambda head: head.above(torch.minimum(log_eta, log_eta / 2 - head.entropy)[:, None])
