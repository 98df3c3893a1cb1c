"""Experiments on one thread: as many threads as cores round sums otherwise on every machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: what is trained or written is then the same on any number of cores.

    Small networks are faster so, too: threads wait for one another by spinning.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
