import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.training.rl.selection import at_random, largest, quantile, share_of, top_entropy_mask


def drawn(seed, size=40, share=0.7):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-5, 6, (size,), generator=generator).float()  # with ties
    return scores, torch.rand(size, generator=generator) < share


@given(seed=st.integers(0, 2**32), ratio=st.floats(0, 1))
def test_the_largest_are_the_largest_and_ties_go_to_the_earlier(seed, ratio):
    scores, mask = drawn(seed)
    order = sorted((i for i in range(len(scores)) if mask[i]), key=lambda i: (-float(scores[i]), i))
    wanted = order[: share_of(ratio, len(order))]
    assert sorted(wanted) == largest(scores, mask, ratio).nonzero().flatten().tolist()


@given(seed=st.integers(0, 2**32), count=st.integers(0, 50))
def test_random_choices_are_as_many_as_asked_and_eligible(seed, count):
    _, eligible = drawn(seed)
    chosen = at_random(eligible, count, generator=torch.Generator().manual_seed(seed))
    assert int(chosen.sum()) == min(count, int(eligible.sum()))
    assert not (chosen & ~eligible).any()


def test_random_choices_are_uniform():
    """10,000 draws of 2 of 5: each 4,000 times, within 5 standard errors of 49 (false alarms: under 3e-6)."""
    generator = torch.Generator().manual_seed(0)
    eligible = torch.tensor([True, False, True, True, True, True])
    counts = sum(at_random(eligible, 2, generator=generator).long() for _ in range(10_000))
    assert counts[1] == 0
    assert ((counts[eligible] - 4000).abs() < 245).all()


def test_shares_are_fractions():
    assert [share_of(0.29, 100), share_of(2e-3, 1000), share_of(1e-9, 3), share_of(0, 9), share_of(0.5, 0)] == [
        29, 2, 1, 0, 0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\]: a fraction, not a percentage; got 20"):
        share_of(20, 100)


@given(seed=st.integers(0, 2**32), q=st.floats(0, 1))
def test_the_quantile_is_torchs(seed, q):
    scores, mask = drawn(seed)
    if mask.any():
        assert float(quantile(scores, mask, q)) == pytest.approx(float(torch.quantile(scores[mask], q)), abs=1e-5)


def test_a_quantile_of_nothing_selects_nothing():
    entropy = torch.tensor([1.0, 2.0])
    assert not top_entropy_mask(entropy, torch.zeros(2), 0.5).any()
    assert top_entropy_mask(entropy, torch.ones(2), 1.0).all()


def test_masked_entropies_have_no_say():
    entropy = torch.tensor([0.1, 0.2, 0.3, 0.4, float("nan")])
    mask = torch.tensor([1, 1, 1, 1, 0])
    assert top_entropy_mask(entropy, mask, 0.25).tolist() == [False, False, False, True, False]
