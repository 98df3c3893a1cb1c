import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.info import causal_mask, head_entropy
from hartley.representation.heads import cache_share, first_key_mass, head_spread, verdicts


def attention(seed, heads=4, size=7):
    logits = torch.randn(2, heads, size, size, generator=torch.Generator().manual_seed(seed))
    mask = causal_mask(torch.ones(2, size))
    return logits.masked_fill(~mask, -torch.inf).softmax(-1), mask


@given(st.integers(0, 2**16))
def test_the_mean_spread_is_the_entropy_of_the_heads(seed):
    weights, mask = attention(seed)
    spread = head_spread(weights, mask)
    assert spread.shape == (2 * 6, 4)  # the first query sees one key
    torch.testing.assert_close(spread.mean(0), head_entropy([weights], mask).shares[0])


def test_a_head_on_the_first_key_rests_there():
    weights = torch.zeros(1, 2, 5, 5)
    weights[:, 0, :, 0] = 1
    weights[:, 1] = torch.eye(5)
    assert first_key_mass(weights).mean(0).tolist() == [1.0, 0.0]


def test_even_attention_needs_its_share_of_the_cache():
    weights = torch.full((1, 4, 100, 100), 1 / 100)
    share = cache_share(weights, [0.5, 0.9], kv_heads=2, queries=1)
    assert share.shape == (1, 2, 2)
    torch.testing.assert_close(share[0], torch.tensor([[0.5, 0.9], [0.5, 0.9]]))


def test_heads_that_share_a_cache_count_together():
    weights = torch.zeros(1, 2, 1, 4)
    weights[0, 0, 0, 0] = weights[0, 1, 0, 3] = 1
    assert cache_share(weights, [0.9], kv_heads=2, queries=1).flatten().tolist() == [0.25, 0.25]
    assert cache_share(weights, [0.9], kv_heads=1, queries=1).flatten().tolist() == [0.5]
    with pytest.raises(ValueError, match="kv_heads must divide the 2 heads; got 3"):
        cache_share(weights, [0.9], kv_heads=3, queries=1)


def test_the_keys_seen_are_what_is_shared():
    """The last of two queries of a causal model sees two keys, the one before it one."""
    weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    assert cache_share(weights, [1.0], kv_heads=1, queries=2).flatten().tolist() == [1.0, 1.0]


def test_a_verdict_needs_two_standard_errors():
    shares = np.array([[0.05, 0.05, 0.95, 0.95, 0.5]])
    stderr = np.array([[0.02, 0.03, 0.02, 0.03, np.nan]])
    assert verdicts(shares, stderr) == [["collapsed", "within", "overloaded", "within", "within"]]
    assert verdicts(shares[:, :1], np.full((1, 1), np.nan)) == [["collapsed"]]
