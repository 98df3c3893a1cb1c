"""Lists of the most probable tokens, in the CPU kernels: how deep to look, sorting, cutting, drawing, describing.

Candidates are gathered from the runs that can hold one and sorted by radix, never the whole vocabulary unless asked.
"""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

import numpy as np
from numba import njit, prange

from hartley.info.kernels.cpu_rows import (
    BINS,
    PER_LOGIT,
    REASSOCIATE,
    RUN,
    SAMPLE,
    STRIP,
    histogram,
    rank_of,
    statistics,
)
from hartley.info.kernels.cpu_scalars import LOWEST, TINY, exp, exps, falling_key, logit_of, sort_keys, uniform

WIDE = 4096  # listed slots, of all rows together, above which rows are shared out over threads


@njit(inline="always")
def _bin(top, log_prob, scale, log_sum):
    depth = (top - (np.float64(log_prob) + log_sum) / scale) * PER_LOGIT
    return int(min(max(depth, 0.0), BINS - 1))


@njit(inline="always")
def _edge(top, bin, scale, log_sum):
    """Probability of a token at the lower edge of a bin."""
    return np.exp((top - (bin + 1) / PER_LOGIT) * scale - log_sum)


@njit(cache=True)
def depth(counts, run_max, scale, log_sum, level, mass, log_probs, known, size, out):
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
def floors(run_max, counts, chosen, wanted, size, floor):
    """Fill in :func:`_floor` for each chosen row that does not list most of its tokens anyway."""
    for item in range(chosen.size):
        row = chosen[item]
        k = wanted[item]
        if 2 * k < size:
            floor[item] = _floor(run_max[row], counts[row : row + 1], k, size)


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
def _gather(logits, bits, run_max, bound):
    """Keys of the finite logits of a row that reach ``bound``, ids rising."""
    size = logits.size
    least = max(bound, LOWEST)
    places = np.empty(size + 1, np.int32)  # pages past the last place are never touched
    n = 0
    for run in range(run_max.size):
        if run_max[run] >= least:
            for i in range(run * RUN, min(run * RUN + RUN, size)):
                places[n] = i
                n += logits[i] >= least
    keys = np.empty(n, np.uint64)
    for j in range(n):
        keys[j] = falling_key(bits[places[j]], places[j])
    return keys


@njit(cache=True)
def _list_row(logits, bits, run_max, floor, wanted, scale, log_sum, tokens, log_probs):
    keys = _gather(logits, bits, run_max, floor)
    if keys.size < wanted and floor > -np.inf:  # the floor was a guess
        keys = _gather(logits, bits, run_max, np.float32(-np.inf))
    n = keys.size
    if n > wanted:
        n = _drop_ties(keys, wanted)
    keys = sort_keys(keys[:n])
    n = min(n, wanted)
    for j in range(n):
        tokens[j] = np.int64(keys[j] & np.uint64(0xFFFFFFFF))
        log_probs[j] = np.float64(logit_of(keys[j])) * scale - log_sum
    tokens[n:] = 0
    log_probs[n:] = -np.inf
    return n


@njit(parallel=True, cache=True)
def list_rows(logits, bits, run_max, chosen, floor, wanted, scale, log_sum, tokens, log_probs, known):
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
def look(logits, bits, scale, k, run_max, counts, log_sum, out, tokens, log_probs, known):
    """:func:`statistics`, then the ``k`` largest of each row; whether every row is sound."""
    statistics(logits, scale, run_max, log_sum, out)
    if not np.isfinite(log_sum).all():
        return False
    rows, size = logits.shape
    if counts.shape[0] == rows:
        histogram(logits, run_max, counts)
    chosen = np.arange(rows)
    wanted = np.full(rows, k)
    floor = np.full(rows, np.float32(-np.inf))
    floors(run_max, counts, chosen, wanted, size, floor)
    list_rows(logits, bits, run_max, chosen, floor, wanted, scale, log_sum, tokens, log_probs, known)
    return True


@njit(cache=True, fastmath=REASSOCIATE)
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
            inside = d > TINY
            d = d if inside else TINY
            e = exp(d)
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
def restrict(tokens, log_probs, mask, known, start, complete, out_tokens, out_log_probs, out, counts, short):
    rows, width = tokens.shape
    each = tokens, log_probs, mask, known, start, complete, out_tokens, out_log_probs, out, counts, short
    if rows * width < WIDE:
        for row in range(rows):
            _restrict_row(row, *each)
    else:
        for row in prange(rows):
            _restrict_row(np.int64(row), *each)


@njit(cache=True)
def _nucleus_row(log_probs, mass, mask):
    probs = np.empty(STRIP, np.float32)
    held = 0.0
    n = 0
    for begin in range(0, log_probs.size, STRIP):
        strip = log_probs[begin : begin + STRIP]
        exps(strip, probs)
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
def nucleus(log_probs, known, mass, mask):
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
    exps(log_probs, probs)
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
def nearest(log_probs, known, level, mass, mask):
    rows, width = log_probs.shape
    mask[:] = False
    if rows * width < WIDE:
        for row in range(rows):
            _nearest_row(log_probs[row, : known[row]], level[row], mass[row], mask[row, : known[row]])
    else:
        for row in prange(rows):
            _nearest_row(log_probs[row, : known[row]], level[row], mass[row], mask[row, : known[row]])


@njit(cache=True)
def _race_row(tokens, log_probs, known, seed):
    best = 0.0
    winner = np.int64(0)
    for j in range(known):
        u = uniform(seed, tokens[j])
        p = np.float64(exp(log_probs[j])) if log_probs[j] > TINY else np.exp(np.float64(log_probs[j]))
        if p > best * u:  # the noise is at least u, so what fails here cannot win, and its logarithm is spared
            score = p / -np.log1p(-u)
            if score > best:
                best = score
                winner = tokens[j]
    return winner


@njit(parallel=True, cache=True)
def race(tokens, log_probs, known, seeds, out):
    rows, width = tokens.shape
    if rows * width < WIDE:
        for row in range(rows):
            out[row] = _race_row(tokens[row], log_probs[row], known[row], np.uint64(seeds[row]))
    else:
        for row in prange(rows):
            out[row] = _race_row(tokens[row], log_probs[row], known[row], np.uint64(seeds[row]))


@njit(cache=True)
def describe(logits, run_max, log_sum, token, tokens, log_probs, known, start, log_mass, out, counts):
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
                mass += exp(min(max(np.float32(logits[row, tokens[row, j]] - log_sum[row]), TINY), np.float32(0.0)))
        listed = place >= 0 and start[row] >= 0
        counts[0, row] = start[row] + place + 1 if listed else rank_of(logits[row], run_max[row], token[row])
        counts[1, row] = known[row]
        out[0, row] = log_probs[row, place] if place >= 0 else -np.inf
        out[1, row] = log_sum[row] - logits[row, token[row]]
        out[2, row] = min(mass, 1.0)
