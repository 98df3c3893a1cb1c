"""The spectral entropy of an operator too large to diagonalise, from products with random vectors.

tr f(K) = E[x' f(K) x] over vectors x of random signs, and k steps of Lanczos' recurrence from x give a quadrature of
x' f(K) x with k nodes. A low-rank part of K, whose trace is known exactly, takes most of the variance away.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hartley.representation.diffusion_operator import DiffusionOperator
from hartley.representation.low_rank import LowRank, approximate, spectral_entropy

RANK = 1024  # columns of the part that is taken exactly
PROBES = 24
STEPS = 48
TRUNCATION = 1e-2  # nats that the quadrature may be off by; then the recurrence stops


class Estimate(NamedTuple):
    """An entropy in nats, its standard error over the probes, and what the quadrature adds to it at most."""

    entropy: float
    standard_error: float
    truncation: float


def lanczos_entropy(operator: DiffusionOperator, t: float, goal: float, random: np.random.Generator) -> Estimate:
    """Return the entropy of the eigenvalues^t as shares of their sum, nats, by stochastic Lanczos quadrature.

    With f(x) = -x^t ln x^t and T = tr K^t, it is ln T + tr f(K) / T. Both traces are that of a low-rank part plus the
    mean over the probes of x' (f(K) - f(part)) x; for t = 1, T is known. Where the part alone is within ``goal`` (nats)
    nothing is drawn. Gauss' rule lies above x' f(K) x and Radau's, with a node at 0, below it for t = 1, so half their
    distance bounds the truncation; for another t it only indicates it.

    Source: Ubaru, Chen & Saad 2017, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature"; Golub & Meurant
    1994 for the two rules; Meyer et al. 2021, "Hutch++", for the part that is taken exactly.
    """
    part = approximate(operator, t, goal, min(RANK, len(operator) // 2), patient=True)
    if part.gap <= goal:
        return Estimate(spectral_entropy(part.eigenvalues, t), 0.0, part.gap)
    device = operator.points.device
    signs = random.integers(0, 2, (len(operator), PROBES)) * 2.0 - 1
    probes = torch.from_numpy(signs).to(device)
    head = _Head(part, probes, t)
    recurrence = _Recurrence(operator, probes)
    found = Estimate(math.nan, math.nan, math.inf)
    for step in range(1, STEPS + 1):
        recurrence.advance()
        if step < 4 or step % 2:
            continue
        upper, lower = (head.add(*recurrence.rule(radau)) for radau in (False, True))
        middle = (upper + lower) / 2
        total = operator.diagonal.sum().expand(PROBES) if t == 1 else middle[0]
        found = _ratio(total, middle[1], float((upper - lower)[1].mean().abs()) / 2)
        if found.truncation <= TRUNCATION:
            break
    return found


def _ratio(totals: Tensor, sums: Tensor, half_width: float) -> Estimate:
    """ln T + A / T from the two traces by each probe, with the delta method's standard error."""
    total, mean = float(totals.mean()), float(sums.mean())
    moves = (sums - mean) / total + (totals - total) * (1 / total - mean / total**2)
    error = float(moves.square().sum().sqrt()) / math.sqrt(len(moves) * (len(moves) - 1))
    return Estimate(math.log(total) + mean / total, error, half_width / total)


class _Head:
    """The traces of part^t and f(part), and what the probes see of them."""

    def __init__(self, part: LowRank, probes: Tensor, t: float) -> None:
        self.t = t
        values, vectors = torch.linalg.eigh(part.gram)
        kept = values > 1e-14 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        seen = (vectors.T @ (part.factor.T @ probes)).square() / values[:, None]  # (v' x)^2, [R, M]
        masses = _masses(values, t)
        self.exact, self.seen = masses.sum(1, keepdim=True), masses @ seen  # [2, 1], [2, M]

    def add(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """The two traces by each probe, ``[2, M]``, from its quadrature ``[M, k]``."""
        return self.exact - self.seen + (_masses(nodes, self.t) * weights).sum(-1)


def _masses(values: Tensor, t: float) -> Tensor:
    """|x|^t and -|x|^t ln |x|^t, ``[2, ...]``."""
    a = values.abs().pow(t)
    return torch.stack([a, -torch.special.xlogy(a, a)])


class _Recurrence:
    """Lanczos' three terms for every probe side by side, each made orthogonal to all of its own before."""

    def __init__(self, operator: DiffusionOperator, probes: Tensor) -> None:
        self.operator = operator
        self.norms = probes.square().sum(0)
        self.basis = [(probes / self.norms.sqrt()).to(operator.points.dtype)]
        self.alpha: list[Tensor] = []
        self.beta: list[Tensor] = []

    def advance(self) -> None:
        """One more step: a product with the operator for all probes."""
        vector = self.basis[-1]
        product = self.operator.times(vector)
        self.alpha.append((vector * product).sum(0).double())
        for _ in range(2):
            for old in self.basis:
                product -= old * (old * product).sum(0)
        size = product.norm(dim=0)
        alive = size > 1e-6  # below, what is left is rounding: the probe has seen all there is
        self.beta.append((size * alive).double())
        self.basis.append(product * (alive / size.clamp(min=1e-30)))

    def rule(self, radau: bool) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``[M, k]``: Gauss', or Radau's with one more node, at 0."""
        alpha, beta = torch.stack(self.alpha, 1), torch.stack(self.beta, 1)
        matrix = torch.diag_embed(alpha) + torch.diag_embed(beta[:, :-1], 1) + torch.diag_embed(beta[:, :-1], -1)
        if radau:
            size = alpha.shape[1]
            bigger = matrix.new_zeros(len(matrix), size + 1, size + 1)
            bigger[:, :size, :size] = matrix
            bigger[:, size, size - 1] = bigger[:, size - 1, size] = beta[:, -1]
            # det = 0 fixes the last entry: beta^2 e_k' T^-1 e_k
            unit = torch.zeros_like(alpha)
            unit[:, -1] = 1
            shift = 1e-12 * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
            bigger[:, size, size] = beta[:, -1].square() * torch.linalg.solve(matrix + shift, unit)[:, -1]
            matrix = bigger
        nodes, vectors = torch.linalg.eigh(matrix)
        return nodes, vectors[:, 0].square() * self.norms[:, None]
