"""A positive semidefinite operator by a few of its columns, with bounds on the entropy of what they leave out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hartley.representation.diffusion_operator import DiffusionOperator
from hartley.representation.spectrum import entropy_of_shares

FIRST = 32  # columns of the first block
ROUNDING = 1e-14  # of the largest: what is below is taken for 0
STEEPEST = 4.0  # power of the rank with which a gap may fall, before two were seen
SLACK = 4.0  # how far above the goal the trend of the bounds may end before the attempt is given up


class LowRank(NamedTuple):
    """F F' <= K, where K - F F' is positive semidefinite, and what follows for the entropy of K^t."""

    factor: Tensor  # F, [N, R], float64
    gram: Tensor  # F' F, [R, R]: its eigenvalues are those of F F'
    eigenvalues: Tensor  # descending, [R]; each is at most that of K
    gap: float  # nats: the entropy of these eigenvalues is off by no more


def spectral_entropy(eigenvalues: Tensor, t: float) -> float:
    """Return the entropy of |eigenvalue|^t as shares of their sum, nats."""
    return float(entropy_of_shares(eigenvalues.double().abs().pow(t)))


def approximate(operator: DiffusionOperator, t: float, goal: float, most: int, *, patient: bool = False) -> LowRank:
    """Take blocks of columns until the gap is at most ``goal`` (nats) or there are ``most``, and bound it.

    Unless ``patient``, it also stops when the gap falls too slowly to get there, and for t of 2 and more it gives what
    one product of the operator with the columns makes of them, which holds far more of such powers.

    Columns are drawn in proportion to what is left of the diagonal, from a generator of its own: the same operator
    gives the same columns.

    Source: Chen, Epperly, Tropp & Webber 2023, "Randomly pivoted Cholesky", in blocks; Halko, Martinsson & Tropp 2011,
    section 5.5, for the product.
    """
    count, device = len(operator), operator.points.device
    random = np.random.default_rng(0)
    sharp = t >= 2 and not patient  # who is patient may have tiles in float32, too coarse for a product
    trace, squares = float(operator.diagonal.sum()), operator.squares() if sharp else math.inf
    left = operator.diagonal.clone()
    floor = ROUNDING * float(left.max())
    factor = torch.empty(count, 0, dtype=torch.float64, device=device)
    gram = torch.empty(0, 0, dtype=torch.float64, device=device)
    before: tuple[int, float] | None = None
    while True:
        rank = factor.shape[1]
        wider = rank if sharp else rank // 2  # a product costs far more than columns: fewer rounds
        width = min(max(FIRST, wider), most - rank, int((left > floor).sum()))
        chosen = random.choice(count, width, replace=False, p=(left / left.sum()).cpu().numpy())
        places = torch.from_numpy(np.sort(chosen)).to(device)
        columns = operator.columns(places) - factor @ factor[places].T
        new = _halved(columns, columns[places], floor)
        left = (left - new.square().sum(1)).clamp_(min=0)
        left[places] = 0
        side = factor.T @ new
        gram = torch.cat([torch.cat([gram, side], 1), torch.cat([side.T, new.T @ new], 1)])
        factor = torch.cat([factor, new], 1)
        ended = factor.shape[1] >= most or not bool((left > floor).any())
        if sharp and rank == 0 and not ended:
            continue
        found = _bounded(*(_sharpened(operator, factor) if sharp else (factor, gram)), trace, squares, t)
        if found.gap <= goal or ended or not (patient or _hope(before, found, goal, most)):
            return found
        before = factor.shape[1], found.gap


def _halved(columns: Tensor, core: Tensor, floor: float) -> Tensor:
    """F with F F' = columns core^-1 columns', but for the directions in which ``core`` is below ``floor``."""
    values, vectors = torch.linalg.eigh(core)
    kept = values > floor
    return columns @ (vectors[:, kept] / values[kept].sqrt())


def _sharpened(operator: DiffusionOperator, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Nystrom's K F (F' K F)^-1 F' K, which is at most K too, as a factor and its Gram matrix."""
    product = operator.times(factor)
    core = factor.T @ product
    # The core holds squares of eigenvalues: its rounding, 1e-16, is one of 1e-11 in the smallest that is kept
    sharp = _halved(product, core, 1e-10 * float(core.diagonal().max()))
    return sharp, sharp.T @ sharp


def _bounded(factor: Tensor, gram: Tensor, trace: float, squares: float, t: float) -> LowRank:
    """The low-rank part F F' of an operator of this ``trace`` and sum of ``squares``, with its gap."""
    count = len(factor)
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)
    rest = rise(max(0.0, trace - float(eigenvalues.sum())), t, count)
    if squares < math.inf:  # the largest rises to 1; the others' powers rise most if the second takes all of the rest
        first, second = (float(x) ** 2 for x in (eigenvalues[0], eigenvalues[1:2].sum()))
        more = max(0.0, squares - float(gram.square().sum()))
        rest = min(rest, max(0.0, 1 - first ** (t / 2)) + (second + more) ** (t / 2) - second ** (t / 2))
    return LowRank(factor, gram, eigenvalues, entropy_gap(eigenvalues.pow(t), rest, count))


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
    rank, slope = now.factor.shape[1], STEEPEST
    if before is not None and rank >= 3 * FIRST:
        slope = math.log(before[1] / now.gap) / math.log(rank / before[0])
    return now.gap * (rank / most) ** max(slope, 0.0) <= SLACK * goal
