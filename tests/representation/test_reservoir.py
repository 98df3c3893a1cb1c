import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from hartley.representation import Reservoir


@given(st.integers(0, 2**16), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 50))
def test_any_split_and_any_order_keep_the_same_rows(seed, cuts, size):
    rows = np.random.default_rng(seed).normal(size=(40, 3))
    whole = Reservoir(size).partial_fit(rows)
    merged = Reservoir(size)
    for part in np.split(np.random.default_rng(seed + 1).permutation(rows), sorted(cuts)):
        merged = Reservoir(size).partial_fit(part).merge(merged)
    np.testing.assert_array_equal(whole.sample_, merged.sample_)
    assert whole.n_seen_ == merged.n_seen_ == 40
    assert len(whole.sample_) == min(size, 40)


def test_each_row_has_the_same_chance():
    """A row stays in 1 of 4 draws, a row of zeros too; exact binomial tests, false alarm 1e-6 each."""
    rows = np.linspace(0, 1, 40)[:, None]
    kept = np.array([np.isin(rows[:, 0], Reservoir(10, random_state=s).partial_fit(rows).sample_) for s in range(2000)])
    assert kept.sum(1).tolist() == [10] * 2000
    for row in (0, 1, 20, 39):
        assert binomtest(int(kept[:, row].sum()), 2000, 0.25).pvalue > 1e-6


def test_a_long_stream_leaves_no_more_than_its_size():
    reservoir = Reservoir(16)
    for batch in torch.randn(50, 8, 4, 2, generator=torch.Generator().manual_seed(0)).bfloat16():
        reservoir.partial_fit(batch)
    assert reservoir.sample_.shape == (16, 2)
    assert reservoir.sample_.dtype == np.float32
    assert reservoir.n_seen_ == 50 * 8 * 4


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="size"):
        Reservoir(0)
    with pytest.raises(ValueError, match="X must have 2 features, as the rows before; got 3"):
        Reservoir(4).partial_fit(np.zeros((5, 2))).partial_fit(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="feature axis"):
        Reservoir(4).partial_fit(1.0)
    with pytest.raises(ValueError, match=r"size and random_state \(4, 0\), as this one; got \(5, 0\)"):
        Reservoir(4).merge(Reservoir(5))
