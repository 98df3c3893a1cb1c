"""A positive semidefinite operator by a few of its columns, with bounds on the entropy of what they leave out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hartley.representation.diffusion_operator import DiffusionOperator

FIRST = 32  # columns of the first block; later ones are half as wide as all before
SLACK = 4.0  # how far above the goal the trend of the bounds may end before the attempt is given up


class LowRank(NamedTuple):
    """F F' <= K, where K - F F' is positive semidefinite, and what follows for the entropy of K^t."""

    factor: Tensor  # F, [N, R], float64
    gram: Tensor  # F' F, [R, R]: its eigenvalues are those of F F'
    eigenvalues: Tensor  # descending, [R]; each is at most that of K
    gap: float  # nats: the entropy of these eigenvalues is off by no more


def spectral_entropy(eigenvalues: Tensor, t: float) -> float:
    """Return the entropy of |eigenvalue|^t as shares of their sum, nats."""
    a = eigenvalues.double().abs().pow(t)
    p = a[a > 0] / a.sum()
    return max(0.0, -float((p * p.log()).sum()))


def approximate(operator: DiffusionOperator, t: float, goal: float, most: int, *, patient: bool = False) -> LowRank:
    """Take blocks of columns until the gap is at most ``goal`` (nats) or there are ``most``, and bound it.

    Unless ``patient``, it also stops when the gap falls too slowly to get there.

    Columns are drawn in proportion to what is left of the diagonal, from a generator of its own: the same operator
    gives the same columns.

    Source: Chen, Epperly, Tropp & Webber 2023, "Randomly pivoted Cholesky", in blocks.
    """
    count, device = len(operator), operator.points.device
    random = np.random.default_rng(0)
    squares = math.inf if patient or t < 2 else operator.squares()
    left = operator.diagonal.clone()
    floor = 1e-14 * float(left.max())
    factor = torch.empty(count, 0, dtype=torch.float64, device=device)
    gram = torch.empty(0, 0, dtype=torch.float64, device=device)
    before: tuple[int, float] | None = None
    while True:
        rank = factor.shape[1]
        width = min(max(FIRST, rank // 2), most - rank, int((left > floor).sum()))
        chosen = random.choice(count, width, replace=False, p=(left / left.sum()).cpu().numpy())
        places = torch.from_numpy(np.sort(chosen)).to(device)
        columns = operator.columns(places) - factor @ factor[places].T
        values, vectors = torch.linalg.eigh(columns[places])
        kept = values > floor
        new = columns @ (vectors[:, kept] / values[kept].sqrt())
        left = (left - new.square().sum(1)).clamp_(min=0)
        left[places] = 0
        side = factor.T @ new
        gram = torch.cat([torch.cat([gram, side], 1), torch.cat([side.T, new.T @ new], 1)])
        factor = torch.cat([factor, new], 1)
        eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)
        rest = rise(float(left.sum()), t, count)
        if t >= 2:  # no eigenvalue is above 1, so x^t rises by at most t / 2 times what x^2 does
            rest = min(rest, t / 2 * max(0.0, squares - float(gram.square().sum())))
        found = LowRank(factor, gram, eigenvalues, entropy_gap(eigenvalues.pow(t), rest, count))
        ended = factor.shape[1] >= most or not bool((left > floor).any())
        if found.gap <= goal or ended or not (patient or _hope(before, found, goal, most)):
            return found
        before = factor.shape[1], found.gap


def rise(rest: float, t: float, count: int) -> float:
    """How much the sum of x^t can grow when ``rest`` is added to ``count`` numbers x in 0 .. 1."""
    return t * rest if t >= 1 else count ** (1 - t) * rest**t


def entropy_gap(masses: Tensor, rest: float, count: int) -> float:
    """How far the entropy of ``masses`` may move when up to ``rest`` is added to them, in up to ``count`` places."""
    total, sum_log = float(masses.sum()), -float(torch.special.xlogy(masses, masses).sum())
    middle = math.log(total) + sum_log / total
    rest = max(rest, count * 1e-16)
    high = math.log(total + rest) + (sum_log + rest * max(1.0, math.log(count / rest))) / total
    low = math.log(total) + (sum_log - rest) / (total + rest)
    return max(high - middle, middle - low)


def _hope(before: tuple[int, float] | None, now: LowRank, goal: float, most: int) -> bool:
    """Whether the gap, falling as a power of the rank as it last did, would come near the goal at the end."""
    rank = now.factor.shape[1]
    if before is None or rank < 3 * FIRST:
        return True
    slope = math.log(before[1] / now.gap) / math.log(rank / before[0])
    return now.gap * (rank / most) ** max(slope, 0.0) <= SLACK * goal
