"""Sums and gathers over the processes of a group, so that a batch split over several gives the numbers of one."""

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None
"""The processes that hold parts of one batch; None means that this process holds all of it."""


def total(values: Tensor, group: Group = None) -> Tensor:
    """The sum over the processes of each element of ``values``, without gradients.

    >>> total(torch.tensor([2.0, 3.0]))
    tensor([2., 3.])
    """
    values = values.detach().clone()
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def counts_of(count: int, group: Group = None, device: torch.device | str = "cpu") -> tuple[list[int], int]:
    """What ``count`` is on each process, in the order of their ranks, and the sum of those before this one.

    >>> counts_of(3)
    ([3], 0)
    """
    if group is None:
        return [count], 0
    counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, torch.tensor([count], device=device), group=group)
    found = [int(count) for count in counts]
    return found, sum(found[: dist.get_rank(group)])


def gather(values: Tensor, group: Group = None) -> tuple[Tensor, int]:
    """The values ``[N]`` of all processes, in the order of their ranks, and the place where this one's begin.

    Each process may hold another number of them, also none.

    >>> gather(torch.tensor([2.0, 3.0]))
    (tensor([2., 3.]), 0)
    """
    values = values.detach()
    if group is None:
        return values, 0
    counts, start = counts_of(len(values), group, values.device)
    padded = values.new_zeros(max(counts))
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), start


def from_first(values: Tensor, group: Group = None) -> Tensor:
    """What the first process of the group holds; the others give a tensor of the same shape and dtype."""
    if group is not None:
        dist.broadcast(values, dist.get_global_rank(group, 0), group=group)
    return values
