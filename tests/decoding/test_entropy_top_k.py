import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import chain, entropy_to_k, entropy_top_k, temperature, top_k
from hartley.decoding.entropy_top_k import for_vocabulary
from strategies import entropy64, law, log_softmax64, rows

pytestmark = pytest.mark.usefixtures("backend")

TABLE = {
    -1.0: 14, 0.0: 14, 0.5: 23, 1.0: 37, 2.0: 96, 3.0: 239, 4.0: 539, 4.5: 756, 5.0: 1000, 5.5: 1245, 6.0: 1462,
    7.0: 1762, 8.0: 1905, 9.0: 1964, 9.704: 1982, 10.0: 1987, 12.0: 1987,
}  # fmt: skip


def test_the_curve():
    assert entropy_to_k(torch.tensor(list(TABLE), dtype=torch.float64)).tolist() == list(TABLE.values())


@law(st.floats(0, 12), st.floats(0, 12))
def test_k_does_not_fall_with_the_entropy(a, b):
    low, high = entropy_to_k(torch.tensor(sorted([a, b]), dtype=torch.float64)).tolist()
    assert 1 <= low <= high <= 2000


@law(st.floats(0, 5))
def test_the_curve_is_symmetric_about_its_centre(x):
    k = entropy_to_k(torch.tensor([5 - x, 5 + x], dtype=torch.float64))
    assert abs(int(k.sum()) - 2001) <= 1


@law(rows(), st.integers(1, 30), st.integers(0, 300))
def test_keeps_everything_at_least_as_large_as_the_kth(logits, k_min, more):
    masked = entropy_top_k(k_min + more, k_min).mask(logits)
    entropy = entropy64(log_softmax64(logits))
    ordered = logits.sort(-1, descending=True).values
    for row in range(len(logits)):
        options = {
            int(entropy_to_k(entropy[row] + shift, k_min + more, k_min)) for shift in (-1e-5, 0.0, 1e-5)
        }  # rounding of the entropy may move k
        finite = int((logits[row] > -torch.inf).sum())
        sets = [logits[row] >= ordered[row, min(k, finite) - 1] for k in options]
        assert any(torch.equal(masked[row] > -torch.inf, kept) for kept in sets)


@law(rows(distinct=True), st.integers(1, 300))
def test_equal_ends_are_plain_top_k(logits, k):
    assert torch.equal(entropy_top_k(k, k).mask(logits), top_k(k).mask(logits))


@law(rows(), st.floats(0.2, 5))
def test_a_temperature_does_not_change_the_set(logits, t):
    plain = entropy_top_k().mask(logits) > -torch.inf
    assert torch.equal(chain(temperature(t), entropy_top_k()).mask(logits) > -torch.inf, plain)


@pytest.mark.parametrize("n", [1, 5, 500, 1852, 5000])
def test_equal_tokens_all_stay(n):
    logits = torch.full((1, 6000), -torch.inf)
    logits[0, :n] = 1.5
    assert int(entropy_top_k().mask(logits).isfinite().sum()) == n


def test_a_sure_model_keeps_fourteen():
    assert int(entropy_top_k().mask(torch.linspace(3000, 0, 100)[None]).isfinite().sum()) == 14


def test_other_vocabularies():
    preset = for_vocabulary(16384)
    assert preset["k_max"] == 2000
    assert preset["h_max"] == pytest.approx(math.log(16384))
    assert preset["center"] == pytest.approx(4.852, abs=1e-3)
    assert entropy_top_k(**for_vocabulary(300)).mask(torch.zeros(1, 300)).isfinite().all()


def test_refuses():
    with pytest.raises(ValueError, match="at least k_min=5; got 3"):
        entropy_top_k(3, 5)
    with pytest.raises(ValueError, match="entropy_top_k_slope"):
        entropy_top_k(slope=0.0)
