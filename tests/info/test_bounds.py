"""No distribution that fits the list is outside, and the bounds are reached: enumeration, scans, an optimiser."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hartley.info.bounds import Interval, entropy_bounds, top_p_size_bounds, varentropy_bounds
from hartley.info.measures import entropy, varentropy

BOUNDS = {
    "entropy": entropy_bounds,
    "varentropy": varentropy_bounds,
    "top_p_size": lambda *args, **kwargs: top_p_size_bounds(args[0], 0.9, *args[1:], **kwargs),
}
each_bound = pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS.keys())


def top_p_size(probs, p, slack=1e-9):
    return int((np.sort(probs)[::-1].cumsum() < p - slack).sum()) + 1


def known_and_rest(rng, most_known=4, most_unseen=7):
    """A distribution in falling order, of which the first N tokens are listed."""
    n, unseen = rng.integers(1, most_known + 1), rng.integers(1, most_unseen + 1)
    p = np.sort(rng.dirichlet(np.full(n + unseen, rng.choice([0.1, 0.3, 1.0, 3.0, 10.0]))))[::-1]
    p = np.maximum(p, 1e-12)
    return p / p.sum(), int(n)


def compositions(total, cap, n):
    """Every way to share ``total`` units among ``n`` tokens of at most ``cap``, in falling order."""
    if n == 0:
        if total == 0:
            yield ()
        return
    for first in range(min(cap, total), -1, -1):
        if first * n < total:
            return
        for others in compositions(total - first, first, n - 1):
            yield (first, *others)


# Nothing is outside


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_the_truth_lies_inside(seed, p):
    rng = np.random.default_rng(seed)
    probs, n = known_and_rest(rng, 6, 200)
    drawn = math.log(rng.choice(probs))
    for size in (None, len(probs), len(probs) + 50):
        for sampled in (None, drawn):
            given_ = (np.log(probs[:n]), size, sampled)
            for bounds, true in (
                (entropy_bounds(*given_), entropy(probs=probs)),
                (varentropy_bounds(*given_), varentropy(probs=probs)),
                (top_p_size_bounds(given_[0], p, *given_[1:]), top_p_size(probs, p)),
            ):
                assert bounds.low <= true + 1e-11
                assert true <= bounds.high + 1e-11


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_knowing_more_never_widens(seed):
    probs, n = known_and_rest(np.random.default_rng(seed), 6, 60)
    logs, size = np.log(probs), len(probs)
    for bounds in BOUNDS.values():
        wide = bounds(logs[:n], size + 5)
        for narrow in (
            bounds(logs[:n], size),
            bounds(logs[:n], size, logs[-1]),
            bounds(logs[: n + 1], size),
        ):
            assert wide.low <= narrow.low + 1e-11
            assert narrow.high <= wide.high + 1e-11


# The bounds are reached


def test_entropy_and_size_by_enumeration():
    """Every sharing in units of 1/64, and the flat one: the extremes are met exactly."""
    rng = np.random.default_rng(0)
    units, tried = 64, 0
    while tried < 150:
        n, unseen = rng.integers(1, 4), rng.integers(0, 6)
        p = np.sort(rng.multinomial(units, rng.dirichlet(np.ones(n + unseen))))[::-1]
        if p[n - 1] == 0:
            continue
        known, free, rest, extra = p[:n], unseen, p[n:].sum(), []
        drawn = rng.choice(p)
        if 0 < drawn < p[n - 1]:
            extra, free, rest = [drawn], unseen - 1, rest - drawn
        tried += 1
        wanted = rng.integers(1, units + 1) / units
        shares = [*compositions(rest, p[n - 1], free), (rest / free,) * free if free else ()]
        whole = [np.array([*known, *extra, *share]) / units for share in shares]
        sampled = math.log(drawn / units) if drawn else None
        size = top_p_size_bounds(np.log(known / units), wanted, int(n + unseen), sampled)
        sizes = [top_p_size(each, wanted) for each in whole]
        assert size == (min(sizes), max(sizes))
        low, high = entropy_bounds(np.log(known / units), int(n + unseen), sampled)
        entropies = [entropy(probs=each) for each in whole]
        assert low == pytest.approx(min(entropies), abs=1e-12)
        assert high == pytest.approx(max(entropies), abs=1e-12)


def plain_varentropy(*groups):
    """Of tokens given as (count, probability) arrays; written out without the help of the package."""
    logs = [np.log(np.where(x > 0, x, 1)) for _, x in groups]
    mean = sum(-count * x * log for (count, x), log in zip(groups, logs, strict=True))
    return sum(count * x * log**2 for (count, x), log in zip(groups, logs, strict=True)) - mean**2


def scan(known, cap, rest, unseen, steps):
    """Varentropy of a tokens at the cap, one at y, the others equal, for every a and many y."""
    a = np.arange(int(min(rest / cap, unseen - 1)) + 1)[:, None]
    mass, others = rest - a * cap, unseen - a - 1
    flat = mass / (others + 1)
    y = np.where(others > 0, flat + (np.minimum(cap, mass) - flat) * np.linspace(0, 1, steps), mass)
    z = np.where(others > 0, (mass - y) / np.maximum(others, 1), 0)
    one = np.ones_like(y)
    return plain_varentropy(*((one, x) for x in known), (a * one, cap * one), (one, y), (others * one, z))


def test_least_varentropy_over_all_counts():
    """An improbable drawn token pulls the best number of equal shares away from the fewest that fit."""
    rng = np.random.default_rng(7)
    more_than_fewest = 0
    for _ in range(60):
        cap, drawn = rng.uniform(0.02, 0.3), rng.uniform(0.001, 0.02)
        rest, unseen = 1 - cap - drawn, int(1.02 / cap) + int(rng.integers(0, 40))
        j = np.arange(math.ceil(rest / cap), unseen + 1)
        full = int(rest / cap)
        one = np.ones(len(j))
        flat = plain_varentropy((one, cap * one), (one, drawn * one), (j, rest / j))
        packed = plain_varentropy((1, cap), (1, drawn), (full, cap), (1, rest - full * cap))
        more_than_fewest += flat.argmin() > 0 and flat.min() < packed
        low = varentropy_bounds(np.log([cap]), unseen + 2, math.log(drawn)).low
        assert low == pytest.approx(min(packed, flat.min()), abs=1e-12)
    assert more_than_fewest > 10


def test_greatest_varentropy_over_all_pieces():
    """The proof looks at four values of a; here all of them are."""
    rng = np.random.default_rng(5)
    inner = 0
    for most in (6, 12, 400):
        for _ in range(50):
            shape = rng.dirichlet(np.full(rng.integers(1, 4), rng.choice([0.3, 1.0, 3.0])))
            unseen = int(rng.integers(1, most))
            largest = unseen * shape.min() / (1 + unseen * shape.min())  # more would not fit under the cap
            rest = largest * rng.random() ** rng.choice([0.2, 1.0, 3.0])
            known = shape * (1 - rest)
            values = scan(known, known.min(), rest, unseen, 201)
            best = np.unravel_index(values.argmax(), values.shape)
            inner += 0 < best[1] < 200
            high = varentropy_bounds(np.log(known), len(known) + unseen).high
            assert values.max() <= high + 1e-10
            assert high <= values.max() + 2e-4  # the scan's step
    assert inner > 10  # both kinds of maximum have been met


def test_varentropy_against_an_optimiser():
    """Random starts and SLSQP over the free shares, with the corners of the derivation as further starts."""
    rng = np.random.default_rng(1)
    for _ in range(15):
        probs, n = known_and_rest(rng, 3, 5)
        known, cap, rest, unseen = probs[:n], probs[n - 1], probs[n:].sum(), len(probs) - n
        low, high = varentropy_bounds(np.log(known), len(probs))

        def value(x, known=known):
            return varentropy(counts=np.concatenate([known, np.maximum(x, 0)]))

        starts = [np.full(unseen, rest / unseen), probs[n:]]
        for j in range(1, unseen + 1):
            if rest / j <= cap:
                starts.append(np.r_[np.full(j, rest / j), np.zeros(unseen - j)])
        full = min(int(rest / cap), unseen)
        starts.append(np.r_[np.full(full, cap), rest - full * cap, np.zeros(unseen)][:unseen])
        found = [value(x) for x in starts]
        for sign in (1, -1):
            for x in starts[:4]:
                result = minimize(
                    lambda x, sign=sign: sign * value(x),
                    np.clip(x, 1e-9, cap),
                    bounds=[(1e-13, cap)] * unseen,
                    constraints=[{"type": "eq", "fun": lambda x, rest=rest: x.sum() - rest}],
                    method="SLSQP",
                    options={"maxiter": 60, "ftol": 1e-12},
                )
                if abs(result.x.sum() - rest) < 1e-10 and result.x.max() <= cap * (1 + 1e-12):
                    found.append(value(result.x))
        assert low <= min(found) + 1e-8
        assert max(found) <= high + 1e-8
        assert min(found) == pytest.approx(low, abs=1e-8)  # the minimum is at a start; the maximum may need the ascent
        assert max(found) == pytest.approx(high, abs=1e-4)


# Closed forms and edges


def test_closed_forms():
    top = np.log([0.5, 0.25])
    low, high = entropy_bounds(top, 2 + 8, base=2)
    assert low == pytest.approx(1.5)
    assert high == pytest.approx(1.0 + 0.25 * 5)  # the rest is 8 tokens of 1/32
    assert entropy_bounds(top).low == entropy_bounds(top, 10).low
    assert entropy_bounds(top).high == math.inf
    assert varentropy_bounds(top).high == math.inf
    assert top_p_size_bounds(top, 0.75) == (2, 2)
    assert top_p_size_bounds(top, 0.76) == (3, math.inf)
    assert top_p_size_bounds(top, 1.0, 10) == (3, 10)
    assert varentropy_bounds(np.log([0.25, 0.25]), 4).low == pytest.approx(0, abs=1e-15)
    assert varentropy_bounds(np.log([0.9]), 2) == pytest.approx((0.09 * math.log(9) ** 2,) * 2)


def test_the_greatest_varentropy_of_all():
    """One heavy token and a flat rest is the worst case of V tokens; given that token, the flat rest is the answer."""
    v = 1000
    y = np.linspace(0.01, 0.99, 200_001)
    one = np.ones_like(y)
    values = plain_varentropy((one, y), ((v - 1) * one, (1 - y) / (v - 1)))
    at = y[values.argmax()]
    assert varentropy_bounds(np.log([at]), v).high == pytest.approx(values.max(), abs=1e-8)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_a_complete_list_settles_everything(seed, n):
    logits = np.random.default_rng(seed).normal(scale=3, size=n)
    log_probs = logits - np.log(np.exp(logits).sum())
    for log_p in (log_probs, torch.from_numpy(log_probs).float()):
        for bounds, measure in ((entropy_bounds, entropy), (varentropy_bounds, varentropy)):
            low, high = bounds(log_p, n)
            assert float(low) == pytest.approx(float(measure(logits=logits)), abs=1e-5)
            assert float(high - low) == pytest.approx(0, abs=1e-12)
    for p in (0.3, 0.9, 1.0):
        low, high = top_p_size_bounds(log_probs, p, n)
        assert low == high == top_p_size(np.exp(log_probs), p, 1e-14)


@each_bound
def test_a_sum_slightly_off_is_rounding(bounds):
    exact = bounds(np.log([0.5, 0.3, 0.2]), 3)
    for off in (-5e-5, -1e-9, 1e-9, 5e-5):
        np.testing.assert_allclose(bounds(np.log([0.5, 0.3, 0.2]) + off, 3), exact, atol=1e-3)
    assert bounds(np.log([0.5, 0.25, 0.25])).high < math.inf  # nothing is left, though V is unknown
    assert bounds(np.log([0.5, 0.25, 0.25]).astype(np.float32)).high < math.inf
    assert bounds(np.array([0.0, -9999.0]), 10) == pytest.approx(bounds(np.array([0.0]), 1))  # -9999 stands for never


def test_the_drawn_token_counts_once():
    top = np.log([0.5, 0.2])
    assert entropy_bounds(top, 100, math.log(0.5)) == entropy_bounds(top, 100)  # it is in the list
    assert entropy_bounds(top, 100, math.log(0.2)) == entropy_bounds(top, 100)
    low, high = entropy_bounds(top, 4, math.log(0.1))
    assert low == high == pytest.approx(entropy(probs=np.array([0.5, 0.2, 0.1, 0.2])))


@each_bound
def test_rows_and_kinds(bounds):
    logits = torch.randn(4, 5, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_probs = (3 * logits).log_softmax(-1)
    top = log_probs.topk(6).values
    sampled = log_probs[..., 17]
    for size in (300, None):
        low, high = bounds(top, size, sampled)
        assert low.shape == high.shape == (4, 5)
        assert low.dtype == torch.float64
        assert bool((low <= high).all())
        one = bounds(top[2, 3].numpy(), size, float(sampled[2, 3]))
        assert isinstance(one, Interval)
        assert isinstance(one.low, np.float64)
        assert one == pytest.approx((float(low[2, 3]), float(high[2, 3])))
        shuffled = bounds(top.flip(-1), size, sampled)
        torch.testing.assert_close(shuffled.low, low)
        torch.testing.assert_close(shuffled.high, high)
    rounded = bounds(top.float(), 300)
    torch.testing.assert_close(rounded.high, bounds(top, 300).high, rtol=1e-4, atol=1e-4)
    assert bounds(top.half(), 300).low.dtype == torch.float64


def test_units_and_a_p_for_each_row():
    top = np.log([[0.5, 0.2], [0.6, 0.3]])
    np.testing.assert_allclose(entropy_bounds(top, 50, base=2), np.array(entropy_bounds(top, 50)) / math.log(2))
    in_bits = np.array(varentropy_bounds(top, 50)) / math.log(2) ** 2
    np.testing.assert_allclose(varentropy_bounds(top, 50, base=2), in_bits)
    sizes = top_p_size_bounds(top, np.array([0.5, 0.95]), 50)
    assert [*sizes.low] == [1, 3]


# Errors


@each_bound
@pytest.mark.parametrize(
    ("top", "size", "sampled", "message"),
    [
        ([[-1.0, math.nan]], None, None, "top_log_probs must be finite or -inf; got NaN at index 1 in row 0"),
        ([[0.0, -1.0]], None, None, r"exp\(top_log_probs\) must sum to at most 1 .* got 1\.367879 in row 0"),
        ([[-0.7, -0.7], [-5.0, -6.0]], 20, None, r"must sum to at least 0\.9553\d*, .* got 0\.009216\d* in row 1"),
        ([0.0, -9999.0 + 9998.5], 10, None, "must sum to at most 1"),
        ([-0.5, -9999.0], None, None, "must sum to at least 1, as the tokens not listed have at most the smallest"),
        ([-1.0, -1.0], 1, None, "vocab_size must be at least the 2 known tokens; got 1"),
        ([-1.0, -1.0], 2, -3.0, "vocab_size must be at least the 3 known tokens; got 2"),
        ([-1.0, -1.0], 0, None, "vocab_size must be a whole number of at least 1; got 0"),
        ([-1.0, -1.0], 9, math.nan, "sampled_log_prob must be finite or -inf; got nan"),
        ([-1.0, -1.0], 9, np.array([-2.0, -2.0]), r"sampled_log_prob must have shape \(\), one a row; got \(2,\)"),
        ([], None, None, "top_log_probs must hold at least one value a row"),
    ],
)
def test_what_cannot_be_is_refused(bounds, top, size, sampled, message):
    with pytest.raises(ValueError, match=message):
        bounds(np.array(top), size, sampled)


def test_bad_settings():
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\]; got 1.5"):
        top_p_size_bounds(np.log([0.5]), 1.5)
    with pytest.raises(ValueError, match="base must be None"):
        entropy_bounds(np.log([0.5]), base=1)
    with pytest.raises(TypeError, match="top_log_probs must be an array of real numbers"):
        entropy_bounds(np.array(["a"]))
