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

from hartley.info.kernels.reference import Facts, Kept, KeptSet, Listed, Statistics

BLOCK = 4096
RUN = 64
WIDE = 4096  # listed slots, of all rows together, above which rows are shared out over threads
NARROW = 256  # lists up to this length are cut after they are written, longer ones before
STRIP = 512  # how many terms are added in float32 before float64 takes over

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_TINY = np.float32(-87.0)  # exp of less is below the smallest normal float32 and counts as zero
_LOWEST = np.finfo(np.float32).min
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


@intrinsic
def _as_float(_, bits):
    """The float32 of 32 bits."""

    def build(__, builder, ___, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), build


@njit(inline="always")
def _logit(key):
    """The logit of a :func:`_falling_key`."""
    rising = np.uint32(key >> np.uint64(32)) ^ np.uint32(0xFFFFFFFF)
    sign = np.uint32(0x80000000)
    return _as_float(rising ^ sign if rising & sign else rising ^ np.uint32(0xFFFFFFFF))


@njit(cache=True)
def _sort_keys(keys):
    """Sort keys whose ids already rise: by radix, on the bits of the logit that differ."""
    n = keys.size
    if n < 2:
        return keys
    lowest = keys[0] >> np.uint64(32)
    highest = lowest
    for key in keys:
        lowest = min(lowest, key >> np.uint64(32))
        highest = max(highest, key >> np.uint64(32))
    base = lowest << np.uint64(32)
    width = 6 if n < 400 else 11  # bits at a time: more of them want a longer table
    last = np.uint64((1 << width) - 1)
    other = np.empty_like(keys)
    starts = np.empty((1 << width) + 1, np.int64)
    for shift in range(0, 32, width):
        if (highest - lowest) >> np.uint64(shift) == 0:
            break
        starts[:] = 0
        for i in range(n):
            starts[(((keys[i] - base) >> np.uint64(32 + shift)) & last) + np.uint64(1)] += 1
        for digit in range(last):
            starts[digit + 1] += starts[digit]
        for i in range(n):
            digit = ((keys[i] - base) >> np.uint64(32 + shift)) & last
            other[starts[digit]] = keys[i]
            starts[digit] += 1
        keys, other = other, keys
    return keys


BINS = 1024
PER_LOGIT = np.float32(32.0)  # the histogram covers the 32 below the largest logit in steps of 1/32
SAMPLE = 16384  # logits of a row that the histogram looks at, about: every run, or every so manieth


