import itertools
import math

import pytest
import torch
from hypothesis import strategies as st
from transformers.generation.logits_process import TopHLogitsWarper

from hartley.decoding import chain, temperature, top_h
from strategies import assert_kept, entropy64, fractions, in_order, law, log_softmax64, rows, subset, unsorted

pytestmark = pytest.mark.usefixtures("backend")


def prefix_entropies(log_probs):
    """Entropy of each renormalised prefix of a sorted row, in float64."""
    probs = log_probs.exp()
    mass = probs.cumsum(-1)
    return mass.log() - (probs * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).cumsum(-1) / mass


def count(logits, alpha, **kwargs):
    return int(top_h(alpha, **kwargs).mask(logits).isfinite().sum())


def zipf(s, size=50_000):
    return -s * torch.arange(1, size + 1, dtype=torch.float64).log()[None]


@law(rows(), fractions())
def test_keeps_the_longest_prefix_under_the_bound(logits, alpha):
    log_probs, order = in_order(logits)
    room = alpha * entropy64(log_probs)[:, None] - prefix_entropies(log_probs)
    possible = log_probs > -torch.inf
    inside, outside = (room > 1e-5) & possible, (room < -1e-5) | ~possible
    inside[:, 0], outside[:, 0] = True, False
    assert_kept(top_h(alpha).mask(logits), logits, unsorted(inside, order), unsorted(outside, order))


@law(rows(), fractions())
def test_the_entropy_of_what_is_kept_is_bounded(logits, alpha):
    masked = top_h(alpha).mask(logits)
    bound = alpha * entropy64(log_softmax64(logits))
    alone = masked.isfinite().sum(-1) == 1
    assert (alone | (entropy64(log_softmax64(masked)) <= bound + 1e-5)).all()


@law(rows(), fractions(), fractions())
def test_nested_in_alpha(logits, a, b):
    assert subset(top_h(min(a, b)).mask(logits), top_h(max(a, b)).mask(logits))


@law(rows())
def test_one_keeps_everything(logits):
    assert torch.equal(top_h(1.0).mask(logits), logits)


@pytest.mark.parametrize(("n", "alpha"), [(16, 0.4), (100, 0.4), (1000, 0.4), (1000, 0.7), (300, 0.999)])
def test_of_equal_tokens_n_to_the_alpha_stay(n, alpha):
    assert count(torch.zeros(1, n), alpha) == math.floor(n**alpha)


@pytest.mark.parametrize(("n", "alpha", "expected"), [(16, 0.4, 6), (100, 0.4, 40), (1000, 0.4, 40), (1000, 0.7, 70)])
def test_of_equal_tokens_the_partial_rule_keeps_a_share_of_the_hundred(n, alpha, expected):
    assert count(torch.zeros(1, n), alpha, rule="partial") == expected


def test_four_tokens():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert entropy64(log_softmax64(logits)).item() == pytest.approx(1.279854, abs=1e-6)
    assert count(logits, 0.55) == 2
    assert count(logits, 0.55, rule="partial") == 1
    for alpha, paper, partial in [(0.28, 1, 1), (0.29, 1, 1), (0.54, 2, 1), (0.57, 2, 2), (0.83, 3, 3), (0.999, 3, 3)]:
        assert (count(logits, alpha), count(logits, alpha, rule="partial")) == (paper, partial)


@pytest.mark.parametrize(
    ("s", "paper", "theirs", "uncapped"),
    [(1.05, 31, 9, 248), (1.1, 25, 8, 142), (1.2, 15, 6, 50), (1.5, 5, 4, 6)],
)
def test_zipf_table(s, paper, theirs, uncapped):
    logits = zipf(s).float()
    assert count(logits, 0.4) == paper
    assert count(logits, 0.4, rule="partial") == theirs
    assert count(logits, 0.4, rule="partial", top_n=50_000) == uncapped


