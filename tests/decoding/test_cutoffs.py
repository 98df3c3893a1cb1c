import math

import pytest
import torch
from hypothesis import strategies as st
from transformers.generation.logits_process import EpsilonLogitsWarper, EtaLogitsWarper

from hartley.decoding import epsilon_cutoff, eta_cutoff
from strategies import assert_kept, entropy64, law, log_softmax64, rows, subset

pytestmark = pytest.mark.usefixtures("backend")

floors = st.floats(1e-6, 0.9)


def sure(height, logits):
    """What is surely above and below a floor, the most probable token aside."""
    inside, outside = height > 1e-5, height < -1e-5
    first = logits.argmax(-1, keepdim=True)
    return inside.scatter(-1, first, True), outside.scatter(-1, first, False)


@law(rows(), floors)
def test_epsilon_keeps_what_is_above_the_floor_and_the_most_probable(logits, epsilon):
    height = log_softmax64(logits) - math.log(epsilon)
    assert_kept(epsilon_cutoff(epsilon).mask(logits), logits, *sure(height, logits))


@law(rows(), floors)
def test_the_floor_of_eta_follows_the_entropy(logits, eta):
    log_probs = log_softmax64(logits)
    floor = (math.log(eta) / 2 - entropy64(log_probs)).clamp(max=math.log(eta))
    assert_kept(eta_cutoff(eta).mask(logits), logits, *sure(log_probs - floor[:, None], logits))


@law(rows(), floors, floors)
def test_a_lower_floor_keeps_a_superset(logits, a, b):
    for cutoff in (epsilon_cutoff, eta_cutoff):
        assert subset(cutoff(max(a, b)).mask(logits), cutoff(min(a, b)).mask(logits))


@law(rows(distinct=True, sizes=(64, 129, 1000)), floors)
def test_equal_transformers(logits, floor):
    log_probs = log_softmax64(logits)
    eta = (math.log(floor) / 2 - entropy64(log_probs)).clamp(max=math.log(floor))[:, None]
    for ours, theirs, level in (
        (epsilon_cutoff(floor), EpsilonLogitsWarper(floor), math.log(floor)),
        (eta_cutoff(floor), EtaLogitsWarper(floor), eta),
    ):
        # Their entropy reads a removed token as the lowest float, which changes nothing
        odd = (ours.mask(logits) > -torch.inf) != (theirs(None, logits) > -torch.inf)
        assert not (odd & ((log_probs - level).abs() > 1e-5)).any()


def test_one_value_a_row():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log().expand(2, -1)
    assert epsilon_cutoff(torch.tensor([0.2, 0.05])).mask(logits).isfinite().sum(-1).tolist() == [2, 3]
    assert eta_cutoff(torch.tensor([0.5, 0.01])).mask(logits).isfinite().sum(-1).tolist() == [2, 3]


@pytest.mark.parametrize("cutoff", [epsilon_cutoff, eta_cutoff])
def test_refuse_what_is_no_share(cutoff):
    with pytest.raises(ValueError, match=cutoff.__name__):
        cutoff(0.0)
