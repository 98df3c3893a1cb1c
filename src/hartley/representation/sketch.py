"""A few numbers of a large tensor, by which two of its versions can be told apart and their distance estimated."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.info.checks import check_count

SIZE = 64


class Change(NamedTuple):
    """How far two tensors lie apart, as a share of the first one's length; both numbers have no unit."""

    value: float
    stderr: float


def weight_sketch(weight: Tensor, size: int = SIZE) -> np.ndarray:
    """Return ``size`` sums of the entries of ``weight`` under random signs, float64, the same signs for every tensor.

    The squares of a sketch add up to the squares of the tensor on average, and the sketch of a difference is the
    difference of the sketches.

    >>> a = torch.eye(32)
    >>> float(((weight_sketch(a) - weight_sketch(2 * a)) ** 2).sum()) > 0
    True

    Source: Charikar, Chen & Farach-Colton 2002, "Finding Frequent Items in Data Streams".
    """
    check_count("size", size)
    flat = weight.detach().reshape(-1).float().cpu()
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % size))
    signs = torch.randint(0, 2, flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    return torch.where(signs.bool(), flat, -flat).view(-1, size).sum(0, dtype=torch.float64).numpy()


def sketched_change(before: ArrayLike, after: ArrayLike) -> Change:
    """Estimate |after - before| / |before| of two tensors from their sketches of equal size.

    Raises ``ValueError`` for sketches of different sizes.

    >>> weight = torch.arange(4096.0).sin()
    >>> change = sketched_change(weight_sketch(weight), weight_sketch(1.5 * weight))
    >>> round(change.value, 6), round(change.stderr, 3)
    (0.5, 0.062)
    """
    a, b = np.asarray(before, float), np.asarray(after, float)
    if a.shape != b.shape:
        raise ValueError(f"after must have the size of before, {a.shape}; got {b.shape}")
    length = np.sqrt((a**2).sum())
    if length == 0:
        return Change(0.0 if not b.any() else float("inf"), 0.0)
    value = float(np.sqrt(((b - a) ** 2).sum()) / length)
    return Change(value, value / math.sqrt(len(a)))  # each length is off by 1 / sqrt(2 size)
