"""Many small networks on scikit-learn's digits at once, one for each seed: experiments over seeds in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits of scikit-learn: pixels [N, 64] in 0..1, and classes [N]."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return torch.tensor(bunch["data"] / 16, dtype=torch.float32), torch.tensor(bunch["target"])


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a seed, so that a seed's run does not depend on its neighbours."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def shuffled(count: int, randoms: Sequence[torch.Generator]) -> Tensor:
    """A permutation of 0..count-1 for each generator, [S, count]."""
    return torch.stack([torch.randperm(count, generator=g) for g in randoms])


class Nets(nn.Module):
    """S networks of one shape, [S, B, sizes[0]] -> [S, B, sizes[-1]], with ``activation`` between the layers.

    What one does has no effect on another, so the sum of their losses trains each as alone (with an optimiser that
    treats every weight by itself: SGD, Adam).
    """

    def __init__(
        self, sizes: Sequence[int], randoms: Sequence[torch.Generator], activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for wide, out in pairwise(sizes):
            drawn = torch.stack([2 * torch.rand(wide + 1, out, generator=g) - 1 for g in randoms]) * wide**-0.5
            self.weights.append(nn.Parameter(drawn[:, :-1].clone()))
            self.biases.append(nn.Parameter(drawn[:, -1:].clone()))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each network on its own rows [S, B, D], or on rows [B, D] that all share."""
        x = x.expand(len(self.weights[0]), *x.shape[-2:])
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, self.activation(x) if layer else x, weight)
        return x


def batches(count: int, size: int, epochs: int, randoms: Sequence[torch.Generator]) -> Iterator[Tensor]:
    """Indices [S, B] of each step, every example once an epoch in an order of the seed's own; a short rest is kept."""
    for _ in range(epochs):
        yield from shuffled(count, randoms).split(size, dim=1)


def noise(like: Tensor, scale: float, randoms: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise [S, ...] of ``like``'s shape, drawn by each seed for itself."""
    return torch.stack([scale * torch.randn(like.shape[1:], generator=g) for g in randoms])


@torch.no_grad()
def top_k_accuracy(nets: Nets, x: Tensor, y: Tensor, k: int = 1) -> Tensor:
    """The share [S] of ``x`` [B, D] or [S, B, D] whose class is among the ``k`` likeliest, percent."""
    found = nets(x).topk(k, dim=-1).indices
    return 100 * (found == y[..., None]).any(-1).double().mean(-1)
