"""Rows of logits for Hypothesis: drawn kinds and sizes, numbers from a drawn seed."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

# Around 64 and 4,096 the kernels change runs and blocks; around 128 a first look no longer sees everything
SIZES = (1, 2, 7, 63, 64, 65, 127, 128, 129, 130, 300, 1000, 4096, 4097)

KINDS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "narrow": lambda size, g: torch.randn(size, generator=g),
    "wide": lambda size, g: 5 * torch.randn(size, generator=g),
    "flat": lambda size, g: torch.full((size,), 0.7),
    "almost flat": lambda size, g: 1e-3 * torch.randn(size, generator=g),
    "tied": lambda size, g: torch.randint(-3, 4, (size,), generator=g).float(),
    "two levels": lambda size, g: (torch.rand(size, generator=g) < 0.1).float() * 4,
    "zipf": lambda size, g: -1.1 * torch.arange(1.0, size + 1).log()[torch.randperm(size, generator=g)],
    "peaked": lambda size, g: torch.randn(size, generator=g).index_fill_(0, torch.tensor([size // 2]), 20.0),
}


def _quantiles(size: int, g: torch.Generator) -> Tensor:
    places = (torch.randperm(size, generator=g) + 0.5).double() / size
    return torch.special.ndtri(places).float()


DISTINCT: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "narrow": _quantiles,
    "wide": lambda size, g: 5 * _quantiles(size, g),
    "zipf": KINDS["zipf"],
    "peaked": lambda size, g: _quantiles(size, g).index_fill_(0, torch.tensor([size // 2]), 20.0),
}


def law(*drawn: st.SearchStrategy[Any], examples: int = 25) -> Callable[[Any], Any]:
    """``@given`` for what must hold of every distribution, on as many as a fast suite can afford."""
    return lambda test: settings(max_examples=examples)(given(*drawn)(test))


def fractions() -> st.SearchStrategy[float]:
    """Shares in (0, 1], 1 among them."""
    return st.floats(0.001, 0.999) | st.just(1.0)


@st.composite
def rows(draw: st.DrawFn, batch: int = 3, sizes: tuple[int, ...] = SIZES, distinct: bool = False) -> Tensor:
    """Float32 logits ``[B, V]`` with some tokens removed, never all of a row; ``distinct`` leaves no ties but -inf."""
    size = draw(st.integers(1, 12) | st.sampled_from(sizes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    kinds = DISTINCT if distinct else KINDS
    made: list[Tensor] = []
    for _ in range(draw(st.integers(1, batch))):
        row = kinds[draw(st.sampled_from(sorted(kinds)))](size, generator)
        removed = torch.rand(size, generator=generator) < draw(st.sampled_from([0.0, 0.0, 0.3, 0.99]))
        removed[int(torch.randint(size, (1,), generator=generator))] = False
        made.append(row.masked_fill(removed, -torch.inf))
    return torch.stack(made)


def seeds() -> st.SearchStrategy[int]:
    """Seeds of a torch.Generator."""
    return st.integers(0, 2**63 - 1)


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One generator a row, each with a seed of its own."""
    return [torch.Generator().manual_seed(seed % 2**62 + i) for i in range(count)]


def log_softmax64(logits: Tensor) -> Tensor:
    """The definition, in float64."""
    return logits.double().log_softmax(-1)


def entropy64(log_probs: Tensor) -> Tensor:
    """``-sum p log p`` with ``0 log 0 = 0``."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1)


def in_order(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities in falling order, ties by id, and the ids."""
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    return log_softmax64(logits).gather(-1, order), order


def unsorted(mask: Tensor, order: Tensor) -> Tensor:
    """A mask over sorted places as one over tokens."""
    return torch.zeros_like(mask).scatter_(-1, order, mask)


def assert_kept(masked: Tensor, logits: Tensor, inside: Tensor, outside: Tensor) -> None:
    """The kept tokens have their logits, hold all that is surely inside, and nothing that is surely outside."""
    kept = masked > -torch.inf
    assert kept.any(-1).all(), "a row lost every token"
    assert torch.equal(masked[kept], logits[kept]), "a kept logit changed"
    assert not (inside & ~kept).any(), f"removed {(inside & ~kept).nonzero().tolist()[:5]}"
    assert not (outside & kept).any(), f"kept {(outside & kept).nonzero().tolist()[:5]}"


def subset(smaller: Any, larger: Any) -> bool:
    """Whether every token the first leaves is left by the second."""
    return not ((smaller > -torch.inf) & (larger == -torch.inf)).any()
