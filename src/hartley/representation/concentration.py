"""How few entries of a row hold most of it: keys of an attention map, units of a layer, tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hartley.info.checks import check_fraction, row_name


def fewest_holding(values: Tensor, shares: Sequence[float]) -> Tensor:
    """Return how many of the largest ``values [..., N]`` hold each of ``shares`` of their sum, int64 ``[..., S]``.

    ``values`` are not negative: attention weights, squared activations, entropies. A row of zeros needs 0. Sums are in
    float64; a share counts as held within float32's precision.

    Raises ``ValueError`` for negative values and NaN, naming the row, and for shares outside (0, 1].

    >>> fewest_holding(torch.tensor([[0.5, 0.1, 0.4], [1.0, 0.0, 0.0]]), [0.5, 0.9])
    tensor([[1, 2],
            [1, 1]])
    """
    for share in shares:
        check_fraction("shares", share)
    if bool((bad := ~(values >= 0).all(-1)).any()):
        raise ValueError(f"values must be numbers of at least 0; they are not{row_name(bad)}")
    held = values.sort(-1, descending=True).values.double().cumsum(-1)
    whole = held[..., -1:]
    slack = torch.finfo(torch.float32).eps * whole  # what rounding the values may lose
    wanted = whole * torch.tensor(list(shares), dtype=torch.float64, device=values.device)
    counts = (held.unsqueeze(-2) < (wanted - slack).unsqueeze(-1)).sum(-1) + 1
    return torch.where(whole > 0, counts, 0)
