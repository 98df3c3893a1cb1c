"""The CPU kernels: one pass over float32 logits in numba, block by block, blocks in parallel.

Every function here restates one of ``reference.py``, which is the definition. What makes them fast: a block of 4,096
logits stays in the first-level cache while its maximum and then its exponential sums are taken; the maxima of runs of
64 logits are kept, so that the likeliest tokens are found by opening the few runs that can hold one; candidates are
sorted by radix, never the whole vocabulary unless asked for.
"""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from torch import Tensor

from hartley.info.kernels.reference import Facts, Kept, Listed, Statistics

BLOCK = 4096
RUN = 64
NARROW = 256  # lists up to this length are cut after they are written, longer ones before
STRIP = 512  # how many terms are added in float32 before float64 takes over

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_TINY = np.float32(-87.0)  # exp of less is below the smallest normal float32 and counts as zero
_REASSOCIATE = {"reassoc", "contract", "nsz"}  # sums may be split over lanes; NaN and infinities keep their meaning


@intrinsic
def _round(_, x):
    """The nearest integer, as float32 (adding and subtracting a large number would be reassociated away)."""

    def build(__, builder, ___, arguments):
        rint = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
        return builder.call(rint, arguments)

    return types.float32(types.float32), build


@intrinsic
def _power_of_two(_, n):
    """2**n as float32 for an integral float32 n in [-126, 127]: the integer moves into the exponent bits."""

    def build(__, builder, ___, arguments):
        whole = builder.fptosi(arguments[0], ir.IntType(32))
        exponent = builder.add(whole, ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), build


