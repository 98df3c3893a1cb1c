"""The nearest of many bit strings: how many bits differ, counted 64 at a time."""

import functools
import math
import os
import threading
from types import ModuleType

import torch
from torch import Tensor

from hartley.info.checks import check_count
from hartley.info.kernels import hamming_reference
from hartley.info.kernels.compiling import announced

WORD = 8  # bytes

_lock = threading.Lock()


def hamming_neighbors(queries: Tensor, codes: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return the number of differing bits (bits) and the rows of the ``k`` codes nearest to each query.

    Parameters
    ----------
    queries, codes
        ``[Q, B]`` and ``[N, B]``, uint8: packed bits, 8 a byte, the last byte filled up alike in both
        (``numpy.packbits``).
    k
        At most N.

    Returns
    -------
    Distances and places, both int64 ``[Q, k]``, nearest first; of codes at one distance the earlier row is nearer.
    Every pair is looked at; in main memory a numba kernel does it on all cores, and one core takes 20 to 25 ns for a
    pair of 4,096 bits.

    Raises
    ------
    ValueError
        For shapes that do not fit and a ``k`` outside 1 .. N.
    TypeError
        For what is not uint8.

    >>> codes = torch.tensor([[0b0000], [0b0111], [0b1111]], dtype=torch.uint8)
    >>> distance, place = hamming_neighbors(codes[1:2], codes, k=2)
    >>> distance.tolist(), place.tolist()
    ([[0, 1]], [[1, 2]])
    """
    check_count("k", k)
    for name, rows in (("queries", queries), ("codes", codes)):
        if rows.dtype != torch.uint8:
            raise TypeError(f"{name} must be uint8, 8 bits packed in each; got {rows.dtype}")
        if rows.ndim != 2:
            raise ValueError(f"{name} must have shape [rows, bytes]; got {tuple(rows.shape)}")
    if queries.shape[1] != codes.shape[1]:
        raise ValueError(f"queries must have {codes.shape[1]} bytes a row, as the codes; got {queries.shape[1]}")
    if k > len(codes):
        raise ValueError(f"k must be at most {len(codes)}, the number of codes; got {k}")
    return _kernels_for(codes).nearest(_words(queries), _words(codes), k)


def _words(rows: Tensor) -> Tensor:
    """The bytes as int64, filled up with zeros."""
    words = rows.new_zeros(len(rows), WORD * max(1, math.ceil(rows.shape[1] / WORD)))
    words[:, : rows.shape[1]] = rows
    return words.view(torch.int64)


def _kernels_for(codes: Tensor) -> ModuleType:
    if codes.device.type == "cpu" and os.environ.get("HARTLEY_KERNELS") != "reference":
        return _compiled()
    return hamming_reference


@functools.cache
def _compiled() -> ModuleType:
    with _lock, announced("the kernel that compares codes"):
        from hartley.info.kernels import hamming_cpu

        word = torch.zeros(1, 1, dtype=torch.int64)
        hamming_cpu.nearest(word, word, 1)
    return hamming_cpu
