"""The numba kernels against their definition, and the definition against float64."""

import os

import pytest
import torch
from hypothesis import strategies as st

from hartley.info.kernels import kernels_for, reference
from strategies import entropy64, law, log_softmax64, rows, seeds

if os.environ.get("HARTLEY_KERNELS") == "reference":
    pytest.skip("the fast paths are switched off", allow_module_level=True)

cpu = kernels_for(torch.zeros(1, 1))

MAX = torch.finfo(torch.float32).max

# Temperatures from 1e-3 to 1e3
scales = st.floats(-3.0, 3.0).map(lambda power: 10.0**power) | st.just(1.0)
EXTREME = {
    "far apart": [1e4, -1e4, 9999.0, 0.0],
    "all large": [1e4, 1e4, 9998.5, 9990.0],
    "all small": [-1e4, -1e4 - 1, -1e4 - 2, -torch.inf],
    "ends of float32": [MAX, -MAX, 0.0, MAX],
    "largest negative": [-MAX, -MAX, -torch.inf, -MAX],
    "smallest numbers": [1e-45, -1e-45, 0.0, -0.0],
}


def both(logits, scale):
    scale = torch.full((len(logits),), scale, dtype=torch.float64)
    return scale, cpu.statistics(logits, scale), reference.statistics(logits, scale)


def assert_statistics(logits, scale, fast, slow):
    true = reference.statistics(logits.double(), scale)
    reach = (logits.double() * scale[:, None]).nan_to_num(neginf=0.0).abs().amax(-1)
    for got in (fast, slow):
        assert torch.equal(got.max_logit, logits.amax(-1))
        assert got.logsumexp.dtype == torch.float64
        assert ((got.logsumexp - true.logsumexp).abs() <= 1e-6 + 1e-7 * reach).all()
        torch.testing.assert_close(got.entropy.double(), true.entropy, atol=1e-6, rtol=3e-7)
        torch.testing.assert_close(got.varentropy.double(), true.varentropy, atol=1e-5, rtol=1e-5)


@law(rows(), scales, examples=80)
def test_statistics(logits, scale):
    assert_statistics(logits, *both(logits, scale))


@law(rows(), scales, examples=60)
def test_the_definition_in_float64(logits, scale):
    log_probs = log_softmax64(logits.double() * scale)
    got = reference.statistics(logits.double(), torch.full((len(logits),), scale, dtype=torch.float64))
    torch.testing.assert_close(got.entropy, entropy64(log_probs), atol=1e-12, rtol=1e-12)
    spread = (-log_probs.masked_fill(log_probs == -torch.inf, 0.0) - got.entropy[:, None]).square()
    torch.testing.assert_close(got.varentropy, (log_probs.exp() * spread).sum(-1), atol=1e-11, rtol=1e-11)
    sums = (logits.double() * scale).logsumexp(-1)
    torch.testing.assert_close(got.logsumexp, sums, atol=1e-11, rtol=1e-12)


