"""What the top-N log-probabilities that an API returns say for certain about the whole distribution.

Known: N probabilities of sum 1 - r, the smallest of them c (and, where the drawn token is not among them, its
probability too). Unknown: how the mass r is shared by the M = V - N tokens not listed, each of at most c. The bounds
are the extremes over every way of sharing it, and are reached; only rounding is left. All is computed in float64.

Entropy is concave in the shares x, so its minimum is at a corner of {0 <= x <= c, sum x = r}: floor(r / c) tokens at c,
one with the remainder, the others 0. Its maximum is the flat x = r / M, without limit when V is not known. The flat
shares are also majorised by all others and the packed ones majorise them, which bounds the size of a top-p set in the
same way.

Varentropy is neither concave nor convex. Write l = -ln x for surprisal and H for the entropy of the whole.

Low. The varentropy is min over t of sum p (-ln p - t)^2. For a fixed t each term is concave in x up to exp(-t - 1) and
convex above, so in a minimum the convex ones are equal and at most one is strictly inside the concave part; two
different values inside would need z > j y with z < y (second-order condition), which cannot be. Left are the packed
shares, and j equal ones with r / j <= c. Along j the varentropy is a parabola in ln(j / r) with its bottom at
B / (1 - r), where B = -sum p ln p of the known.

High. The derivative in a share is u^2 + 2u + const with u = H - l, infinite at x = 0: nobody gets nothing. In a maximum
two shares inside (0, c) differ only if u_y + u_z = -2, and only one can have u > -1. So a tokens are at c, at most one
at y, and the others equal at z; it remains to find a and y.

- Without y, the value as a function of real a rises while m(D) + u_z > 0, with D = ln(c / z) and
  m(D) = D^2 / 2(D - 1 + exp(-D)). That sum falls along a (as 0 < m' <= 1/2), so there is one peak.
- For a fixed a, d/dy = (u_y - u_z) T with T = u_y + u_z + 2, and T is concave in y: an inner maximum is its second
  root, and there is none if T >= 0 at y = c. E(a), that T at y = c, falls along a and is positive up to the peak above.
  Past its root the inner maximum moves down by about c or more for each token added to a, so it lies in the first piece
  past the root (its neighbours are looked at too; the tests scan all pieces).
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import check_count, check_fraction, check_logits, row_name
from hartley.info.distribution import SUM_TOLERANCE, Array, give, safe_log, shannon, tensor_of, working_dtype


class Interval(NamedTuple, Generic[Array]):
    """The smallest and the largest value that what is known allows."""

    low: Array
    high: Array


def entropy_bounds(
    top_log_probs: Array,
    vocab_size: int | None = None,
    sampled_log_prob: Array | float | None = None,
    *,
    base: float | None = None,
) -> Interval[Array]:
    """Return the least and the greatest entropy of a distribution whose N most probable tokens are known.

    Parameters
    ----------
    top_log_probs
        [..., N] natural log-probabilities of the N most probable tokens, in any order.
    vocab_size
        V, at least N; without it the tokens not listed are unlimited, and a remainder within rounding (8 eps) counts as
        none.
    sampled_log_prob
        [...] log-probability of the drawn token. Below the smallest of the list it is one more known token; else it is
        in the list.
    base
        None for nats, 2 for bits.

    Returns
    -------
    low and high, [...] float64; high is inf when there is a remainder and no ``vocab_size``.

    Raises
    ------
    ValueError
        NaN or +inf; a sum above 1, or too little for V - N tokens of at most the smallest, by more than 1e-4 (more in
        half precision); V smaller than the number of known tokens. Rows are named.

    >>> import numpy as np
    >>> low, high = entropy_bounds(np.log([0.5, 0.25]), vocab_size=4, base=2)
    >>> round(float(low), 3), round(float(high), 3)  # the rest is (1/4, 0), or (1/8, 1/8)
    (1.5, 1.75)
    """
    given = _read(top_log_probs, vocab_size, sampled_log_prob)
    known = shannon(safe_log(given.known), given.known)
    full, left = _packed(given)
    low = known + full * _entr(given.cap) + _entr(left)
    flat = given.rest * (given.unseen / given.rest).log()
    high = torch.maximum(low, known + torch.where(given.rest > 0, flat, 0))
    return Interval(*(give(x, given.numpy, -1, False, base) for x in (low, high)))


def varentropy_bounds(
    top_log_probs: Array,
    vocab_size: int | None = None,
    sampled_log_prob: Array | float | None = None,
    *,
    base: float | None = None,
) -> Interval[Array]:
    """Return the least and the greatest varentropy of a distribution whose N most probable tokens are known.

    Takes, returns and refuses what `entropy_bounds` does; the unit is nats squared (``base=2``: bits squared).

    >>> import numpy as np
    >>> low, high = varentropy_bounds(np.log([0.5, 0.25]), vocab_size=4, base=2)
    >>> round(float(low), 3), round(float(high), 3)  # the rest is (1/4, 0), or about (0.18, 0.07)
    (0.25, 0.695)
    """
    given = _read(top_log_probs, vocab_size, sampled_log_prob)
    low, high = _least_varentropy(given), _greatest_varentropy(given)
    return Interval(*(give(x, given.numpy, -1, False, base, power=2) for x in (low, torch.maximum(low, high))))


def top_p_size_bounds(
    top_log_probs: Array,
    p: Array | float,
    vocab_size: int | None = None,
    sampled_log_prob: Array | float | None = None,
) -> Interval[Array]:
    """Return the least and the greatest size of the top-p set, the fewest tokens whose mass is at least ``p``.

    ``p`` in (0, 1], one value or one per row. Takes and refuses what `entropy_bounds` does. low and high are whole
    numbers in float64, [...]; they agree when the list reaches ``p`` (to within 8 eps), and high is inf when it does
    not and V is not known.

    >>> import numpy as np
    >>> top_p_size_bounds(np.log([0.5, 0.25]), 0.9, vocab_size=10)
    Interval(low=np.float64(3.0), high=np.float64(7.0))
    """
    check_fraction("p", p)
    given = _read(top_log_probs, vocab_size, sampled_log_prob)
    mass = torch.as_tensor(p, dtype=torch.float64, device=given.rest.device)
    listed, extra = given.known[..., :-1].sort(-1, descending=True).values, given.known[..., -1]
    cumulative = listed.cumsum(-1)
    wanted = mass - given.rounding
    inside = (cumulative < wanted.unsqueeze(-1)).sum(-1) + 1.0
    missing = wanted - cumulative[..., -1]

    full, left = _packed(given)
    beyond = full + 1 + (missing - full * given.cap > torch.maximum(left, extra))
    packed = torch.where(missing <= full * given.cap, (missing / given.cap).ceil(), beyond)

    flat = torch.where(given.rest > 0, given.rest / given.unseen, 0)
    extra_first = torch.where(missing <= extra, 1, 1 + ((missing - extra) / flat).ceil())
    extra_last = torch.where(missing <= given.rest, (missing / flat).ceil(), given.unseen + 1)
    spread = torch.minimum(torch.where(extra >= flat, extra_first, extra_last), given.unseen + (extra > 0))

    n = listed.shape[-1]
    low, high = (torch.where(missing > 0, n + more, inside) for more in (torch.minimum(packed, spread), spread))
    return Interval(*(give(x, given.numpy, -1, False, None) for x in (low, high)))


class _Given(NamedTuple):
    """What the caller told, in float64, summing to 1 exactly."""

    known: Tensor  # [..., N + 1]: the list, then the drawn token where it is not in the list (else 0)
    cap: Tensor  # [...]: no other token has more
    rest: Tensor  # [...]: what the other tokens have together, 0 <= rest <= unseen * cap
    unseen: Tensor  # [...]: how many other tokens there are, or inf
    rounding: float
    numpy: bool


def _read(top_log_probs: Array, vocab_size: int | None, sampled_log_prob: Array | float | None) -> _Given:
    top, numpy = tensor_of("top_log_probs", top_log_probs)
    source, top = top.dtype, top.double()
    check_logits(top, "top_log_probs")
    smallest, n = top.amin(-1), top.shape[-1]
    extra = torch.full_like(smallest, -torch.inf)
    more = torch.zeros_like(smallest)
    if sampled_log_prob is not None:
        sampled = _sampled(sampled_log_prob, smallest)
        outside = sampled < smallest
        extra, more = torch.where(outside, sampled, extra), outside.double()
    unseen = torch.full_like(smallest, torch.inf)
    if vocab_size is not None:
        check_count("vocab_size", vocab_size)
        unseen = vocab_size - n - more
        if bool((unseen < 0).any()):
            raise ValueError(f"vocab_size must be at least the {n + int(more.max())} known tokens; got {vocab_size}")

    known, cap = torch.cat((top, extra.unsqueeze(-1)), -1).exp(), smallest.exp()
    listed = known.sum(-1)
    tolerance = max(SUM_TOLERANCE[torch.float32], SUM_TOLERANCE.get(source, 0))
    bad = listed > 1 + tolerance
    if bool(bad.any()):
        got = f"got {float(listed[bad][0]):.7g}{row_name(bad)}"
        raise ValueError(f"exp(top_log_probs) must sum to at most 1 (within {tolerance:g}); {got}")
    most = torch.where(cap > 0, unseen * cap, 0)
    bad = 1 - listed > most + tolerance
    if bool(bad.any()):
        got = f"got {float(listed[bad][0]):.7g}{row_name(bad)}"
        raise ValueError(
            f"exp(top_log_probs) must sum to at least {1 - float(most[bad][0]):.7g}, "
            f"as the tokens not listed have at most the smallest each; {got}"
        )
    rest = torch.minimum((1 - listed).clamp(min=0), most)
    rounding = 8 * torch.finfo(working_dtype(source)).eps
    if vocab_size is None:
        rest = rest.masked_fill(rest <= rounding, 0)
    total = listed + rest
    return _Given(known / total.unsqueeze(-1), cap / total, rest / total, unseen, rounding, numpy)


def _sampled(value: Any, rows: Tensor) -> Tensor:
    sampled = tensor_of("sampled_log_prob", value)[0].to(rows)
    bad = sampled.isnan() | sampled.isposinf()
    if bool(bad.any()):
        raise ValueError(f"sampled_log_prob must be finite or -inf; got {float(sampled[bad][0])}{row_name(bad)}")
    if sampled.ndim > rows.ndim or any(a != b for a, b in zip(sampled.shape, rows.shape, strict=False)):
        shapes = f"{tuple(rows.shape)}, one a row; got {tuple(sampled.shape)}"
        raise ValueError(f"sampled_log_prob must have shape {shapes}")
    return sampled.expand_as(rows)


def _packed(given: _Given) -> tuple[Tensor, Tensor]:
    """How many unseen tokens can be as probable as the cap, and what is left for one more."""
    full = torch.where(given.cap > 0, (given.rest / given.cap).floor(), 0)
    return full, (given.rest - full * given.cap).clamp(min=0)


def _entr(x: Tensor) -> Tensor:
    return -torch.xlogy(x, x)


def _varentropy(known: Tensor, *shares: tuple[Tensor, Tensor]) -> Tensor:
    """Varentropy of ``known`` [..., N] and, for each (count, x) of ``shares`` [..., C], count tokens at x."""
    known = known.unsqueeze(-2)
    h = _entr(known).sum(-1)
    for count, x in shares:
        h = h + count * _entr(x)
    total = (known * (safe_log(known).masked_fill(known == 0, 0) + h.unsqueeze(-1)).square()).sum(-1)
    for count, x in shares:
        total = total + torch.where(x > 0, count * x * (safe_log(x).masked_fill(x == 0, 0) + h).square(), 0)
    return total


def _least_varentropy(given: _Given) -> Tensor:
    full, left = (x[..., None] for x in _packed(given))
    packed = _varentropy(given.known, (full, given.cap[..., None]), (torch.ones_like(left), left))
    rest = given.rest[..., None]
    best = rest * (_entr(given.known).sum(-1, keepdim=True) / (1 - rest)).exp()
    j = torch.maximum(torch.cat((best.floor(), best.ceil()), -1), full + 1)
    j = torch.minimum(j, given.unseen[..., None]).clamp(min=1)
    return torch.cat((packed, _varentropy(given.known, (j, rest / j))), -1).amin(-1)


def _greatest_varentropy(given: _Given) -> Tensor:
    full, _ = _packed(given)
    unseen, rest, cap = (x[..., None] for x in (given.unseen.clamp(min=1), given.rest, given.cap))
    last = torch.minimum(full[..., None], unseen - 1)  # of the tokens at the cap: one at least is not
    known = _entr(given.known).sum(-1, keepdim=True)

    def at(a: Tensor) -> tuple[Tensor, Tensor]:
        """D and u_z with ``a`` tokens, not always whole, at the cap and the others equal."""
        mass = (rest - a * cap).clamp(min=0)
        z = mass / (unseen - a)
        w = -z.clamp(min=_TINY).log()
        return w + cap.clamp(min=_TINY).log(), known + a * _entr(cap) + mass * w - w

    def rises(a: Tensor) -> Tensor:
        d, u_z = at(a)
        close = 1 + d / 3 + d.square() / 36  # the series of m, where the fraction would be 0 / 0
        return torch.where(d < 1e-3, close, d.square() / (2 * (d + (-d).expm1()))) + u_z > 0

    def inner_rises(a: Tensor) -> Tensor:
        d, u_z = at(a)
        return d + 2 * u_z + 2 > 0

    zero = torch.zeros_like(rest)
    peak, first = (_bisect(test, zero, last) for test in (rises, inner_rises))
    near = torch.arange(-1.0, 3.0, dtype=torch.float64, device=rest.device)  # one more on each side, for rounding
    whole = torch.minimum((peak.floor() + near).clamp(min=0), last)
    z = (rest - whole * cap).clamp(min=0) / (unseen - whole)
    corner = _varentropy(given.known, (whole, cap), (unseen - whole, z))

    a = torch.minimum((first.floor() + near).clamp(min=0), last)
    mass, others = (rest - a * cap).clamp(min=0), (unseen - a - 1).clamp(min=1)

    def share(y: Tensor) -> Tensor:
        return ((mass - y) / others).clamp(min=_TINY)

    def t_rises(y: Tensor) -> Tensor:
        return 1 / y - 1 / (others * share(y)) - 2 * (y / share(y)).log() > 0

    def value_rises(y: Tensor) -> Tensor:
        h = known + a * _entr(cap) + _entr(y) + others * _entr(share(y))
        return y.log() + share(y).log() + 2 * h + 2 > 0

    start, end = (mass / (others + 1)).clamp(min=_TINY), torch.minimum(cap, mass).clamp(min=_TINY)
    y = _bisect(value_rises, _bisect(t_rises, start, end), end)
    y = torch.where(unseen - a > 1, y, start)
    inner = _varentropy(given.known, (a, cap), (torch.ones_like(y), y), (others, (mass - y).clamp(min=0) / others))
    inner = torch.where(unseen - a > 1, inner, 0)  # the last token has no one to share with

    value = torch.cat((corner, inner), -1).amax(-1)
    settled = _varentropy(given.known)[..., 0]
    return torch.where(given.rest > 0, torch.where(given.unseen < torch.inf, value, torch.inf), settled)


_TINY = 1e-300


def _bisect(rises: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where ``rises`` turns from true to false between ``low`` and ``high`` (an end, if it does not)."""
    for _ in range(40):  # 1e-12 of the way, and what is sought is where a smooth function is flat
        middle = (low + high) / 2
        up = rises(middle)
        low, high = torch.where(up, middle, low), torch.where(up, high, middle)
    return (low + high) / 2
