"""The Triton kernels for a tile of float32 logits, a row to a program: ``tiles_reference.py``, in one pass each.

A row of a tile is read twice in a row, the second time from the cache.
"""

# triton ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingImports=false, reportIndexIssue=false, reportMissingTypeArgument=false

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


@triton.jit
def _sums(tile, out, rows, size, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    start = tile + row.to(tl.int64) * stride
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    bad = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, size, BLOCK):
        z = tl.load(start + begin + place, mask=begin + place < size, other=float("-inf"))
        highest = tl.maximum(highest, z)
        bad += tl.where(z == z, 0.0, 1.0)
    top = tl.max(highest, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    s0 = tl.zeros([BLOCK], tl.float32)
    s1 = tl.zeros([BLOCK], tl.float32)
    s2 = tl.zeros([BLOCK], tl.float32)
    ties = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, size, BLOCK):
        z = tl.load(start + begin + place, mask=begin + place < size, other=float("-inf"))
        d = tl.maximum(z - shift, -1e4)
        below = d < 0.0
        e = tl.where(below, tl.exp(d), 0.0)
        s0 += e
        s1 += e * d
        s2 += e * d * d
        ties += tl.where(below, 0.0, 1.0)
    top = tl.where(tl.sum(bad, 0) > 0, float("nan"), top)
    tl.store(out + row, top.to(tl.float64))
    tl.store(out + rows + row, tl.sum(s0, 0).to(tl.float64) + (tl.sum(ties, 0).to(tl.float64) - 1.0))
    tl.store(out + 2 * rows + row, tl.sum(s1, 0).to(tl.float64))
    tl.store(out + 3 * rows + row, tl.sum(s2, 0).to(tl.float64))


@triton.jit
def _slope(tile, lse, entropy, weights, out, rows, size, tile_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    z = tl.load(tile + row.to(tl.int64) * tile_stride + place, mask=inside, other=float("-inf"))
    log_p = tl.maximum(z - tl.load(lse + row), -1e4)
    u = log_p + tl.load(entropy + row)
    a = tl.load(weights + row)
    b = tl.load(weights + rows + row)
    c = tl.load(weights + 2 * rows + row)
    found = tl.exp(log_p) * (a + u * (b + u * c))
    tl.store(out + row.to(tl.int64) * out_stride + place, found, mask=inside)


def sums(tile: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.tiles_reference.sums`; less than e^-104 beside the largest counts as nothing."""
    out = torch.empty(4, tile.shape[0], dtype=torch.float64, device=tile.device)
    if out.numel():
        _sums[(tile.shape[0],)](tile, out, tile.shape[0], tile.shape[1], tile.stride(0), BLOCK=BLOCK)
    return out


def slope(tile: Tensor, lse: Tensor, entropy: Tensor, weights: Tensor, out: Tensor) -> None:
    """See :func:`hartley.info.kernels.tiles_reference.slope`."""
    (rows, size), strides = tile.shape, (tile.stride(0), out.stride(0))
    if tile.numel():
        _slope[(rows, triton.cdiv(size, BLOCK))](tile, lse, entropy, weights, out, rows, size, *strides, BLOCK=BLOCK)
