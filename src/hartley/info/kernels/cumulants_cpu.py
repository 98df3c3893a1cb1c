"""The CPU kernel for the statistics of written tokens: one pass over float32 logits, rows in parallel.

It restates ``cumulants_reference.py``. A strip of a row stays in the first-level cache while it is raised to every
power that is asked for, so ten powers cost ten exponentials and no more reading.
"""

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
def _cumulants(logits, tokens, powers, out, functions):
    rows, size = logits.shape
    count = powers.size
    for row in prange(rows):
        top = np.float32(-np.inf)
        bad = np.float32(0.0)
        for i in range(size):
            x = logits[row, i]
            top = x if x > top else top
            bad += np.float32(0.0) if x == x else np.float32(1.0)
        if bad > 0 or not (top > -np.inf and top < np.inf):
            out[:, row] = np.nan
            functions[row, :] = np.nan
            continue
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        sums = np.zeros(count)
        depth = np.empty(STRIP, np.float32)
        for begin in range(0, size, STRIP):
            width = min(STRIP, size - begin)
            a0 = np.float32(0.0)
            a1 = np.float32(0.0)
            a2 = np.float32(0.0)
            for i in range(width):
                d = logits[row, begin + i] - top
                depth[i] = d
                inside = d > TINY
                d = d if inside else TINY
                e = exp(d)
                e = e if inside else np.float32(0.0)
                ed = e * d
                a0 += e
                a1 += ed
                a2 += ed * d
            s0 += a0
            s1 += a1
            s2 += a2
            for k in range(count):
                power = powers[k]
                total = np.float32(0.0)
                for i in range(width):
                    d = depth[i] * power
                    inside = d > TINY
                    e = exp(d if inside else TINY)
                    total += e if inside else np.float32(0.0)
                sums[k] += total
        mean = s1 / s0
        log_sum = np.log(s0)
        out[0, row] = log_sum - (np.float64(logits[row, tokens[row]]) - np.float64(top))
        out[1, row] = log_sum - mean
        out[2, row] = max(s2 / s0 - mean * mean, 0.0)
        for k in range(count):
            functions[row, k] = np.log(sums[k]) - np.float64(powers[k]) * log_sum


def cumulants(logits: Tensor, tokens: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`hartley.info.kernels.cumulants_reference.cumulants`."""
    powers = (1 - lambdas.double()).numpy().astype(np.float32)
    out = np.empty((3, logits.shape[0]))
    functions = np.empty((logits.shape[0], powers.size))
    _cumulants(np.ascontiguousarray(logits.numpy()), tokens.contiguous().numpy(), powers, out, functions)
    return torch.from_numpy(out), torch.from_numpy(functions)
