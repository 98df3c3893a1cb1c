"""Attention entropy: closed forms, then its laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.info import attention_entropy, causal_mask, head_entropy


def uniform_causal(size: int) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.float64).tril() / torch.arange(1, size + 1)[:, None]


def test_uniform_causal_rows_have_the_logarithm_of_what_they_see():
    found = attention_entropy(uniform_causal(128), causal_mask(torch.ones(1, 128))[0, 0])
    torch.testing.assert_close(found, torch.arange(1, 129).double().log())
    assert float(found[:4].mean()) == pytest.approx(0.794513, abs=1e-6)
    assert float(found.mean()) == pytest.approx(3.878168, abs=1e-6)
    assert float((found / math.log(128)).mean()) == pytest.approx(0.799, abs=5e-4)


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.1, 1.0, 5.0]))
def test_it_lies_between_nothing_and_the_logarithm_in_any_order_of_keys(seed, queries, keys, sharpness):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 3, queries, keys, generator=g) < 0.7
    scores = (sharpness * torch.randn(2, 3, queries, keys, generator=g)).double()
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    weights = weights.masked_fill(~mask.any(-1, keepdim=True), torch.nan)  # rows that see nothing may hold anything
    found = attention_entropy(weights, mask)
    seen = mask.sum(-1)
    assert bool((found >= -1e-12).all())
    assert bool((found <= seen.clamp(min=1).log() + 1e-9).all())
    order = torch.randperm(keys, generator=g)
    torch.testing.assert_close(attention_entropy(weights[..., order], mask[..., order]), found)
    share = attention_entropy(weights, mask, "row")
    torch.testing.assert_close(share[seen > 1] * seen[seen > 1].log(), found[seen > 1])
    assert bool((share[seen < 2] == 0).all())
    if keys > 1:
        torch.testing.assert_close(attention_entropy(weights, mask, "context") * math.log(keys), found)


@given(st.integers(0, 2**31), st.floats(0.2, 5.0), st.floats(1.0, 4.0))
def test_a_higher_temperature_never_lowers_it(seed, temperature, factor):
    scores = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (attention_entropy((scores / t).softmax(-1)) for t in (temperature, temperature * factor))
    assert bool((high >= low - 1e-12).all())


def test_its_slope_by_the_temperature_is_the_variance_of_the_scores_over_its_cube():
    scores = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    a = (scores / t).softmax(-1)
    (slope,) = torch.autograd.grad(attention_entropy(a[None]).sum(), t)
    variance = (a * scores.square()).sum() - (a * scores).sum().square()
    assert float(slope) == pytest.approx(float((variance / t**3).detach()))


def test_heads_that_collapse_and_overload_are_told_apart_and_runs_merge():
    sure, spread = torch.eye(6).expand(2, 1, 6, 6), torch.full((2, 1, 6, 6), 1 / 6)
    whole = head_entropy([torch.cat([sure, spread], 1)])
    assert whole.collapsed().tolist() == [[True, False]]
    assert whole.overloaded().tolist() == [[False, True]]
    assert whole.queries == 12
    one, other = head_entropy([torch.cat([sure, spread], 1)[:1]]), head_entropy([torch.cat([spread, spread], 1)[:1]])
    torch.testing.assert_close(one.merge(other).shares, torch.tensor([[0.5, 1.0]]))
    assert head_entropy([uniform_causal(6).float()[None, None]], causal_mask(torch.ones(1, 6))).shares.item() == 1
    assert head_entropy([sure], torch.zeros(1, dtype=torch.bool)).queries == 0


def test_padding_does_not_count():
    padding = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    weights = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).masked_fill(~causal_mask(padding), 0)
    weights = weights / weights.sum(-1, keepdim=True)  # NaN where padding looks
    found = head_entropy([weights], causal_mask(padding))
    assert found.queries == 3  # two queries of the first text and one of the second see two keys or more
    assert bool(found.shares.isfinite().all())


@pytest.mark.parametrize(
    ("message", "weights", "mask"),
    [
        (r"weights must sum to 1 within 0.0001 .*; got 0.5 in row 1", torch.tensor([[0.5, 0.5], [0.5, 0.0]]), None),
        (r"weights must not be negative; got -0.5 in row 0", torch.tensor([[1.5, -0.5]]), None),
        (r"weights must sum to 1 .* got nan in row 0", torch.tensor([[torch.nan, 0.5]]), None),
        (r"mask must broadcast to the weights' shape, \(1, 2\); got \(3,\)", torch.eye(2)[:1], torch.ones(3) > 0),
        (r"weights must have shape \[..., Q, K\]", torch.tensor([1.0]), None),
    ],
)
def test_bad_input_is_named(message, weights, mask):
    with pytest.raises(ValueError, match=message):
        attention_entropy(weights, mask)
