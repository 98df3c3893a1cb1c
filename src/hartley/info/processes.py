"""Sums and gathers over the processes of a group, so that what is split over several gives the numbers of one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor

dist: Any = torch.distributed  # it ships incomplete types

Group = torch.distributed.ProcessGroup | None
"""The processes that hold parts of one thing; None means that this process holds all of it."""


def total(values: Tensor, group: Group = None) -> Tensor:
    """The sum over the processes of each element of ``values``, without gradients.

    >>> total(torch.tensor([2.0, 3.0]))
    tensor([2., 3.])
    """
    values = values.detach().clone()
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def every(values: Tensor, group: Group = None) -> Tensor:
    """The ``values``, of one shape everywhere, of each process, ``[P, ...]`` in the order of their ranks.

    >>> every(torch.tensor([2.0, 3.0]))
    tensor([[2., 3.]])
    """
    values = values.detach()
    if group is None:
        return values[None]
    parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values.contiguous(), group=group)
    return torch.stack(parts)


def counts_of(count: int, group: Group = None, device: torch.device | str = "cpu") -> tuple[list[int], int]:
    """What ``count`` is on each process, in the order of their ranks, and the sum of those before this one.

    ``device`` is one that the group can send from.

    >>> counts_of(3)
    ([3], 0)
    """
    if group is None:
        return [count], 0
    found = [int(one) for one in every(torch.tensor(count, device=device), group)]
    return found, sum(found[: dist.get_rank(group)])


def gather(values: Tensor, group: Group = None) -> tuple[Tensor, int]:
    """The values ``[N, ...]`` of all processes, in the order of their ranks, and the place where this one's begin.

    Each process may hold another number of them, also none.

    >>> gather(torch.tensor([2.0, 3.0]))
    (tensor([2., 3.]), 0)
    """
    values = values.detach()
    if group is None:
        return values, 0
    counts, start = counts_of(len(values), group, values.device)
    padded = values.new_zeros(max(counts), *values.shape[1:])
    padded[: len(values)] = values
    parts = [part[:count] for part, count in zip(every(padded, group), counts, strict=True)]
    return torch.cat(parts), start


def from_first(values: Tensor, group: Group = None) -> Tensor:
    """What the first process of the group holds; the others give a tensor of the same shape and dtype."""
    if group is not None:
        dist.broadcast(values, dist.get_global_rank(group, 0), group=group)
    return values


def all_processes() -> Group:
    """The group of all processes where `torch.distributed` runs with more than one, else None.

    >>> all_processes() is None
    True
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.group.WORLD
