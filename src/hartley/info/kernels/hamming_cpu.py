"""The CPU kernel for the nearest codes in Hamming distance: queries in parallel, codes in tiles that stay in cache."""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

TILE = 1 << 17  # bytes of codes that are looked at together, a part of the second-level cache
TOGETHER = 16  # queries that share a tile

PAIRS, QUADS, BYTES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
EVERY_BYTE = np.uint64(0x0101010101010101)


@njit(inline="always")
def _ones(word):
    """How many bits of 64 are set; LLVM knows this form and puts the processor's instruction in its place."""
    word = word - ((word >> np.uint64(1)) & PAIRS)
    word = (word & QUADS) + ((word >> np.uint64(2)) & QUADS)
    word = (word + (word >> np.uint64(4))) & BYTES
    return (word * EVERY_BYTE) >> np.uint64(56)


@njit(parallel=True, cache=True)
def _nearest(queries, codes, distance, place):
    count, words = queries.shape
    k = distance.shape[1]
    tile = max(1, TILE // (8 * max(1, words)))
    for group in prange((count + TOGETHER - 1) // TOGETHER):
        for begin in range(0, codes.shape[0], tile):
            for i in range(group * TOGETHER, min((group + 1) * TOGETHER, count)):
                for j in range(begin, min(begin + tile, codes.shape[0])):
                    differing = np.uint64(0)
                    for w in range(words):
                        differing += _ones(queries[i, w] ^ codes[j, w])
                    d = np.int64(differing)
                    if d < distance[i, k - 1]:
                        at = k - 1
                        while at > 0 and distance[i, at - 1] > d:
                            distance[i, at] = distance[i, at - 1]
                            place[i, at] = place[i, at - 1]
                            at -= 1
                        distance[i, at] = d
                        place[i, at] = j


def nearest(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See :func:`hartley.info.kernels.hamming_reference.nearest`."""
    distance = np.full((len(queries), k), np.iinfo(np.int64).max)
    place = np.zeros((len(queries), k), np.int64)
    _nearest(_words(queries), _words(codes), distance, place)
    return torch.from_numpy(distance), torch.from_numpy(place)


def _words(codes: Tensor) -> np.ndarray:
    return np.ascontiguousarray(codes.numpy()).view(np.uint64)