@njit(inline="always")
def _exp(x):
    """exp(x) of a float32 in [-87, 0]: Cody-Waite reduction and a polynomial, with no branch, so it vectorises."""
    n = _round(x * _LOG2E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return ((p * r * r + r) + np.float32(1.0)) * _power_of_two(n)


@njit(parallel=True, cache=True, fastmath=_REASSOCIATE)
def _statistics(logits, inverse_temperature, run_max, log_sum, out):
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
                    inside = d > _TINY
                    d = d if inside else _TINY
                    e = _exp(d)
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


@njit(inline="always")
def _falling_key(bits, token):
    """A uint64 whose order is falling logit, then rising id; ``bits`` are the float32's, with -0.0 read as 0.0."""
    u = np.uint64(np.uint32(bits))
    if u == 0x80000000:
        u = np.uint64(0)
    rising = u ^ np.uint64(0xFFFFFFFF) if u & np.uint64(0x80000000) else u | np.uint64(0x80000000)
    return ((rising ^ np.uint64(0xFFFFFFFF)) << np.uint64(32)) | np.uint64(token)


@njit(cache=True)
def _sort_keys(keys):
    """Sort keys whose ids already rise: by radix on the 32 bits of the logit, in three passes of 11."""
    n = keys.size
    if n < 400:
        return np.sort(keys)
    other = np.empty_like(keys)
    for shift in (32, 43, 54):
        starts = np.zeros(2049, np.int64)
        for i in range(n):
            starts[((keys[i] >> np.uint64(shift)) & np.uint64(2047)) + np.uint64(1)] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for i in range(n):
            digit = (keys[i] >> np.uint64(shift)) & np.uint64(2047)
            other[starts[digit]] = keys[i]
            starts[digit] += 1
        keys, other = other, keys
    return keys


BINS = 1024
PER_LOGIT = np.float32(32.0)  # the histogram covers the 32 below the largest logit in steps of 1/32


@njit(parallel=True, cache=True)
def _histogram(logits, run_max, counts):
    rows, size = logits.shape
    parts = 1 if rows > 3 else (size + BLOCK - 1) // BLOCK  # of a row, so that a few rows keep all cores busy
    length = (size + parts - 1) // parts
    found = np.zeros((rows * parts, BINS), np.int32)
    for item in prange(rows * parts):
        row = item // parts
        top = run_max[row].max()
        start = (item % parts) * length
        for i in range(start, min(start + length, size)):
            depth = (top - logits[row, i]) * PER_LOGIT
            if depth < BINS:
                found[item, int(depth)] += 1
    for item in range(rows * parts):
        counts[item // parts] += found[item]


@njit(cache=True)
def _depth(counts, run_max, scale, log_sum, mass, out):
    for row in range(counts.shape[0]):
        top = run_max[row].max()
        seen = 0
        held = 0.0
        for bin in range(BINS):
            low = top - (bin + 1) / PER_LOGIT  # every logit of the bin is above this, so the mass is never overstated
            seen += counts[row, bin]
            held += counts[row, bin] * np.exp(low * scale[row] - log_sum[row])
            if held >= mass[row]:
                break
        out[row] = seen


@njit(cache=True)
def _floor(run_max, counts, k):
    """A logit that at least ``k`` of the row reach, and not many more: by the maxima of runs, or by the histogram."""
    if 4 * k <= run_max.size:  # each of the k highest maxima is a logit of its own
        return np.partition(run_max, run_max.size - k)[run_max.size - k]
    seen = 0
    for bin in range(BINS - 1):
        seen += counts[bin]
        if seen >= k:
            return run_max.max() - np.float32(bin + 1) / PER_LOGIT
    return np.float32(-np.inf)


@njit(cache=True)
def _drop_ties(keys, wanted):
    """Pack to the front the keys above the lowest logit, and as many at it as are wanted, by id.

    A flat row would otherwise sort its whole vocabulary to list a few.
    """
    lowest = keys[0] >> np.uint64(32)
    for key in keys:
        lowest = max(lowest, key >> np.uint64(32))
    above = 0
    for key in keys:
        above += (key >> np.uint64(32)) < lowest
    level = wanted - above
    n = 0
    for i in range(keys.size):
        key = keys[i]
        if (key >> np.uint64(32)) < lowest:
            keys[n] = key
            n += 1
        elif level > 0:
            keys[n] = key
            n += 1
            level -= 1
    return n


@njit(cache=True)
def _list_row(logits, bits, run_max, floor, k, scale, log_sum, tokens, log_probs, known, row):
    wanted = k[row]
    size = logits.shape[1]
    bound = floor[row]
    keys = np.empty(size, np.uint64)  # pages past the last key are never touched
    n = 0
    for run in range(run_max.shape[1]):
        if run_max[row, run] >= bound:
            for i in range(run * RUN, min(run * RUN + RUN, size)):
                x = logits[row, i]
                if x >= bound and x > -np.inf:
                    keys[n] = _falling_key(bits[row, i], i)
                    n += 1
    if n > wanted:
        n = _drop_ties(keys[:n], wanted)
    keys = _sort_keys(keys[:n])
    n = min(n, wanted)
    known[row] = n
    for j in range(n):
        token = np.int64(keys[j] & np.uint64(0xFFFFFFFF))
        tokens[row, j] = token
        log_probs[row, j] = np.float64(logits[row, token]) * scale[row] - log_sum[row]
    for j in range(n, tokens.shape[1]):
        tokens[row, j] = 0
        log_probs[row, j] = -np.inf


@njit(parallel=True, cache=True)
def _list_rows(logits, bits, run_max, floor, k, scale, log_sum, tokens, log_probs, known):
    for row in prange(logits.shape[0]):
        _list_row(logits, bits, run_max, floor, k, scale, log_sum, tokens, log_probs, known, row)


@njit(cache=True, fastmath=_REASSOCIATE)
def _restrict(tokens, log_probs, mask, listed, known, to_the_end, out_tokens, out_log_probs, out):
    for row in range(tokens.shape[0]):
        to_the_end[row] = mask[row, listed[row] - 1]
        top = np.float32(-np.inf)
        n = 0
        for j in range(tokens.shape[1]):
            if mask[row, j] and log_probs[row, j] > -np.inf:
                out_tokens[row, n] = tokens[row, j]
                out_log_probs[row, n] = log_probs[row, j]
                top = max(top, log_probs[row, j])
                n += 1
        known[row] = n
        if n == 0:
            continue
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        for begin in range(0, n, STRIP):
            a0 = np.float32(0.0)
            a1 = np.float32(0.0)
            a2 = np.float32(0.0)
            for j in range(begin, min(begin + STRIP, n)):
                d = out_log_probs[row, j] - top
                inside = d > _TINY
                d = d if inside else _TINY
                e = _exp(d)
                e = e if inside else np.float32(0.0)
                a0 += e
                a1 += e * d
                a2 += e * d * d
            s0 += a0
            s1 += a1
            s2 += a2
        log_mass = top + np.log(s0)
        mean = s1 / s0
        out[0, row] = log_mass
        out[1, row] = max(np.log(s0) - mean, 0.0)
        out[2, row] = max(s2 / s0 - mean * mean, 0.0)
        shift = np.float32(log_mass)
        for j in range(n):
            out_log_probs[row, j] -= shift
        for j in range(n, out_tokens.shape[1]):
            out_tokens[row, j] = 0
            out_log_probs[row, j] = -np.inf


@njit(parallel=True, cache=True)
def _count(logits, run_max, floor):
    """How many finite logits of each row reach its floor, at least 1."""
    rows, size = logits.shape
    out = np.empty(rows, np.int64)
    for row in prange(rows):
        n = 0
        for run in range(run_max.shape[1]):
            if run_max[row, run] >= floor[row]:
                for i in range(run * RUN, min(run * RUN + RUN, size)):
                    n += (logits[row, i] >= floor[row]) & (logits[row, i] > -np.inf)
        out[row] = max(n, 1)
    return out


@njit(cache=True)
def _nearest(log_probs, known, level, mass, mask):
    for row in range(log_probs.shape[0]):
        n = known[row]
        aim = level[row]
        everything = mass[row] >= 1.0 or log_probs[row, n - 1] > aim
        for j in range(log_probs.shape[1]):
            mask[row, j] = everything and j < n
        if everything:
            continue
        right = np.searchsorted(-log_probs[row, :n], -aim)
        left = right - 1
        held = 0.0
        reach = np.float32(0.0)
        while held < mass[row] and (left >= 0 or right < n):
            above = log_probs[row, left] - aim if left >= 0 else np.float32(np.inf)
            below = aim - log_probs[row, right] if right < n else np.float32(np.inf)
            if above < below:
                reach = above
                held += _exp(max(log_probs[row, left], _TINY))
                mask[row, left] = True
                left -= 1
            else:
                reach = below
                held += _exp(max(log_probs[row, right], _TINY))
                mask[row, right] = True
                right += 1
        while left >= 0 and log_probs[row, left] - aim <= reach:
            mask[row, left] = True
            left -= 1
        while right < n and aim - log_probs[row, right] <= reach:
            mask[row, right] = True
            right += 1


@njit(inline="always")
def _uniform(seed, token):
    """SplitMix64 of (seed, token), in (0, 1)."""
    z = seed + (np.uint64(token) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True)
def _race(tokens, log_probs, known, seeds, out):
    for row in range(tokens.shape[0]):
        best = 0.0
        winner = np.int64(0)
        seed = np.uint64(seeds[row])
        for j in range(known[row]):
            u = _uniform(seed, tokens[row, j])
            p = (
                np.float64(_exp(log_probs[row, j]))
                if log_probs[row, j] > _TINY
                else np.exp(np.float64(log_probs[row, j]))
            )
            if p > best * u:  # the noise is at least u, so what fails here cannot win, and its logarithm is spared
                score = p / -np.log1p(-u)
                if score > best:
                    best = score
                    winner = tokens[row, j]
        out[row] = winner


@njit(parallel=True, cache=True)
def _race_all(logits, scale, run_max, seeds, out):
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
                u = _uniform(seed, i)
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
def _finite(logits, out):
    for row in prange(logits.shape[0]):
        n = 0
        for i in range(logits.shape[1]):
            n += logits[row, i] > -np.inf
        out[row] = n


@njit(cache=True)
def _describe(logits, run_max, log_sum, token, tokens, log_probs, known, out, counts):
    size = logits.shape[1]
    for row in range(logits.shape[0]):
        own = logits[row, token[row]]
        rank = 1
        for run in range(run_max.shape[1]):
            if run_max[row, run] >= own:
                for i in range(run * RUN, min(run * RUN + RUN, size)):
                    rank += logits[row, i] > own or (logits[row, i] == own and i < token[row])
        mass = 0.0
        out[0, row] = -np.inf
        out[1, row] = log_sum[row] - own
        for j in range(known[row]):
            mass += _exp(min(max(np.float32(logits[row, tokens[row, j]] - log_sum[row]), _TINY), np.float32(0.0)))
            if tokens[row, j] == token[row]:
                out[0, row] = log_probs[row, j]
        out[2, row] = min(mass, 1.0)
        counts[0, row] = rank
        counts[1, row] = known[row]


@njit(parallel=True, cache=True, fastmath=_REASSOCIATE)
def _deviation(logits, out):
    rows, size = logits.shape
    for row in prange(rows):
        count = 0.0
        total = 0.0
        for begin in range(0, size, STRIP):
            a0 = np.float32(0.0)
            a1 = np.float32(0.0)
            for i in range(begin, min(begin + STRIP, size)):
                inside = logits[row, i] > -np.inf
                a0 += np.float32(1.0) if inside else np.float32(0.0)
                a1 += logits[row, i] if inside else np.float32(0.0)
            count += a0
            total += a1
        mean = np.float32(total / count)
        square = 0.0
        for begin in range(0, size, STRIP):
            a2 = np.float32(0.0)
            for i in range(begin, min(begin + STRIP, size)):
                difference = logits[row, i] - mean if logits[row, i] > -np.inf else np.float32(0.0)
                a2 += difference * difference
            square += a2
        out[row] = np.sqrt(square / count)


_NO_COUNTS = np.zeros(BINS, np.int32)


class Index:
    """What helps to find the largest logits of a row: the maximum of each run and, once needed, a histogram."""

    def __init__(self, run_max: Any) -> None:
        self.run_max = run_max
        self._counts: Any = None

    def counts(self, logits: Tensor) -> Any:
        """Histogram of each row below its largest logit, int32 ``[B, BINS]``."""
        if self._counts is None:
            counts = np.zeros((logits.shape[0], BINS), np.int32)
            _histogram(logits.numpy(), self.run_max, counts)
            self._counts = counts
        return self._counts

    def rows(self, chosen: Tensor) -> "Index":
        """The index of some of the rows."""
        part = Index(self.run_max[chosen.numpy()])
        part._counts = None if self._counts is None else self._counts[chosen.numpy()]
        return part


def _packed(tensor: Tensor) -> Any:
    """An expanded tensor as an array of the one layout that the kernels are compiled for."""
    return np.ascontiguousarray(tensor.numpy())


def statistics(logits: Tensor, scale: Tensor) -> Statistics:
    """See :func:`hartley.info.kernels.reference.statistics`."""
    rows, size = logits.shape
    run_max = np.empty((rows, -(-size // RUN)), np.float32)
    log_sum = np.empty(rows)
    out = np.empty((3, rows), np.float32)
    _statistics(logits.numpy(), scale.numpy(), run_max, log_sum, out)
    top, entropy, varentropy = out
    return Statistics(
        torch.from_numpy(top),
        torch.from_numpy(log_sum),
        torch.from_numpy(entropy),
        torch.from_numpy(varentropy),
        Index(run_max),
    )


def largest(logits: Tensor, index: Index, k: Tensor, scale: Tensor, log_sum: Tensor) -> Listed:
    """See :func:`hartley.info.kernels.reference.largest`."""
    wanted = np.minimum(k.numpy(), logits.shape[1])
    floor = np.full(wanted.size, -np.inf, np.float32)
    for row in range(wanted.size):
        if 2 * wanted[row] < logits.shape[1]:
            shallow = 4 * wanted[row] <= index.run_max.shape[1]
            counts = _NO_COUNTS if shallow else index.counts(logits)[row]
            floor[row] = _floor(index.run_max[row], counts, wanted[row])
    return _list(logits, index, floor, wanted, scale, log_sum)


def above(logits: Tensor, index: Index, level: Tensor, scale: Tensor, log_sum: Tensor) -> Listed:
    """See :func:`hartley.info.kernels.reference.above`."""
    floor = ((level + log_sum) / scale).float()
    floor -= floor.abs() * 1e-6 + 1e-6  # rounding must not lose a token; the rule that asked compares exactly
    array, floor = logits.numpy(), floor.numpy()
    wanted = _count(array, index.run_max, floor)
    return _list(logits, index, floor, wanted, scale, log_sum)


def _list(logits: Tensor, index: Index, floor: Any, wanted: Any, scale: Tensor, log_sum: Tensor) -> Listed:
    rows, size = logits.shape
    width = wanted.max()
    tokens = np.empty((rows, width), np.int64)
    log_probs = np.empty((rows, width), np.float32)
    known = np.empty(rows, np.int64)
    array = logits.numpy()
    bits = array.view(np.int32)
    lists = array, bits, index.run_max, floor, wanted, scale.numpy(), log_sum.numpy(), tokens, log_probs, known
    if rows == 1:  # waking the other threads would cost more than they save
        _list_row(*lists, 0)
    else:
        _list_rows(*lists)
    complete = (known < wanted) | (known == size)
    return Listed(
        torch.from_numpy(tokens), torch.from_numpy(log_probs), torch.from_numpy(known), torch.from_numpy(complete)
    )


def depth(logits: Tensor, index: Index, scale: Tensor, log_sum: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.depth`; from a histogram, so a little more than the least."""
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    _depth(index.counts(logits), index.run_max, scale.numpy(), log_sum.numpy(), _packed(mass), out.numpy())
    return out


def nearest(log_probs: Tensor, known: Tensor, level: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.nearest`."""
    mask = np.empty(log_probs.shape, np.bool_)
    _nearest(log_probs.numpy(), known.numpy(), level.numpy(), _packed(mass), mask)
    return torch.from_numpy(mask)


def deviation(logits: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.deviation`."""
    out = torch.empty(logits.shape[0])
    _deviation(logits.numpy(), out.numpy())
    return out


def restrict(tokens: Tensor, log_probs: Tensor, mask: Tensor, known: Tensor) -> Kept:
    """See :func:`hartley.info.kernels.reference.restrict`."""
    rows, width = tokens.shape
    array = _packed(mask)
    if width > NARROW:
        width = max(np.count_nonzero(array, axis=1).max(), 1)
    kept = np.empty((rows, width), np.int64)
    kept_log_probs = np.empty((rows, width), np.float32)
    count = np.empty(rows, np.int64)
    to_the_end = np.empty(rows, np.bool_)
    out = np.zeros((3, rows), np.float32)
    _restrict(tokens.numpy(), log_probs.numpy(), array, known.numpy(), count, to_the_end, kept, kept_log_probs, out)
    longest = max(count.max(), 1)
    if longest < width:
        kept = np.ascontiguousarray(kept[:, :longest])
        kept_log_probs = np.ascontiguousarray(kept_log_probs[:, :longest])
    log_mass, entropy, varentropy = out
    return Kept(
        torch.from_numpy(kept),
        torch.from_numpy(kept_log_probs),
        torch.from_numpy(count),
        torch.from_numpy(log_mass),
        torch.from_numpy(entropy),
        torch.from_numpy(varentropy),
        torch.from_numpy(to_the_end),
    )


def race(tokens: Tensor, log_probs: Tensor, known: Tensor, seeds: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.race`."""
    out = torch.empty(tokens.shape[0], dtype=torch.int64)
    _race(tokens.numpy(), log_probs.numpy(), known.numpy(), seeds.numpy(), out.numpy())
    return out


def race_all(logits: Tensor, scale: Tensor, index: Index, seeds: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.race_all`."""
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    _race_all(logits.numpy(), scale.numpy(), index.run_max, seeds.numpy(), out.numpy())
    return out


def describe(
    logits: Tensor, index: Index, log_sum: Tensor, token: Tensor, kept: tuple[Tensor, Tensor, Tensor] | None
) -> Facts:
    """See :func:`hartley.info.kernels.reference.describe`."""
    rows = logits.shape[0]
    out = np.empty((3, rows), np.float32)
    counts = np.empty((2, rows), np.int64)
    tokens, log_probs, known = kept if kept is not None else (token[:, None], logits[:, :1].contiguous(), token * 0)
    array = logits.numpy()
    _describe(
        array,
        index.run_max,
        log_sum.numpy(),
        token.numpy(),
        tokens.numpy(),
        log_probs.numpy(),
        known.numpy(),
        out,
        counts,
    )
    if kept is None:
        out[0], out[2] = -out[1], 1.0
        _finite(array, counts[1])
    log_prob, surprisal, mass = out
    rank, count = counts
    return Facts(
        torch.from_numpy(log_prob),
        torch.from_numpy(surprisal),
        torch.from_numpy(rank),
        torch.from_numpy(count),
        torch.from_numpy(mass),
    )