@pytest.mark.parametrize("kind", EXTREME)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("size", [4, 4097])
def test_extreme_logits(kind, scale, size):
    logits = torch.tensor(EXTREME[kind]).repeat(size // 4 + 1)[:size].expand(2, -1).contiguous()
    scale, fast, slow = both(logits, scale)
    for got in (fast, slow):
        assert got.entropy.isfinite().all()
        assert got.varentropy.isfinite().all()
        assert got.logsumexp.isfinite().all()
    torch.testing.assert_close(fast.entropy, slow.entropy, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(fast.logsumexp, slow.logsumexp, atol=1e-6, rtol=1e-7)
    listed = [
        k.largest(logits, s.index, torch.tensor([3, 500]), scale, s.logsumexp, None)
        for k, s in ((cpu, fast), (reference, slow))
    ]
    assert torch.equal(listed[0].tokens, listed[1].tokens)
    assert torch.equal(listed[0].known, listed[1].known)
    drawn = [k.race_all(logits, scale, s.index, torch.arange(2)) for k, s in ((cpu, fast), (reference, slow))]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_rows_are_nan_and_others_are_not(bad):
    logits = torch.randn(3, 5000)
    logits[1, 4500] = bad
    if bad == -torch.inf:
        logits[1] = bad
    for kernels in (cpu, reference):
        entropy = kernels.statistics(logits, torch.ones(3, dtype=torch.float64)).entropy
        assert entropy.isnan().tolist() == [False, True, False]


def listed_alike(fast, slow):
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one, other)


@law(rows(), st.lists(st.integers(1, 6000), min_size=3, max_size=3), scales, examples=80)
def test_largest_is_exact_ties_included(logits, k, scale):
    scale, fast, slow = both(logits, scale)
    k = torch.tensor(k)[: len(logits)]
    for chosen in (None, torch.arange(len(logits))[-2:]):
        one, other = (
            kernels.largest(logits, index, k, scale, slow.logsumexp, chosen)
            for kernels, index in ((cpu, fast.index), (reference, None))
        )
        listed_alike(one, other)


@law(rows(), st.integers(1, 6000), scales, examples=60)
def test_a_look_is_the_statistics_and_the_largest(logits, k, scale):
    scale, fast, slow = both(logits, scale)
    for kernels, statistics in ((cpu, fast), (reference, slow)):
        passed, listed = kernels.look(logits, scale, k)
        assert passed.sound
        for one, other in zip(passed[:4], statistics[:4], strict=True):
            assert torch.equal(one, other)
        wanted = torch.full((len(logits),), k)
        listed_alike(listed, reference.largest(logits, None, wanted, scale, statistics.logsumexp, None))


def test_signed_zeros_are_tied():
    logits = torch.tensor([[0.0, -0.0, 0.0, -0.0, -1.0] * 40])
    scale, fast, slow = both(logits, 1.0)
    for k in (1, 3, 50, 199, 200):
        wanted = torch.tensor([k])
        got = cpu.largest(logits, fast.index, wanted, scale, slow.logsumexp, None)
        listed_alike(got, reference.largest(logits, None, wanted, scale, slow.logsumexp, None))
        assert got.tokens[0, : min(k, 4)].tolist() == [0, 1, 2, 3][:k]


@law(rows(), st.floats(-30.0, 0.0), scales, examples=60)
def test_above_lists_all_that_reach_the_level_and_little_more(logits, level, scale):
    scale, fast, slow = both(logits, scale)
    log_probs = logits * scale[:, None] - slow.logsumexp[:, None]
    levels = torch.minimum(torch.full_like(slow.logsumexp, level), log_probs.amax(-1))
    margin = 1e-4 * (1 + slow.logsumexp.abs() + scale)
    for kernels, index in ((cpu, fast.index), (reference, None)):
        listed = kernels.above(logits, index, levels, scale, slow.logsumexp, None)
        wanted = ((log_probs >= levels[:, None]) & (logits > -torch.inf)).sum(-1)
        assert (listed.known >= wanted).all()
        assert (listed.known <= (log_probs >= (levels - margin)[:, None]).sum(-1).clamp(min=1)).all()
        again = reference.largest(logits, None, listed.known, scale, slow.logsumexp, None)
        assert torch.equal(listed.tokens, again.tokens)
        assert torch.equal(listed.log_probs, again.log_probs)


def listed_of(logits, k):
    scale, fast, slow = both(logits, 1.0)
    wanted = torch.full((len(logits),), k)
    return fast, slow, reference.largest(logits, None, wanted, scale, slow.logsumexp, None)


@law(rows(), st.floats(0.01, 0.9999), st.integers(1, 200), scales, examples=60)
def test_depth_is_enough_where_the_histogram_sees_every_logit(logits, mass, k, scale):
    scale, fast, slow = both(logits, scale)
    masses = torch.full((len(logits),), mass, dtype=torch.float64)
    wanted = torch.full((len(logits),), k)
    listed = reference.largest(logits, None, wanted, scale, slow.logsumexp, None)
    probs = (logits * scale[:, None] - slow.logsumexp[:, None]).exp().sort(-1, descending=True).values
    in_reach = (logits > logits.amax(-1, keepdim=True) - 31.9).sum(-1)
    for kernels, index in ((cpu, fast.index), (reference, None)):
        arguments = scale, slow.logsumexp, listed.log_probs[:, 0], masses, (listed.log_probs, listed.known)
        k = kernels.depth(logits, index, *arguments)
        held = probs.cumsum(-1).gather(-1, k[:, None] - 1).squeeze(-1)
        assert ((held >= mass - 1e-5) | (k >= in_reach)).all()
        assert (k <= logits.shape[1]).all()


@pytest.mark.parametrize("sd", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("mass", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("around", ["top", "entropy"])
def test_depth_guesses_closely_from_a_part_of_the_row(sd, mass, around):
    logits = sd * torch.randn(16, 151_936, generator=torch.Generator().manual_seed(7))
    scale, fast, slow = both(logits, 1.0)
    masses = torch.full((16,), mass, dtype=torch.float64)
    listed = reference.largest(logits, None, torch.full((16,), 128), scale, slow.logsumexp, None)
    level = listed.log_probs[:, 0] if around == "top" else -slow.entropy
    arguments = scale, slow.logsumexp, level, masses, (listed.log_probs, listed.known)
    guess = cpu.depth(logits, fast.index, *arguments)
    least = reference.depth(logits, None, *arguments)
    assert (guess < least).sum() <= 2, (guess, least)
    assert (guess <= 1.3 * least + 10 * least.sqrt() + 300).all(), (guess, least)


@law(rows(), st.floats(0.01, 1.5), st.integers(1, 500), examples=80)
def test_nucleus(logits, mass, k):
    _, _, listed = listed_of(logits, k)
    masses = torch.full((len(logits),), mass, dtype=torch.float64)
    masks = [kernels.nucleus(listed.log_probs, listed.known, masses) for kernels in (cpu, reference)]
    sums = listed.log_probs.double().exp().cumsum(-1)
    for row, slot in (masks[0] != masks[1]).nonzero().tolist():
        assert abs(sums[row, slot - 1] - mass) < 1e-6  # a sum that rounds differently may go one further


@law(rows(), st.floats(0.01, 1.0), st.floats(-12.0, 0.0), examples=80)
def test_nearest(logits, mass, level):
    _, _, listed = listed_of(logits, 500)
    levels, masses = torch.full((len(logits),), level), torch.full((len(logits),), mass, dtype=torch.float64)
    masks = [k.nearest(listed.log_probs, listed.known, levels, masses) for k in (cpu, reference)]
    distance = (listed.log_probs - level).abs()
    held = [(listed.log_probs.exp() * mask).sum(-1, dtype=torch.float64) for mask in masks]
    for row in (masks[0] != masks[1]).any(-1).nonzero().flatten():
        # Only where the mass is reached to rounding may one go one further
        odd = masks[0][row] != masks[1][row]
        assert min((held[0][row] - mass).abs(), (held[1][row] - mass).abs()) < 1e-5
        assert distance[row][odd].unique().numel() == 1


@law(rows(), st.integers(1, 5000), seeds(), st.floats(0.0, 1.0), examples=100)
def test_restrict(logits, k, seed, share):
    generator = torch.Generator().manual_seed(seed)
    _, _, listed = listed_of(logits, k)
    mask = torch.rand(listed.tokens.shape, generator=generator) < share
    if share > 0.5:  # a list without gaps
        mask = mask.int().cummin(-1).values.bool() if seed % 2 else mask.int().cummax(-1).values.bool()
    mask |= ~mask.any(-1, keepdim=True)
    mask[:, 0] |= ~(mask & (listed.log_probs > -torch.inf)).any(-1)
    start = torch.randint(-1, 3, (len(logits),), generator=generator)
    given = listed.tokens, listed.log_probs, mask, listed.known, start, listed.complete
    one, other = (k.restrict(*given) for k in (cpu, reference))
    for field in ("tokens", "known", "start", "least"):
        assert torch.equal(torch.as_tensor(getattr(one, field)), torch.as_tensor(getattr(other, field)))
    assert (one.short is None) == (other.short is None)
    if one.short is not None:
        assert torch.equal(one.short, other.short)
    places = torch.arange(mask.shape[1])
    for row in range(len(logits)):
        kept = places[mask[row] & (listed.log_probs[row] > -torch.inf)]
        joined = start[row] >= 0 and torch.equal(kept, torch.arange(int(kept[0]), int(kept[0]) + len(kept)))
        assert one.start[row] == (start[row] + kept[0] if joined else -1)
    kept = listed.log_probs.double().masked_fill(~mask, -torch.inf)
    true = kept.log_softmax(-1)
    for got in (one, other):
        torch.testing.assert_close(got.log_mass.double(), kept.logsumexp(-1), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(got.entropy.double(), entropy64(true), atol=2e-6, rtol=1e-6)
        assert (got.log_probs.double().exp().sum(-1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(one.log_probs, other.log_probs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.varentropy, other.varentropy, atol=1e-5, rtol=1e-5)


def split_mix(seed, token):
    """SplitMix64 of a seed, ``token + 1`` steps on, in Python's whole numbers."""
    z = (seed + (token + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return ((z ^ (z >> 31)) >> 11) / 2**53


@law(seeds(), st.integers(0, 300_000))
def test_the_noise_is_split_mix(seed, token):
    noise = reference.noise(torch.tensor([seed]), torch.tensor([token]))
    assert (-torch.expm1(-noise)).item() == pytest.approx(split_mix(seed, token), abs=1e-12)


def test_split_mix_gives_its_published_sequence():
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of seed 0
    assert [split_mix(0, i) for i in range(3)] == [(z >> 11) / 2**53 for z in first]


@law(rows(), seeds(), scales, examples=60)
def test_races_have_one_winner(logits, seed, scale):
    own = (torch.arange(len(logits)) + seed // 2).long()
    scale, fast, slow = both(logits, scale)
    winner = reference.race_all(logits, scale, None, own)
    assert torch.equal(cpu.race_all(logits, scale, fast.index, own), winner)
    whole = torch.full((len(logits),), logits.shape[1])
    listed = reference.largest(logits, None, whole, scale, slow.logsumexp, None)
    for kernels in (cpu, reference):
        assert torch.equal(kernels.race(listed.tokens, listed.log_probs, listed.known, own), winner)


@law(rows(), seeds(), st.integers(1, 400), examples=60)
def test_describe(logits, seed, k):
    scale, fast, slow = both(logits, 1.0)
    token = torch.randint(logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))
    token = torch.where(logits.gather(-1, token[:, None]).squeeze(-1) > -torch.inf, token, logits.argmax(-1))
    listed = reference.largest(logits, None, torch.full((len(logits),), k), scale, slow.logsumexp, None)
    mass = listed.log_probs.double().exp().sum(-1).log()
    known = torch.zeros_like(listed.known), mass
    unknown = torch.full_like(listed.known, -1), torch.full_like(mass, torch.nan)
    for kept in (None, *(reference.KeptSet(*listed[:3], *more) for more in (known, unknown))):
        one = cpu.describe(logits, fast.index, slow.logsumexp, token, kept)
        other = reference.describe(logits, None, slow.logsumexp, token, kept)
        assert torch.equal(one.rank, other.rank)
        assert torch.equal(one.kept, other.kept)
        for field in ("log_prob", "surprisal", "mass"):
            torch.testing.assert_close(getattr(one, field), getattr(other, field), atol=1e-6, rtol=1e-6)
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(order.gather(-1, one.rank[:, None] - 1).squeeze(-1), token)
    removed = one.rank > k
    assert torch.equal(one.log_prob == -torch.inf, removed)


@law(rows(), st.sampled_from([0.0, 1000.0, -1000.0]), examples=60)
def test_deviation_whatever_the_first_logit(logits, first):
    logits = logits.clone()
    logits[:, 0] = torch.where(logits[:, 0] > -torch.inf, first, logits[:, 0])
    finite = logits > -torch.inf
    values = logits.double()
    true = torch.stack([row[kept].std(correction=0) for row, kept in zip(values, finite, strict=True)])
    for kernels in (cpu, reference):
        torch.testing.assert_close(kernels.deviation(logits).double(), true, atol=1e-6, rtol=1e-5)


def test_no_kernel_is_compiled_a_second_time():
    """Every layout that comes up is compiled before the first token, not in the middle of a text."""
    from hartley.decoding import chain, mirostat, temperature, top_h, top_p, typical_p

    modules = cpu.cpu_rows, cpu.cpu_lists
    kernels = {name: one for module in modules for name, one in vars(module).items() if hasattr(one, "signatures")}
    assert kernels
    before = {name: len(kernel.signatures) for name, kernel in kernels.items()}
    logits = torch.randn(3, 5000)
    for sampler in (
        temperature(0),
        top_p(0.9),
        typical_p(0.3),
        top_h(0.4),
        mirostat(1),
        chain(temperature(2), top_p(0.5), typical_p(0.9)),
    ):
        for x in (logits, logits[:1]):
            sampler.step(x, None, torch.Generator())
    assert {name: len(kernel.signatures) for name, kernel in kernels.items()} == before
