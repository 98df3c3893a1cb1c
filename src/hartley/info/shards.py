"""What several processes hold of one thing, put together; the only module of info/ that talks between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

dist: Any = torch.distributed  # it ships incomplete types


def every(x: Tensor, group: ProcessGroup) -> Tensor:
    """The ``x``, of one shape everywhere, of each process of a group, ``[P, ...]`` in order of rank."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.stack(parts)


def summed(x: Tensor, group: ProcessGroup) -> None:
    """Add the ``x`` of every process of a group, in place, in all of them."""
    dist.all_reduce(x, group=group)


def part_of(size: int, group: ProcessGroup) -> tuple[int, int]:
    """The sum of every process's ``size``, and that of the processes before this one."""
    sizes: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(sizes, size, group=group)
    return sum(sizes), sum(sizes[: dist.get_rank(group)])
