import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import chain, temperature, top_k, top_n_sigma
from strategies import assert_kept, law, rows, subset

pytestmark = pytest.mark.usefixtures("backend")

widths = st.floats(0.05, 5.0)


def height(logits, n):
    """How far each logit lies above the cut, and how much of that is rounding."""
    values = logits.double()
    finite = values.isfinite()
    count = finite.sum(-1, keepdim=True)
    mean = values.masked_fill(~finite, 0.0).sum(-1, keepdim=True) / count
    deviation = ((values - mean).masked_fill(~finite, 0.0) ** 2).sum(-1, keepdim=True).div(count).sqrt()
    return values - values.amax(-1, keepdim=True) + n * deviation, 1e-5 * (1 + n * deviation)


@law(rows(), widths)
def test_keeps_the_logits_within_n_deviations_of_the_largest(logits, n):
    above, margin = height(logits, n)
    assert_kept(top_n_sigma(n).mask(logits), logits, above > margin, above < -margin)


@law(rows(), widths, st.floats(0.2, 5.0))
def test_a_temperature_changes_nothing(logits, n, t):
    above, margin = height(logits, n)
    kept = chain(temperature(t), top_n_sigma(n)).mask(logits) > -torch.inf
    assert not ((above > 2 * margin) & ~kept).any()
    assert not ((above < -2 * margin) & kept).any()


@law(rows(), widths, widths)
def test_larger_n_keeps_a_superset(logits, a, b):
    assert subset(top_n_sigma(min(a, b)).mask(logits), top_n_sigma(max(a, b)).mask(logits))


@law(rows(), widths, st.integers(1, 50))
def test_counts_the_logits_that_are_left(logits, n, k):
    left = top_k(k).mask(logits)
    above, margin = height(left, n)
    kept = chain(top_k(k), top_n_sigma(n)).mask(logits) > -torch.inf
    assert not ((above > margin) & ~kept).any()
    assert not ((above < -margin) & kept).any()


def test_refuses():
    with pytest.raises(ValueError, match="top_n_sigma must be finite and above 0; got 0"):
        top_n_sigma(0.0)
