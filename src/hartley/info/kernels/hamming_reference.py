"""The definition of the nearest codes in Hamming distance, in plain torch on any device.

Shapes: Q queries, N codes, W words of 8 bytes, K nearest.
"""

import torch
from torch import Tensor

CELLS = 1 << 24  # bytes looked at together


def nearest(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest numbers of differing bits and the rows of their codes, both int64 ``[Q, k]``.

    ``queries [Q, W]`` and ``codes [N, W]`` are int64, K at most N. Sorted; of codes at one distance the first is
    nearest.
    """
    ones = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8, device=codes.device)
    distance = torch.empty(len(queries), k, dtype=torch.int64, device=codes.device)
    place = torch.empty_like(distance)
    step = max(1, CELLS // max(1, 8 * codes.numel()))
    for begin in range(0, len(queries), step):
        rows = slice(begin, begin + step)
        differing = (queries[rows, None] ^ codes).view(torch.uint8)
        found = ones[differing.long()].sum(-1).sort(dim=-1, stable=True)
        distance[rows], place[rows] = found.values[:, :k], found.indices[:, :k]
    return distance, place
