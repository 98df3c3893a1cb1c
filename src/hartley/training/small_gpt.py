"""A small GPT whose blocks can go without LayerNorm and activation, and whose attention can learn its temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hartley.info.checks import check_one_of, check_positive

Activation = Literal["gelu", "relu"] | None


@dataclass(frozen=True)
class Shape:
    """V tokens, T places, L layers of H heads over D features."""

    vocabulary: int
    context: int = 48
    layers: int = 3
    heads: int = 4
    width: int = 64


class SmallGPT(nn.Module):
    """A pre-norm GPT-2 that returns its attentions; with ``norm=False, activation=None`` only softmax is not linear.

    Parameters
    ----------
    shape
        Sizes.
    norm
        LayerNorm before attention and feed-forward, and at the end.
    activation
        Of the feed-forward: "gelu", "relu" or None.
    scaled_ffn
        Learn the weights of both branches of the feed-forward's sum, x b + FFN(x) / a, and without an activation make
        it one matrix ``[D, D]`` from the start: an eighth of the multiplications.
    temperature
        None, or where a learnable temperature of each head and query starts: scores are divided by it.

    Source: Jha & Reagen 2025, "Entropy-Guided Attention for Private LLMs", sections 2 and 4.
    """

    def __init__(
        self,
        shape: Shape,
        norm: bool = True,
        activation: Activation = "gelu",
        scaled_ffn: bool = False,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        check_one_of("activation", activation, ("gelu", "relu", None))
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Parameter(0.02 * torch.randn(shape.context, shape.width))
        self.blocks = nn.ModuleList(
            Block(shape, norm, activation, scaled_ffn, temperature) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width) if norm else nn.Identity()
        self.head = nn.Linear(shape.width, shape.vocabulary)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits ``[B, T, V]`` and the attention ``[B, H, T, T]`` of each layer for ``ids [B, T]``."""
        x = self.tokens(ids) + self.places[: ids.shape[1]]
        attentions: list[Tensor] = []
        for block in self.blocks:
            x, weights = block(x)
            attentions.append(weights)
        return self.head(self.norm(x)), attentions


class Block(nn.Module):
    """Attention, then a feed-forward."""

    def __init__(
        self, shape: Shape, norm: bool, activation: Activation, scaled_ffn: bool, temperature: float | None
    ) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(shape.width) if norm else nn.Identity()
        self.before_ffn = nn.LayerNorm(shape.width) if norm else nn.Identity()
        self.attention = Attention(shape, temperature)
        self.ffn = feed_forward(shape.width, activation, fused=scaled_ffn and activation is None)
        self.scales = nn.Parameter(torch.ones(2)) if scaled_ffn else None  # a, b

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[B, T, D]`` and attention ``[B, H, T, T]``."""
        mixed, weights = self.attention(self.before_attention(x))
        x = x + mixed
        changed = self.ffn(self.before_ffn(x))
        if self.scales is None:
            return x + changed, weights
        return self.scales[1] * x + changed / self.scales[0], weights


class Attention(nn.Module):
    """Causal attention of H heads; with a temperature, softmax(scores / t) for a t of each head and query."""

    def __init__(self, shape: Shape, temperature: float | None) -> None:
        super().__init__()
        self.heads = shape.heads
        self.project = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.log_temperature = None
        if temperature is not None:
            check_positive("temperature", temperature)
            start = torch.full((shape.heads, shape.context, 1), float(temperature))
            self.log_temperature = nn.Parameter(start.log())  # its exponential stays above 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed values ``[B, T, D]`` and the weights ``[B, H, T, T]``."""
        batch, time, width = x.shape
        parts = self.project(x).view(batch, time, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(-1, -2) / (width // self.heads) ** 0.5
        if self.log_temperature is not None:
            scores = scores / self.log_temperature[:, :time].exp()
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).reshape(batch, time, width)), weights


def feed_forward(width: int, activation: Activation, fused: bool = False) -> nn.Module:
    """Two matrices, ``[4 D, D]`` and ``[D, 4 D]``, around an activation, or ``fused`` one ``[D, D]`` without."""
    if fused:
        return nn.Linear(width, width)
    between = {"gelu": nn.GELU, "relu": nn.ReLU, None: nn.Identity}[activation]
    return nn.Sequential(nn.Linear(width, 4 * width), between(), nn.Linear(4 * width, width))


def fuse_ffn(block: Block) -> None:
    """Replace a feed-forward without activation by the one matrix that it equals, in place.

    Raises ``ValueError`` for one with an activation, which equals no matrix.

    >>> block = Block(Shape(9, width=8), norm=False, activation=None, scaled_ffn=False, temperature=None)
    >>> fuse_ffn(block)
    >>> block.ffn
    Linear(in_features=8, out_features=8, bias=True)
    """
    if isinstance(block.ffn, nn.Linear):
        return
    first, between, second = block.ffn.children()
    if not isinstance(between, nn.Identity) or not isinstance(first, nn.Linear) or not isinstance(second, nn.Linear):
        raise ValueError(f"block must have a feed-forward without an activation; got {between}")
    fused = nn.Linear(first.in_features, second.out_features, device=first.weight.device, dtype=first.weight.dtype)
    with torch.no_grad():
        fused.weight.copy_(second.weight @ first.weight)
        fused.bias.copy_(second.weight @ first.bias + second.bias)
    block.ffn = fused
