"""Top-k truncation: keep a fixed number of tokens."""

import torch
from torch import Tensor

from hartley.decoding.sampler import Rule, column, truncation
from hartley.info.checks import check_count
from hartley.info.head import Head


@truncation
def top_k(k: int | Tensor) -> Rule:
    """Keep the ``k`` most probable tokens, ties by id: exactly ``k``, or all if there are fewer.

    ``k`` is a whole number of at least 1, or one per row ``[B]``. Raises ``ValueError`` if it is less, ``TypeError`` if
    it is not whole.

    >>> top_k(2).mask(torch.tensor([[2.0, 1.0, 1.0]]))
    tensor([[2., 1., -inf]])

    Source: Fan, Lewis & Dauphin 2018, section 5.
    """
    check_count("top_k", k)
    return lambda head: head.keep(lambda head: first(head, k), k=k + 1)


def first(head: Head, k: int | Tensor) -> Tensor:
    """Mask of the first ``k`` slots of each row, bool ``[B, K]``."""
    return (torch.arange(head.tokens.shape[1], device=head.tokens.device) < column(k)).expand_as(head.tokens)
