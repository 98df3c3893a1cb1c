import pytest
import torch
from hypothesis import strategies as st
from transformers.generation.logits_process import TopKLogitsWarper

from hartley.decoding import top_k
from strategies import in_order, law, rows, unsorted

pytestmark = pytest.mark.usefixtures("backend")


@law(rows(), st.integers(1, 400))
def test_keeps_the_first_k_ties_by_id(logits, k):
    _, order = in_order(logits)
    first = unsorted((torch.arange(logits.shape[1]) < k).expand_as(logits).clone(), order)
    assert torch.equal(top_k(k).mask(logits), logits.masked_fill(~first, -torch.inf))


@law(rows(distinct=True), st.integers(1, 400))
def test_equals_transformers_without_ties(logits, k):
    assert torch.equal(top_k(k).mask(logits), TopKLogitsWarper(k)(None, logits))


def test_one_value_a_row():
    assert top_k(torch.tensor([1, 3, 200])).mask(torch.randn(3, 300)).isfinite().sum(-1).tolist() == [1, 3, 200]


def test_refuses():
    with pytest.raises(ValueError, match="top_k must be a whole number of at least 1; got 0"):
        top_k(0)
    with pytest.raises(TypeError, match="whole number"):
        top_k(2.0)
