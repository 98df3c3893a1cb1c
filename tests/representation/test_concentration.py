import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.representation.concentration import fewest_holding

rows = st.lists(st.integers(0, 20), min_size=1, max_size=12)


@given(rows, st.floats(0.01, 1.0))
def test_no_fewer_hold_the_share_and_these_do(values, share):
    count = int(fewest_holding(torch.tensor(values, dtype=torch.float64), [share])[0])
    ordered, total = sorted(values, reverse=True), sum(values)
    if total == 0:
        assert count == 0
        return
    assert sum(ordered[:count]) >= share * total - 1e-6 * total
    assert sum(ordered[: count - 1]) < share * total


@given(rows, st.randoms())
def test_order_and_scale_do_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    a, b = (torch.tensor(x, dtype=torch.float32) for x in (values, shuffled))
    assert torch.equal(fewest_holding(a, [0.5, 0.9]), fewest_holding(4 * b, [0.5, 0.9]))


def test_even_rows_need_their_share():
    assert fewest_holding(torch.full((3, 100), 0.01), [0.5, 0.9, 1.0]).tolist() == [[50, 90, 100]] * 3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 0; they are not in row 1"):
        fewest_holding(torch.tensor([[1.0, 2.0], [1.0, -2.0]]), [0.5])
    with pytest.raises(ValueError, match="at least 0"):
        fewest_holding(torch.tensor([float("nan")]), [0.5])
    with pytest.raises(ValueError, match=r"shares must be in \(0, 1\]; got 1.5"):
        fewest_holding(torch.ones(3), [1.5])
