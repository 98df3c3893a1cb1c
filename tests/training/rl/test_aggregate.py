import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.training.rl import aggregate, batch_sizes

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def batch(seed, rows=6, length=5):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    return values, torch.rand(rows, length, generator=generator) < 0.6


def by_hand(values, mask, mode):
    """The definitions, as loops."""
    rows = [[float(v) for v, m in zip(r, k, strict=True) if m] for r, k in zip(values, mask, strict=True)]
    rows = [row for row in rows if row]
    tokens = [v for row in rows for v in row]
    if not rows:
        return 0.0
    return {
        "token-mean": sum(tokens) / len(tokens),
        "token-sum": sum(tokens),
        "seq-mean-token-sum": sum(map(sum, rows)) / len(rows),
        "seq-mean-token-mean": sum(sum(row) / len(row) for row in rows) / len(rows),
        "seq-mean-token-sum-norm": sum(map(sum, rows)) / len(rows) / values.shape[1],
    }[mode]


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**32))
def test_is_the_definition(mode, seed):
    values, mask = batch(seed)
    assert float(aggregate(values, mask, mode)) == pytest.approx(by_hand(values, mask, mode))


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 5))
def test_parts_add_up_to_the_whole(mode, seed, cut):
    values, mask = batch(seed)
    size = None if mode == "token-sum" else batch_sizes(mask, mode)
    parts = [aggregate(values[s], mask[s], mode, batch_size=size) for s in (slice(0, cut), slice(cut, None))]
    assert float(sum(parts)) == pytest.approx(by_hand(values, mask, mode))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_kept_is_zero_with_a_gradient_of_zero_whatever_is_masked(mode):
    values = torch.tensor([[float("nan"), float("inf")]], requires_grad=True)
    loss = aggregate(values, torch.zeros(1, 2), mode)
    loss.backward()
    assert loss.item() == 0
    assert values.grad.tolist() == [[0, 0]]


def test_a_constant_length_divides_the_sums():
    values = torch.ones(2, 4)
    assert float(aggregate(values, values, "seq-mean-token-sum-norm", norm_length=8)) == 0.5


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"loss_agg_mode must be one of 'token-mean'.*'tokens'"):
        aggregate(torch.ones(1, 2), torch.ones(1, 2), "tokens")
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        aggregate(torch.ones(1, 2), torch.ones(2, 1))