def test_zipf_mass_and_entropy():
    log_probs = log_softmax64(zipf(1.05))
    assert entropy64(log_probs).item() == pytest.approx(7.0164, abs=1e-4)
    kept = top_h(0.4).mask(zipf(1.05)).isfinite()
    assert log_probs.exp()[kept].sum().item() == pytest.approx(0.4196, abs=1e-4)


def test_divergence_follows_the_closed_form():
    probs = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    for kept, expected in [(1, 0.274358), (2, 0.117277), (3, 0.035974)]:
        mass = float(probs[:kept].sum())
        closed = 0.5 * (mass * math.log(2 * mass / (1 + mass)) + (1 - mass) * math.log(2) + math.log(2 / (1 + mass)))
        q = torch.where(torch.arange(4) < kept, probs / mass, 0.0)
        middle = (probs + q) / 2
        direct = 0.5 * ((probs * (probs / middle).log()).sum() + (torch.xlogy(q, q) - torch.xlogy(q, middle)).sum())
        assert closed == pytest.approx(expected, abs=1e-6)
        assert direct.item() == pytest.approx(expected, abs=1e-6)


@law(st.integers(0, 2**32), st.integers(2, 10), fractions())
def test_no_subset_under_the_bound_that_holds_less_is_missed_by_brute_force(seed, size, alpha):
    """The greedy set is allowed, so the best of all subsets holds at least its mass."""
    logits = 2 * torch.randn(1, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probs = logits.softmax(-1)[0]
    bound = alpha * entropy64(logits.log_softmax(-1)).item()
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64)[1:]
    mass = masks @ probs
    shares = masks * probs / mass[:, None]
    allowed = -torch.xlogy(shares, shares).sum(-1) <= bound * (1 + 1e-6) + 1e-12
    greedy = probs[top_h(alpha).mask(logits)[0].isfinite()].sum()
    assert greedy <= mass[allowed].max() + 1e-12


@law(rows(distinct=True, sizes=(64, 129, 1000)), fractions().filter(lambda a: a < 1))
def test_the_partial_rule_equals_transformers(logits, alpha):
    logits = logits.double()
    ours = top_h(alpha, rule="partial").mask(logits) > -torch.inf
    theirs = TopHLogitsWarper(alpha)(None, logits.masked_fill(logits == -torch.inf, -1e4)) > -torch.inf
    log_probs, order = in_order(logits)
    top = log_probs[:, :100] - log_probs[:, :100].logsumexp(-1, keepdim=True)
    partial = -(top.exp() * top.masked_fill(top == -torch.inf, 0.0)).cumsum(-1)
    gap = torch.full_like(log_probs, torch.inf)
    gap[:, : top.shape[1]] = (partial - alpha * partial[:, -1:]).abs() / partial[:, -1:].clamp(min=1e-300)
    undecided = unsorted(gap < 2e-6, order)  # ours lets a token on the bound stay
    assert not ((ours != theirs) & ~undecided & (logits > -torch.inf)).any()


@law(rows(), fractions(), st.floats(0.3, 3.0))
def test_after_a_temperature_the_tempered_entropy_counts(logits, alpha, t):
    tempered = (logits.double() / t).float()
    log_probs, order = in_order(tempered)
    room = alpha * entropy64(log_probs)[:, None] - prefix_entropies(log_probs)
    kept = chain(temperature(t), top_h(alpha)).mask(logits) > -torch.inf
    place = unsorted(room > 1e-4, order), unsorted(room < -1e-4, order)
    first = torch.zeros_like(kept).scatter_(-1, order[:, :1], True)
    possible = logits > -torch.inf
    assert not (place[0] & ~kept & possible).any()
    assert not (place[1] & kept & ~first).any()


def test_refuses():
    with pytest.raises(ValueError, match=r"top_h must be in \(0, 1\]; got 1.5"):
        top_h(1.5)
    with pytest.raises(ValueError, match="'paper', 'partial'"):
        top_h(0.4, rule="papers")