@njit(parallel=True, cache=True)
def _histogram(logits, run_max, counts):
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
def _depth(counts, run_max, scale, log_sum, level, mass, log_probs, known, size, out):
    """Listed tokens count as they are, the rest by the histogram, each at the lower edge of its bin.

    Where the histogram saw a part of the row, the mass it finds is scaled to what the list leaves, which is known: that
    takes out most of the noise. What is left is allowed for, three deviations of the number of tokens.
    """
    stride = max(size // SAMPLE, 1)
    shares = np.empty(BINS)
    number = np.empty(BINS, np.int64)
    for row in range(counts.shape[0]):
        top = run_max[row].max()
        shares[:] = 0.0
        number[:] = 0
        listed = 0.0
        last = 0
        for j in range(known[row]):
            share = np.exp(np.float64(log_probs[row, j]))
            last = _bin(top, log_probs[row, j], scale[row], log_sum[row])
            shares[last] += share
            number[last] += 1
            listed += share
        rest = 0.0
        for bin in range(last, BINS):
            rest += max(counts[row, bin] - number[bin], 0) * _edge(top, bin, scale[row], log_sum[row])
        ratio = max(1.0 - listed, 0.0) / rest if stride > 1 and rest > 0.0 else 1.0
        for bin in range(last, BINS):
            others = max(counts[row, bin] - number[bin], 0)
            shares[bin] += others * _edge(top, bin, scale[row], log_sum[row]) * ratio
            number[bin] += others
        left = _bin(top, level[row], scale[row], log_sum[row])
        right = left
        held = shares[left]
        while held < mass[row] and right < BINS - 1:
            right += 1
            held += shares[right]
            left -= 1
            if left >= 0:
                held += shares[left]
        seen = number[: right + 2].sum()  # one bin more, for what lies on an edge
        slack = 3.0 * np.sqrt(max(seen - known[row], 0) * stride) + stride if stride > 1 else 0.0
        out[row] = min(seen + int(slack), size)


@njit(inline="always")
def _bin(top, log_prob, scale, log_sum):
    depth = (top - (np.float64(log_prob) + log_sum) / scale) * PER_LOGIT
    return int(min(max(depth, 0.0), BINS - 1))


@njit(inline="always")
def _edge(top, bin, scale, log_sum):
    """Probability of a token at the lower edge of a bin."""
    return np.exp((top - (bin + 1) / PER_LOGIT) * scale - log_sum)


@njit(cache=True)
def _floor(run_max, counts, k, size):
    """A logit that at least ``k`` of the row reach, or nearly surely, and not many more."""
    top = run_max.max()
    if 4 * k <= run_max.size:  # each of the k highest maxima is a logit of its own
        found = np.zeros(BINS, np.int32)
        for highest in run_max:
            depth = (top - highest) * PER_LOGIT
            if depth < BINS:
                found[int(depth)] += 1
    else:
        found = counts[0]
        stride = max(size // SAMPLE, 1)
        if stride > 1:
            k += int(3.0 * np.sqrt(k * stride)) + stride
    seen = 0
    for bin in range(BINS - 1):
        seen += found[bin]
        if seen >= k:
            return top - np.float32(bin + 1) / PER_LOGIT
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


def _deep(k: int, size: int) -> bool:
    """Whether the floor of the ``k`` largest takes a histogram of the row: the maxima of the runs are too few."""
    return 4 * k > -(-size // RUN) and 2 * k < size


@njit(cache=True)
def _floors(run_max, counts, chosen, wanted, size, floor):
    """Fill in :func:`_floor` for each chosen row that does not list most of its tokens anyway."""
    for item in range(chosen.size):
        row = chosen[item]
        k = wanted[item]
        if 2 * k < size:
            floor[item] = _floor(run_max[row], counts[row : row + 1], k, size)


@njit(cache=True)
def _gather(logits, bits, run_max, bound):
    """Keys of the finite logits of a row that reach ``bound``, ids rising."""
    size = logits.size
    least = max(bound, _LOWEST)
    places = np.empty(size + 1, np.int32)  # pages past the last place are never touched
    n = 0
    for run in range(run_max.size):
        if run_max[run] >= least:
            for i in range(run * RUN, min(run * RUN + RUN, size)):
                places[n] = i
                n += logits[i] >= least
    keys = np.empty(n, np.uint64)
    for j in range(n):
        keys[j] = _falling_key(bits[places[j]], places[j])
    return keys


@njit(cache=True)
def _list_row(logits, bits, run_max, floor, wanted, scale, log_sum, tokens, log_probs):
    keys = _gather(logits, bits, run_max, floor)
    if keys.size < wanted and floor > -np.inf:  # the floor was a guess
        keys = _gather(logits, bits, run_max, np.float32(-np.inf))
    n = keys.size
    if n > wanted:
        n = _drop_ties(keys, wanted)
    keys = _sort_keys(keys[:n])
    n = min(n, wanted)
    for j in range(n):
        tokens[j] = np.int64(keys[j] & np.uint64(0xFFFFFFFF))
        log_probs[j] = np.float64(_logit(keys[j])) * scale - log_sum
    tokens[n:] = 0
    log_probs[n:] = -np.inf
    return n


@njit(parallel=True, cache=True)
def _list_rows(logits, bits, run_max, chosen, floor, wanted, scale, log_sum, tokens, log_probs, known):
    """List the rows ``chosen``; one alone wakes no other thread, which would cost more than it saves."""
    if chosen.size == 1:
        row = chosen[0]
        known[0] = _list_row(
            logits[row], bits[row], run_max[row], floor[0], wanted[0], scale[row], log_sum[row], tokens[0], log_probs[0]
        )
        return
    for item in prange(chosen.size):
        row = chosen[item]
        known[item] = _list_row(
            logits[row],
            bits[row],
            run_max[row],
            floor[item],
            wanted[item],
            scale[row],
            log_sum[row],
            tokens[item],
            log_probs[item],
        )


@njit(cache=True)
def _look(logits, bits, scale, k, run_max, counts, log_sum, out, tokens, log_probs, known):
    """:func:`_statistics`, then the ``k`` largest of each row; whether every row is sound."""
    _statistics(logits, scale, run_max, log_sum, out)
    if not np.isfinite(log_sum).all():
        return False
    rows, size = logits.shape
    if counts.shape[0] == rows:
        _histogram(logits, run_max, counts)
    chosen = np.arange(rows)
    wanted = np.full(rows, k)
    floor = np.full(rows, np.float32(-np.inf))
    _floors(run_max, counts, chosen, wanted, size, floor)
    _list_rows(logits, bits, run_max, chosen, floor, wanted, scale, log_sum, tokens, log_probs, known)
    return True


@njit(cache=True, fastmath=_REASSOCIATE)
def _restrict_row(
    row, all_tokens, all_log_probs, masks, known, start, complete, kept_tokens, kept_log_probs, out, counts, short
):
    tokens, log_probs, mask = all_tokens[row], all_log_probs[row], masks[row]
    out_tokens, out_log_probs = kept_tokens[row], kept_log_probs[row]
    top = np.float32(-np.inf)
    n = 0
    first = 0
    last = 0
    for j in range(tokens.size):
        if mask[j] and log_probs[j] > -np.inf:
            first = j if n == 0 else first
            last = j
            out_tokens[n] = tokens[j]
            out_log_probs[n] = log_probs[j]
            top = max(top, log_probs[j])
            n += 1
    s0 = 0.0
    s1 = 0.0
    s2 = 0.0
    for begin in range(0, n, STRIP):
        a0 = np.float32(0.0)
        a1 = np.float32(0.0)
        a2 = np.float32(0.0)
        for j in range(begin, min(begin + STRIP, n)):
            d = out_log_probs[j] - top
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
    out_tokens[n:] = 0
    out_log_probs[n:] = -np.inf
    counts[0, row] = n
    counts[1, row] = start[row] + first if start[row] >= 0 and last - first + 1 == n else -1
    short[row] = mask[known[row] - 1] and not complete[row]
    if n == 0:
        return
    log_mass = top + np.log(s0)
    mean = s1 / s0
    out[0, row] = log_mass
    out[1, row] = max(np.log(s0) - mean, 0.0)
    out[2, row] = max(s2 / s0 - mean * mean, 0.0)
    shift = np.float32(log_mass)
    for j in range(n):
        out_log_probs[j] -= shift


@njit(parallel=True, cache=True)
def _restrict(tokens, log_probs, mask, known, start, complete, out_tokens, out_log_probs, out, counts, short):
    rows, width = tokens.shape
    each = tokens, log_probs, mask, known, start, complete, out_tokens, out_log_probs, out, counts, short
    if rows * width < WIDE:
        for row in range(rows):
            _restrict_row(row, *each)
    else:
        for row in prange(rows):
            _restrict_row(np.int64(row), *each)


@njit(cache=True)
def _count_row(logits, run_max, bound):
    least = max(bound, _LOWEST)
    n = 0
    for run in range(run_max.size):
        if run_max[run] >= least:
            for i in range(run * RUN, min(run * RUN + RUN, logits.size)):
                n += logits[i] >= least
    return max(n, 1)


@njit(parallel=True, cache=True)
def _count(logits, run_max, chosen, floor):
    """How many finite logits of each chosen row reach its floor, at least 1."""
    out = np.empty(chosen.size, np.int64)
    if chosen.size == 1:
        out[0] = _count_row(logits[chosen[0]], run_max[chosen[0]], floor[0])
        return out
    for item in prange(chosen.size):
        out[item] = _count_row(logits[chosen[item]], run_max[chosen[item]], floor[item])
    return out


@njit(cache=True)
def _exps(log_probs, out):
    """Probabilities, float32: apart from their sum, so that this loop vectorises."""
    for j in range(log_probs.size):
        inside = log_probs[j] > _TINY
        e = _exp(log_probs[j] if inside else _TINY)
        out[j] = e if inside else np.float32(0.0)


@njit(cache=True)
def _nucleus_row(log_probs, mass, mask):
    probs = np.empty(STRIP, np.float32)
    held = 0.0
    n = 0
    for begin in range(0, log_probs.size, STRIP):
        strip = log_probs[begin : begin + STRIP]
        _exps(strip, probs)
        for j in range(strip.size):
            if held >= mass:
                break
            held += probs[j]
            n += 1
        if held >= mass:
            break
    mask[:n] = True
    mask[n:] = False


@njit(parallel=True, cache=True)
def _nucleus(log_probs, known, mass, mask):
    rows, width = log_probs.shape
    mask[:] = False
    if rows * width < WIDE:
        for row in range(rows):
            _nucleus_row(log_probs[row, : known[row]], mass[row], mask[row, : known[row]])
    else:
        for row in prange(rows):
            _nucleus_row(log_probs[row, : known[row]], mass[row], mask[row, : known[row]])


@njit(cache=True)
def _nearest_row(log_probs, aim, mass, mask):
    """Mark the window of least reach around ``aim`` that holds ``mass``, found in the sums from the left."""
    n = log_probs.size
    mask[:] = mass >= 1.0 or log_probs[n - 1] > aim
    if mask[0] and mask[n - 1]:
        return
    probs = np.empty(n, np.float32)
    _exps(log_probs, probs)
    sums = np.empty(n + 1)
    sums[0] = 0.0
    for j in range(n):
        sums[j + 1] = sums[j] + probs[j]
    middle = np.searchsorted(-log_probs, -aim)  # the first at or below the aim
    # Of the `taken` nearest, `left` lie above the aim: bisect for the fewest that hold the mass
    few = 1
    many = n
    while few < many:
        taken = (few + many) // 2
        left = _split(log_probs, aim, middle, taken)
        if sums[middle + taken - left] - sums[middle - left] >= mass:
            many = taken
        else:
            few = taken + 1
    left = _split(log_probs, aim, middle, few)
    low = middle - left
    high = middle + few - left  # one past the end
    reach = np.float32(0.0)
    if left > 0:
        reach = log_probs[low] - aim
    if high > middle:
        reach = max(reach, aim - log_probs[high - 1])
    while low > 0 and log_probs[low - 1] - aim <= reach:
        low -= 1
    while high < n and aim - log_probs[high] <= reach:
        high += 1
    mask[low:high] = True


@njit(cache=True)
def _split(log_probs, aim, middle, taken):
    """How many of the ``taken`` tokens nearest to ``aim`` stand before ``middle``, those after it first where tied."""
    least = max(taken - (log_probs.size - middle), 0)
    most = min(taken, middle)
    while least < most:
        left = (least + most + 1) // 2  # would the left one be among them?
        right = taken - left
        if right < log_probs.size - middle and log_probs[middle - left] - aim >= aim - log_probs[middle + right]:
            most = left - 1
        else:
            least = left
    return least


@njit(parallel=True, cache=True)
def _nearest(log_probs, known, level, mass, mask):
    rows, width = log_probs.shape
    mask[:] = False
    if rows * width < WIDE:
        for row in range(rows):
            _nearest_row(log_probs[row, : known[row]], level[row], mass[row], mask[row, : known[row]])
    else:
        for row in prange(rows):
            _nearest_row(log_probs[row, : known[row]], level[row], mass[row], mask[row, : known[row]])


@njit(inline="always")
def _uniform(seed, token):
    """SplitMix64 of (seed, token), in (0, 1)."""
    z = seed + (np.uint64(token) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True)
def _race_row(tokens, log_probs, known, seed):
    best = 0.0
    winner = np.int64(0)
    for j in range(known):
        u = _uniform(seed, tokens[j])
        p = np.float64(_exp(log_probs[j])) if log_probs[j] > _TINY else np.exp(np.float64(log_probs[j]))
        if p > best * u:  # the noise is at least u, so what fails here cannot win, and its logarithm is spared
            score = p / -np.log1p(-u)
            if score > best:
                best = score
                winner = tokens[j]
    return winner


@njit(parallel=True, cache=True)
def _race(tokens, log_probs, known, seeds, out):
    rows, width = tokens.shape
    if rows * width < WIDE:
        for row in range(rows):
            out[row] = _race_row(tokens[row], log_probs[row], known[row], np.uint64(seeds[row]))
    else:
        for row in prange(rows):
            out[row] = _race_row(tokens[row], log_probs[row], known[row], np.uint64(seeds[row]))


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
def _rank(logits, run_max, token):
    """Place of a token in the order of its row, from 1, by looking at the row again."""
    own = logits[token]
    rank = 1
    for run in range(run_max.size):
        if run_max[run] >= own:
            for i in range(run * RUN, min(run * RUN + RUN, logits.size)):
                rank += logits[i] > own or (logits[i] == own and i < token)
    return rank


@njit(cache=True)
def _describe(logits, run_max, log_sum, token, tokens, log_probs, known, start, log_mass, out, counts):
    for row in range(logits.shape[0]):
        place = -1
        for j in range(known[row]):
            if tokens[row, j] == token[row]:
                place = j
                break
        mass = np.exp(log_mass[row])
        if mass != mass:
            mass = 0.0
            for j in range(known[row]):
                mass += _exp(min(max(np.float32(logits[row, tokens[row, j]] - log_sum[row]), _TINY), np.float32(0.0)))
        listed = place >= 0 and start[row] >= 0
        counts[0, row] = start[row] + place + 1 if listed else _rank(logits[row], run_max[row], token[row])
        counts[1, row] = known[row]
        out[0, row] = log_probs[row, place] if place >= 0 else -np.inf
        out[1, row] = log_sum[row] - logits[row, token[row]]
        out[2, row] = min(mass, 1.0)


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


@njit(parallel=True, cache=True, fastmath=_REASSOCIATE)
def _deviation(logits, out):
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


_NO_COUNTS = np.zeros((0, BINS), np.int32)


class Index:
    """What helps to find the largest logits of a row: the maximum of each run and, once needed, a histogram."""

    def __init__(self, run_max: Any, counts: Any = None) -> None:
        self.run_max = run_max
        self._counts = counts

    def counts(self, logits: Any) -> Any:
        """Histogram of each row below its largest logit, int32 ``[B, BINS]``."""
        if self._counts is None:
            self._counts = np.zeros((logits.shape[0], BINS), np.int32)
            _histogram(logits, self.run_max, self._counts)
        return self._counts


def _packed(tensor: Tensor) -> Any:
    """An expanded tensor as an array of the one layout that the kernels are compiled for."""
    return np.ascontiguousarray(tensor.numpy())


def _passed(out: Any, log_sum: Any, sound: bool, index: Index) -> Statistics:
    top, entropy, varentropy = map(torch.from_numpy, out)
    return Statistics(top, torch.from_numpy(log_sum), entropy, varentropy, sound, index)


def _lists(rows: int, width: int) -> tuple[Any, Any, Any]:
    return np.empty((rows, width), np.int64), np.empty((rows, width), np.float32), np.empty(rows, np.int64)


def _listed(lists: tuple[Any, Any, Any], wanted: Any, size: int) -> Listed:
    tokens, log_probs, known = lists
    complete = (known < wanted) | (known == size)
    return Listed(*map(torch.from_numpy, (tokens, log_probs, known, complete)))


def statistics(logits: Tensor, scale: Tensor) -> Statistics:
    """See :func:`hartley.info.kernels.reference.statistics`."""
    rows, size = logits.shape
    run_max = np.empty((rows, -(-size // RUN)), np.float32)
    log_sum = np.empty(rows)
    out = np.empty((3, rows), np.float32)
    _statistics(logits.numpy(), scale.numpy(), run_max, log_sum, out)
    return _passed(out, log_sum, bool(np.isfinite(log_sum).all()), Index(run_max))


def look(logits: Tensor, scale: Tensor, k: int) -> tuple[Statistics, Listed]:
    """See :func:`hartley.info.kernels.reference.look`."""
    rows, size = logits.shape
    array, k = logits.numpy(), min(k, size)
    run_max = np.empty((rows, -(-size // RUN)), np.float32)
    counts = np.zeros((rows, BINS), np.int32) if _deep(k, size) else _NO_COUNTS
    log_sum = np.empty(rows)
    out = np.empty((3, rows), np.float32)
    lists = _lists(rows, k)
    sound = _look(array, array.view(np.int32), scale.numpy(), k, run_max, counts, log_sum, out, *lists)
    index = Index(run_max, None if counts is _NO_COUNTS else counts)
    return _passed(out, log_sum, sound, index), _listed(lists, k, size)


def largest(logits: Tensor, index: Index, k: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """See :func:`hartley.info.kernels.reference.largest`."""
    array, size = logits.numpy(), logits.shape[1]
    chosen = _chosen(logits, rows)
    wanted = np.minimum(k.numpy()[chosen], size)
    counts = index.counts(array) if any(_deep(each, size) for each in wanted.tolist()) else _NO_COUNTS
    floor = np.full(wanted.size, -np.inf, np.float32)
    _floors(index.run_max, counts, chosen, wanted, size, floor)
    return _list(logits, index, chosen, floor, wanted, scale, log_sum)


def above(logits: Tensor, index: Index, level: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """See :func:`hartley.info.kernels.reference.above`."""
    chosen = _chosen(logits, rows)
    floor = ((level + log_sum) / scale).float().numpy()[chosen]
    floor -= np.abs(floor) * np.float32(1e-6) + np.float32(1e-6)  # rounding must not lose a token; the rule is exact
    wanted = _count(logits.numpy(), index.run_max, chosen, floor)
    return _list(logits, index, chosen, floor, wanted, scale, log_sum)


def _chosen(logits: Tensor, rows: Tensor | None) -> Any:
    return np.arange(logits.shape[0]) if rows is None else rows.numpy()


def _list(logits: Tensor, index: Index, chosen: Any, floor: Any, wanted: Any, scale: Tensor, log_sum: Tensor) -> Listed:
    array, lists = logits.numpy(), _lists(chosen.size, wanted.max())
    bits = array.view(np.int32)
    _list_rows(array, bits, index.run_max, chosen, floor, wanted, scale.numpy(), log_sum.numpy(), *lists)
    return _listed(lists, wanted, logits.shape[1])


def depth(
    logits: Tensor,
    index: Index,
    scale: Tensor,
    log_sum: Tensor,
    level: Tensor,
    mass: Tensor,
    listed: tuple[Tensor, Tensor],
) -> Tensor:
    """See :func:`hartley.info.kernels.reference.depth`."""
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    counts = index.counts(logits.numpy())
    log_probs, known = (part.numpy() for part in listed)
    row = index.run_max, scale.numpy(), log_sum.numpy(), _packed(level), _packed(mass)
    _depth(counts, *row, log_probs, known, logits.shape[1], out.numpy())
    return out


def nucleus(log_probs: Tensor, known: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.nucleus`."""
    mask = torch.empty(log_probs.shape, dtype=torch.bool)
    _nucleus(log_probs.numpy(), known.numpy(), _packed(mass), mask.numpy())
    return mask


def nearest(log_probs: Tensor, known: Tensor, level: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.nearest`."""
    mask = torch.empty(log_probs.shape, dtype=torch.bool)
    _nearest(log_probs.numpy(), known.numpy(), level.numpy(), _packed(mass), mask.numpy())
    return mask


def deviation(logits: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.deviation`."""
    out = torch.empty(logits.shape[0])
    _deviation(logits.numpy(), out.numpy())
    return out


def restrict(tokens: Tensor, log_probs: Tensor, mask: Tensor, known: Tensor, start: Tensor, complete: Tensor) -> Kept:
    """See :func:`hartley.info.kernels.reference.restrict`."""
    rows, width = tokens.shape
    array = _packed(mask)
    if width > NARROW:
        width = max(np.count_nonzero(array, axis=1).max(), 1)
    kept = np.empty((rows, width), np.int64)
    kept_log_probs = np.empty((rows, width), np.float32)
    counts = np.empty((2, rows), np.int64)
    short = np.empty(rows, np.bool_)
    out = np.zeros((3, rows), np.float32)
    given = tokens.numpy(), log_probs.numpy(), array, known.numpy(), start.numpy(), complete.numpy()
    _restrict(*given, kept, kept_log_probs, out, counts, short)
    longest = max(counts[0].max(), 1)
    if longest < width:
        kept = np.ascontiguousarray(kept[:, :longest])
        kept_log_probs = np.ascontiguousarray(kept_log_probs[:, :longest])
    log_mass, entropy, varentropy = map(torch.from_numpy, out)
    count, place = map(torch.from_numpy, counts)
    return Kept(
        torch.from_numpy(kept),
        torch.from_numpy(kept_log_probs),
        count,
        log_mass,
        entropy,
        varentropy,
        place,
        int(counts[0].min()),
        torch.from_numpy(short) if short.any() else None,
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


def describe(logits: Tensor, index: Index, log_sum: Tensor, token: Tensor, kept: KeptSet | None) -> Facts:
    """See :func:`hartley.info.kernels.reference.describe`."""
    rows = logits.shape[0]
    array, own = logits.numpy(), log_sum.numpy()
    out = np.empty((3, rows), np.float32)
    counts = np.empty((2, rows), np.int64)
    if kept is None:
        nothing = np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32), np.zeros(rows, np.int64)
        _describe(array, index.run_max, own, token.numpy(), *nothing, nothing[2], own, out, counts)
        out[0], out[2] = -out[1], 1.0
        _finite(array, counts[1])
    else:
        given = (part.numpy() for part in kept)
        _describe(array, index.run_max, own, token.numpy(), *given, out, counts)
    return Facts(*map(torch.from_numpy, (out[0], out[1], counts[0], counts[1], out[2])))
