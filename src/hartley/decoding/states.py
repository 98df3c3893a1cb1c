"""Sampler states of several sequences: taken apart into single rows, and put together again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

State = Any  # None, a tensor with one row per sequence, or a tuple of states


def take(state: State, rows: list[int]) -> State:
    """The state of these rows: None, a tensor with a row each, or a tuple of those.

    >>> take((None, torch.tensor([6.0, 5.0, 4.0])), [2, 0])
    (None, tensor([4., 6.]))
    """
    if state is None:
        return None
    return tuple(take(part, rows) for part in state) if isinstance(state, tuple) else state[rows]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def join(states: Sequence[State]) -> State:
    """One state of all rows out of the states of some each; the other way round than :func:`take`.

    >>> join([(None, torch.tensor([6.0])), (None, torch.tensor([5.0]))])
    (None, tensor([6., 5.]))
    """
    first = states[0]
    if isinstance(first, tuple):
        return tuple(join(parts) for parts in zip(*states, strict=True))
    return torch.cat(list(states)) if isinstance(first, Tensor) else first
