"""The definition of what is done to one tile of logits, R rows by C columns, in plain torch on any device."""

import torch
from torch import Tensor


def sums(tile: Tensor) -> Tensor:
    """``[4, R]`` float64, by row of ``tile [R, C]``: the largest logit, and three sums that leave it out.

    With d the distance below it: sum e^d over the other columns, sum e^d d, sum e^d d^2. Without the 1 that the largest
    adds to the first, small numbers keep all their digits. A row of -inf gives (-inf, -1, 0, 0): nothing at all. NaN or
    +inf stays in the first number.
    """
    if tile.shape[1] == 0:
        return tile.new_tensor([-torch.inf, -1, 0, 0], dtype=torch.float64)[:, None].repeat(1, tile.shape[0])
    top, place = tile.max(-1, keepdim=True)
    depth = (tile - top).clamp(min=torch.finfo(tile.dtype).min)  # -inf, whose weight is 0, as a number
    weights = depth.exp().scatter(-1, place, 0.0)
    parts = [weights, weights * depth, weights * depth.square().clamp(max=torch.finfo(tile.dtype).max)]
    found = torch.stack([top.squeeze(-1).double(), *(part.sum(-1, dtype=torch.float64) for part in parts)])
    nothing = found.new_tensor([-torch.inf, -1, 0, 0])[:, None]
    return torch.where(found[0].isneginf(), nothing, found)


def slope(tile: Tensor, lse: Tensor, entropy: Tensor, weights: Tensor, out: Tensor) -> None:
    """Write p (a + b u + c u^2) into ``out [R, C]``, with p = e^(z - lse), u = ln p + entropy and ``weights [3, R]``.

    It is the slope, by logit, of anything that is a mean over p of 1, ln p and (ln p)^2. ``out`` may be ``tile``.
    """
    a, b, c = weights[:, :, None]
    log_p = tile - lse[:, None]
    p = log_p.exp()
    u = log_p.masked_fill_(p == 0, 0.0) + entropy[:, None]
    torch.mul(p, a + u * (b + u * c), out=out)
