"""Passes of the CPU kernels over whole rows of float32 logits, block by block, blocks in parallel.

A block of 4,096 logits stays in the first-level cache while its maximum and then its exponential sums are taken; the
maxima of runs of 64 logits are kept, so that later only the runs are opened that can hold what is looked for.
"""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

import numpy as np
from numba import njit, prange

from hartley.info.kernels.cpu_scalars import LOWEST, TINY, exp, uniform

BLOCK = 4096
RUN = 64
STRIP = 512  # how many terms are added in float32 before float64 takes over
BINS = 1024
PER_LOGIT = np.float32(32.0)  # the histogram covers the 32 below the largest logit in steps of 1/32
SAMPLE = 16384  # logits of a row that the histogram looks at, about: every run, or every so manieth
REASSOCIATE = {"reassoc", "contract", "nsz"}  # sums may be split over lanes; NaN and infinities keep their meaning


@njit(parallel=True, cache=True, fastmath=REASSOCIATE)
def statistics(logits, inverse_temperature, run_max, log_sum, out):
    """Write ``log_sum``; max, entropy and varentropy into ``out [3, B]``; and the largest logit of each run."""
    rows, size = logits.shape
    blocks = (size + BLOCK - 1) // BLOCK
    part = np.empty((rows, blocks, 4), np.float64)
    for item in prange(rows * blocks):
        row = item // blocks
        block = item % blocks
        start = block * BLOCK
        stop = min(start + BLOCK, size)
        scale = np.float32(inverse_temperature[row])
        top = np.float32(-np.inf)
        bad = np.float32(0.0)
        for begin in range(start, stop, RUN):
            highest = np.float32(-np.inf)
            for i in range(begin, min(begin + RUN, stop)):
                x = logits[row, i]
                highest = x if x > highest else highest
                bad += np.float32(0.0) if x == x else np.float32(1.0)
            run_max[row, begin // RUN] = highest
            top = highest if highest > top else top
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        if top > -np.inf and top < np.inf:
            for begin in range(start, stop, STRIP):
                a0 = np.float32(0.0)
                a1 = np.float32(0.0)
                a2 = np.float32(0.0)
                for i in range(begin, min(begin + STRIP, stop)):
                    d = (logits[row, i] - top) * scale
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
        part[row, block, 0] = np.nan if bad > 0 else top
        part[row, block, 1] = s0
        part[row, block, 2] = s1
        part[row, block, 3] = s2
    for row in range(rows):
        scale = inverse_temperature[row]
        top = -np.inf
        for block in range(blocks):
            m = part[row, block, 0]
            if not (m <= top):  # also when m is NaN
                top = m
                if m != m:
                    break
        if not (top > -np.inf and top < np.inf):
            out[0, row] = top
            out[1, row] = np.nan
            out[2, row] = np.nan
            log_sum[row] = np.nan
            continue
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        for block in range(blocks):
            m = part[row, block, 0]
            if m == -np.inf:
                continue
            shift = (m - top) * scale
            w = np.exp(shift)
            b0 = part[row, block, 1] * w
            b1 = part[row, block, 2] * w
            s0 += b0
            s1 += b1 + shift * b0
            s2 += part[row, block, 3] * w + 2.0 * shift * b1 + shift * shift * b0
        mean = s1 / s0
        out[0, row] = top
        out[1, row] = np.log(s0) - mean
        out[2, row] = max(s2 / s0 - mean * mean, 0.0)
        log_sum[row] = top * scale + np.log(s0)


@njit(parallel=True, cache=True)
def histogram(logits, run_max, counts):
    rows, size = logits.shape
    runs = run_max.shape[1]
    stride = max(size // SAMPLE, 1)
    for row in prange(rows):
        top = run_max[row].max()
        for place in range(0, runs, stride):
            run = min(place + (place // stride) % stride, runs - 1)  # staggered: vocabularies have periods
            if run_max[row, run] > top - np.float32(BINS) / PER_LOGIT:
                for i in range(run * RUN, min(run * RUN + RUN, size)):
                    depth = (top - logits[row, i]) * PER_LOGIT
                    if depth < BINS:
                        counts[row, int(depth)] += stride


@njit(cache=True)
def _middle(logits):
    """Mean of some of the finite logits of a row: differences to it are small, so their squares lose no digits."""
    total = 0.0
    count = 0
    for i in range(0, logits.size, max(logits.size // STRIP, 1)):
        if logits[i] > -np.inf:
            total += logits[i]
            count += 1
    return np.float32(total / count) if count else np.float32(0.0)


@njit(parallel=True, cache=True, fastmath=REASSOCIATE)
def deviation(logits, out):
    rows, size = logits.shape
    for row in prange(rows):
        middle = _middle(logits[row])
        count = 0.0
        total = 0.0
        square = 0.0
        for begin in range(0, size, STRIP):
            a0 = np.float32(0.0)
            a1 = np.float32(0.0)
            a2 = np.float32(0.0)
            for i in range(begin, min(begin + STRIP, size)):
                inside = logits[row, i] > -np.inf
                difference = logits[row, i] - middle if inside else np.float32(0.0)
                a0 += np.float32(1.0) if inside else np.float32(0.0)
                a1 += difference
                a2 += difference * difference
            count += a0
            total += a1
            square += a2
        mean = total / count
        out[row] = np.sqrt(max(square / count - mean * mean, 0.0))


@njit(cache=True)
def _count_row(logits, run_max, bound):
    least = max(bound, LOWEST)
    n = 0
    for run in range(run_max.size):
        if run_max[run] >= least:
            for i in range(run * RUN, min(run * RUN + RUN, logits.size)):
                n += logits[i] >= least
    return max(n, 1)


@njit(parallel=True, cache=True)
def count(logits, run_max, chosen, floor):
    """How many finite logits of each chosen row reach its floor, at least 1."""
    out = np.empty(chosen.size, np.int64)
    if chosen.size == 1:
        out[0] = _count_row(logits[chosen[0]], run_max[chosen[0]], floor[0])
        return out
    for item in prange(chosen.size):
        out[item] = _count_row(logits[chosen[item]], run_max[chosen[item]], floor[item])
    return out


@njit(parallel=True, cache=True)
def race_all(logits, scale, run_max, seeds, out):
    rows, size = logits.shape
    blocks = (size + BLOCK - 1) // BLOCK
    best_of = np.zeros((rows, blocks))
    winner_of = np.zeros((rows, blocks), np.int64)
    for item in prange(rows * blocks):
        row = item // blocks
        block = item % blocks
        seed = np.uint64(seeds[row])
        inverse = np.float64(scale[row])
        top = run_max[row].max()
        best = 0.0
        winner = np.int64(-1)
        start = block * BLOCK
        for begin in range(start, min(start + BLOCK, size), RUN):
            run_top = run_max[row, begin // RUN]
            if run_top == -np.inf:
                continue
            bound = np.exp((run_top - top) * inverse)
            for i in range(begin, min(begin + RUN, size)):
                u = uniform(seed, i)
                if bound > best * u:
                    score = np.exp((logits[row, i] - top) * inverse) / -np.log1p(-u)
                    if score > best:
                        best = score
                        winner = i
        best_of[row, block] = best
        winner_of[row, block] = winner
    for row in range(rows):
        out[row] = winner_of[row, best_of[row].argmax()]


@njit(parallel=True, cache=True)
def finite(logits, out):
    for row in prange(logits.shape[0]):
        n = 0
        for i in range(logits.shape[1]):
            n += logits[row, i] > -np.inf
        out[row] = n


@njit(cache=True)
def rank_of(logits, run_max, token):
    """Place of a token in the order of its row, from 1, by looking at the row again."""
    own = logits[token]
    rank = 1
    for run in range(run_max.size):
        if run_max[run] >= own:
            for i in range(run * RUN, min(run * RUN + RUN, logits.size)):
                rank += logits[i] > own or (logits[i] == own and i < token)
    return rank
