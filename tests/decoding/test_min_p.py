import math

import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper

from hartley.decoding import min_p
from strategies import assert_kept, fractions, law, log_softmax64, rows, subset

pytestmark = pytest.mark.usefixtures("backend")


@law(rows(), fractions())
def test_keeps_exactly_the_tokens_above_the_threshold(logits, p):
    height = log_softmax64(logits)
    height = height - height.amax(-1, keepdim=True) - math.log(p)
    assert_kept(min_p(p).mask(logits), logits, height > 1e-5, height < -1e-5)


@law(rows(), fractions(), fractions())
def test_smaller_p_keeps_a_superset(logits, p, q):
    assert subset(min_p(max(p, q)).mask(logits), min_p(min(p, q)).mask(logits))


@law(rows())
def test_one_keeps_the_most_probable_and_all_tied_with_it(logits):
    kept = min_p(1.0).mask(logits) > -torch.inf
    assert torch.equal(kept, logits == logits.amax(-1, keepdim=True))


@law(rows(), fractions())
def test_equals_transformers(logits, p):
    height = log_softmax64(logits)
    near = (height - height.amax(-1, keepdim=True) - math.log(p)).abs() < 1e-5
    odd = (min_p(p).mask(logits) > -torch.inf) != (MinPLogitsWarper(p)(None, logits) > -torch.inf)
    assert not (odd & ~near & (logits > -torch.inf)).any()


def test_one_value_a_row():
    logits = torch.tensor([[1.0, 0.5, 0.1]]).log().expand(3, -1)
    assert min_p(torch.tensor([0.9, 0.3, 0.05])).mask(logits).isfinite().sum(-1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1])
def test_refuses_what_is_no_share(p):
    with pytest.raises(ValueError, match="min_p"):
        min_p(p)
