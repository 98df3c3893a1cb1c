import math

import pytest
import torch
from transformers.generation.logits_process import TypicalLogitsWarper

from hartley.decoding import typical_p
from strategies import entropy64, fractions, law, log_softmax64, rows, subset

pytestmark = pytest.mark.usefixtures("backend")


def deviation(logits):
    log_probs = log_softmax64(logits)
    return (-log_probs - entropy64(log_probs)[:, None]).abs()


def kept(probs, p):
    masked = typical_p(p).mask(torch.tensor([probs], dtype=torch.float64).log())
    return masked[0].isfinite().nonzero().squeeze(-1).tolist()


@law(rows(), fractions())
def test_keeps_the_tokens_nearest_to_the_entropy(logits, p):
    kept = typical_p(p).mask(logits) > -torch.inf
    far = deviation(logits).masked_fill(~kept, 0.0).amax(-1)
    near = deviation(logits).masked_fill(kept, torch.inf).amin(-1)
    assert (far <= near + 1e-5).all()


@law(rows(), fractions())
def test_the_kept_tokens_hold_p_and_those_short_of_the_last_do_not(logits, p):
    kept = typical_p(p).mask(logits) > -torch.inf
    probs, distance = logits.double().softmax(-1), deviation(logits)
    assert ((probs * kept).sum(-1) >= p - 1e-5).all()
    last = distance.masked_fill(~kept, 0.0).amax(-1, keepdim=True)
    nearer = (probs * (distance < last - 1e-5)).sum(-1)
    assert (nearer < p + 1e-5).all() or p == 1


@law(rows(), fractions(), fractions())
def test_smaller_p_keeps_a_subset(logits, p, q):
    assert subset(typical_p(min(p, q)).mask(logits), typical_p(max(p, q)).mask(logits))


@law(rows(), fractions())
def test_keeps_a_block_of_the_sorted_order(logits, p):
    masked = typical_p(p).mask(logits)
    kept = masked > -torch.inf
    low, high = masked.masked_fill(~kept, torch.inf).amin(-1, keepdim=True), masked.amax(-1, keepdim=True)
    assert torch.equal(kept, (logits >= low) & (logits <= high))


@law(rows())
def test_one_keeps_everything(logits):
    assert torch.equal(typical_p(1.0).mask(logits), logits)


@law(rows(distinct=True, sizes=(64, 129, 1000)), fractions().filter(lambda p: p < 1))
def test_equals_transformers(logits, p):
    logits = logits.double()
    ours, theirs = (typical_p(p).mask(logits) > -torch.inf), (TypicalLogitsWarper(p)(None, logits) > -torch.inf)
    # float64 on both sides; what may differ is a removed token, which transformers keeps at -inf, and a rounded sum
    assert (ours != theirs).sum() <= ours.shape[0]
    distance, probs = deviation(logits), logits.softmax(-1)
    for row in (ours != theirs).any(-1).nonzero().flatten():
        order = distance[row].argsort()
        held = probs[row][order].cumsum(0)
        assert ((held - p).abs() < 1e-12).any()


@pytest.mark.parametrize(
    ("p", "expected"), [(0.2, [1]), (0.24, [1]), (0.3, [0, 1]), (0.74, [0, 1]), (0.8, [0, 1, 2, 3])]
)
def test_table_of_four_tokens(p, expected):
    assert kept([0.5, 0.25, 0.125, 0.125], p) == expected  # at 0.2 without the most probable token


@pytest.mark.parametrize(
    ("a", "entropy_bits", "top", "other"), [(0.4, 2.8729, 1.0751, 0.7167), (0.6, None, 1.0411, 1.5616)]
)
def test_one_token_against_nine(a, entropy_bits, top, other):
    probs = torch.tensor([[a] + [(1 - a) / 9] * 9], dtype=torch.float64)
    assert deviation(probs.log())[0, :2].tolist() == pytest.approx([top, other], abs=1e-4)
    if entropy_bits:
        assert entropy64(probs.log()).item() / math.log(2) == pytest.approx(entropy_bits, abs=1e-4)
    first = [0] if top < other else list(range(1, 10))
    assert kept(probs[0].tolist(), 0.01) == first


def test_a_half_against_nine_ties_at_ln_3():
    probs = torch.tensor([[0.5] + [0.5 / 9] * 9], dtype=torch.float64)
    assert deviation(probs.log())[0].tolist() == pytest.approx([math.log(3)] * 10)


def test_equal_tokens_all_stay():
    assert typical_p(0.01).mask(torch.zeros(1, 500)).isfinite().all()


def test_is_greedy_where_one_token_alone_would_cost_less():
    assert kept([0.34, 0.30, 0.27, 0.09], 0.3) == [1, 2]  # the optimum of the stated problem is token 1 alone


@law(rows())
def test_almost_one_does_not_break(logits):
    assert (typical_p(1 - 1e-9).mask(logits) > -torch.inf).any(-1).all()
