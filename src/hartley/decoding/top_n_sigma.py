"""Top-n-sigma truncation: keep the logits within n standard deviations of the largest."""

from hartley.decoding.sampler import PerRow, Rule, column, truncation
from hartley.info.checks import check_positive


@truncation
def top_n_sigma(n: PerRow) -> Rule:
    """Keep every token whose logit is at least the largest minus ``n`` standard deviations of the row's finite logits.

    A temperature before it changes nothing: logits and deviation scale together. ``n`` is positive, one value or one
    per row ``[B]``. Raises ``ValueError`` otherwise.

    >>> import torch
    >>> top_n_sigma(1.0).mask(torch.tensor([[4.0, 3.5, 0.0, 0.0]]))
    tensor([[4.0000, 3.5000,   -inf,   -inf]])

    Source: Tang et al. 2024, "Top-n-sigma: Not All Logits Are You Need", algorithm 1, with the population deviation.
    """
    check_positive("top_n_sigma", n)

    return lambda head: head.above(head.max_log_prob - column(n) * head.deviation()[:, None])
