"""The CPU kernels for a tile of float32 logits, rows in parallel: ``tiles_reference.py``, in one pass each."""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from hartley.info.kernels.cpu_rows import REASSOCIATE, STRIP
from hartley.info.kernels.cpu_scalars import TINY, exp


@njit(parallel=True, cache=True, fastmath=REASSOCIATE)
def _sums(tile, out):
    rows, size = tile.shape
    for row in prange(rows):
        top = np.float32(-np.inf)
        bad = np.float32(0.0)
        for i in range(size):
            x = tile[row, i]
            top = x if x > top else top
            bad += np.float32(0.0) if x == x else np.float32(1.0)
        out[0, row] = np.nan if bad > 0 else top
        out[1, row] = -1.0
        out[2, row] = 0.0
        out[3, row] = 0.0
        if bad > 0 or not (top > -np.inf and top < np.inf):
            continue
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        tops = 0.0
        for begin in range(0, size, STRIP):
            a0 = np.float32(0.0)
            a1 = np.float32(0.0)
            a2 = np.float32(0.0)
            ties = np.float32(0.0)
            for i in range(begin, min(begin + STRIP, size)):
                d = tile[row, i] - top
                below = d < np.float32(0.0)
                counts = below and d > TINY
                d = d if d > TINY else TINY
                e = exp(d)
                e = e if counts else np.float32(0.0)
                ed = e * d
                a0 += e
                a1 += ed
                a2 += ed * d
                ties += np.float32(0.0) if below else np.float32(1.0)
            s0 += a0
            s1 += a1
            s2 += a2
            tops += ties
        out[1, row] = s0 + (tops - 1.0)
        out[2, row] = s1
        out[3, row] = s2


@njit(parallel=True, cache=True, fastmath=REASSOCIATE)
def _slope(tile, lse, entropy, weights, out):
    rows, size = tile.shape
    for row in prange(rows):
        shift = lse[row]
        level = entropy[row]
        a = weights[0, row]
        b = weights[1, row]
        c = weights[2, row]
        for i in range(size):
            d = tile[row, i] - shift
            inside = d > TINY
            d = d if inside else TINY
            d = d if d < np.float32(0.0) else np.float32(0.0)
            u = d + level
            p = exp(d)
            p = p if inside else np.float32(0.0)
            out[row, i] = p * (a + u * (b + u * c))


def sums(tile: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.tiles_reference.sums`; less than e^-87 beside the largest counts as nothing."""
    out = np.empty((4, tile.shape[0]))
    _sums(tile.numpy(), out)
    return torch.from_numpy(out)


def slope(tile: Tensor, lse: Tensor, entropy: Tensor, weights: Tensor, out: Tensor) -> None:
    """See :func:`hartley.info.kernels.tiles_reference.slope`."""
    _slope(tile.numpy(), lse.numpy(), entropy.numpy(), weights.numpy(), out.numpy())
