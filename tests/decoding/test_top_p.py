import pytest
import torch
from transformers.generation.logits_process import TopPLogitsWarper

from hartley.decoding import top_p
from strategies import assert_kept, fractions, in_order, law, rows, subset, unsorted

pytestmark = pytest.mark.usefixtures("backend")


@law(rows(), fractions())
def test_keeps_the_tokens_whose_predecessors_hold_less_than_p(logits, p):
    log_probs, order = in_order(logits)
    before = log_probs.exp().cumsum(-1) - log_probs.exp()
    possible = log_probs > -torch.inf
    inside = unsorted((before < p - 1e-5) & possible, order)
    assert_kept(top_p(p).mask(logits), logits, inside, unsorted((before >= p + 1e-5) | ~possible, order))


@law(rows(), fractions())
def test_the_kept_tokens_hold_p_and_no_proper_prefix_does(logits, p):
    masked = top_p(p).mask(logits)
    kept = logits.double().softmax(-1).masked_fill(masked == -torch.inf, 0.0)
    assert (kept.sum(-1) >= p - 1e-5).all()
    least = kept.masked_fill(kept == 0, 2.0).amin(-1)
    assert (kept.sum(-1) - least < p + 1e-5).all() or p == 1


@law(rows(), fractions(), fractions())
def test_smaller_p_keeps_a_subset(logits, p, q):
    assert subset(top_p(min(p, q)).mask(logits), top_p(max(p, q)).mask(logits))


@law(rows())
def test_one_keeps_everything(logits):
    assert torch.equal(top_p(1.0).mask(logits), logits)


@law(rows(distinct=True, sizes=(64, 129, 1000)), fractions())
def test_equals_transformers(logits, p):
    masked, theirs = top_p(p).mask(logits), TopPLogitsWarper(p)(None, logits)
    odd = (masked > -torch.inf) != (theirs > -torch.inf)  # at most the token on the boundary, by rounding
    log_probs, order = in_order(logits)
    before = log_probs.exp().cumsum(-1) - log_probs.exp()
    assert not (odd & ~unsorted((before - p).abs() < 1e-5, order)).any()


def test_one_value_a_row():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(3, -1)
    assert top_p(torch.tensor([0.4, 0.7, 1.0])).mask(logits).isfinite().sum(-1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, float("nan"), torch.tensor([0.5, 1.5])])
def test_refuses_what_is_no_share(p):
    with pytest.raises(ValueError, match="top_p"):
        top_p(p)
