"""Preference losses: closed forms, the relations between the conventions, gradients, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

from hartley.training import (
    DPOLoss,
    IPOLoss,
    SLiCHingeLoss,
    dpo_loss,
    ipo_loss,
    sequence_log_probs,
    slic_hinge_loss,
)

finite = st.floats(-40, 40)
four = st.lists(finite, min_size=4, max_size=4).map(lambda row: [torch.tensor([x], dtype=torch.float64) for x in row])
ONE = torch.ones(1, dtype=torch.float64)


def margin(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen) - (rejected - ref_rejected)


@given(four, st.floats(0.01, 2))
def test_dpo_is_the_softplus_of_minus_the_margin(parts, beta):
    expected = math.log1p(math.exp(-abs(x))) + max(-x, 0) if (x := beta * float(margin(*parts))) < 700 else 0.0
    assert float(dpo_loss(*parts, beta=beta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(four, st.floats(-30, 30))
def test_dpo_sees_the_margin_alone(parts, shift):
    """Both likelihoods can fall together without the loss noticing."""
    chosen, rejected, *refs = parts
    moved = dpo_loss(chosen + shift, rejected + shift, *refs)
    assert float(moved) == pytest.approx(float(dpo_loss(chosen, rejected, *refs)), rel=1e-9, abs=1e-9)


@given(four, st.floats(0.01, 2))
def test_ipo_of_trl_is_the_papers_over_tau_squared_for_answers_of_one_token(parts, tau):
    paper = float(ipo_loss(*parts, tau=tau))
    trl = float(ipo_loss(*parts, ONE, ONE, tau=tau, convention="trl"))
    assert trl * tau**2 == pytest.approx(paper, rel=1e-9, abs=1e-9)


@given(four, st.integers(1, 9), st.integers(1, 9))
def test_ipo_of_trl_averages_each_answer_over_its_tokens(parts, long, short):
    chosen, rejected, ref_chosen, ref_rejected = map(float, parts)
    apart = (chosen - ref_chosen) / long - (rejected - ref_rejected) / short
    found = ipo_loss(*parts, long * ONE, short * ONE, tau=0.1, convention="trl")
    assert float(found) == pytest.approx((apart - 5) ** 2, rel=1e-9, abs=1e-9)


@given(four)
def test_the_hinge_of_trl_has_a_reference_and_the_papers_has_none(parts):
    chosen, rejected, *refs = parts
    trl = slic_hinge_loss(*parts, beta=0.2, convention="trl")
    assert float(trl) == pytest.approx(max(0.0, 1 - 0.2 * float(margin(*parts))), rel=1e-9, abs=1e-9)
    paper = slic_hinge_loss(chosen, rejected, *refs, 2 * ONE, 4 * ONE, gamma=1.5)
    assert float(paper) == pytest.approx(max(0.0, 1.5 - float(chosen / 2 - rejected / 4)), rel=1e-9, abs=1e-9)


def test_at_no_margin():
    zero = torch.zeros(3)
    assert dpo_loss(zero, zero, zero, zero).item() == pytest.approx(math.log(2))
    assert ipo_loss(zero, zero, zero, zero).item() == pytest.approx(0.25)
    found = slic_hinge_loss(zero, zero, zero, chosen_lengths=zero + 1, rejected_lengths=zero + 1, gamma=0.0, reg=1.0)
    assert found.item() == pytest.approx(math.log(1 + math.e))


def test_ipo_is_zero_exactly_at_its_target_and_the_hinge_from_its_gap_on():
    zero = torch.zeros(1, dtype=torch.float64)
    assert ipo_loss(zero + 10, zero, zero, zero, tau=0.05).item() == 0
    for gap, expected in [(0.5, 0.5), (1.0, 0.0), (3.0, 0.0)]:
        found = slic_hinge_loss(zero + gap, zero, chosen_lengths=ONE, rejected_lengths=ONE)
        assert found.item() == expected


@given(st.floats(-8, 8), st.floats(0.05, 2))
def test_gradients_with_respect_to_the_margin(x, scale):
    zero = torch.zeros(1, dtype=torch.float64)
    chosen = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    [dpo] = torch.autograd.grad(dpo_loss(chosen, zero, zero, zero, beta=scale), chosen)
    assert float(dpo) == pytest.approx(-scale / (1 + math.exp(scale * x)), rel=1e-9)
    [ipo] = torch.autograd.grad(ipo_loss(chosen, zero, zero, zero, tau=scale), chosen)
    assert float(ipo) == pytest.approx(2 * scale * (scale * x - 0.5), rel=1e-9, abs=1e-12)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    lengths = [torch.tensor([2, 3, 5]), torch.tensor([4, 1, 2])]
    for loss in (
        lambda *p: dpo_loss(*p, nll=0.3),
        lambda *p: ipo_loss(*p, nll=0.3),
        lambda *p: ipo_loss(*p, *lengths, convention="trl", nll=0.3),
        lambda *p: slic_hinge_loss(*p, *lengths, reg=0.7, nll=0.3),
        lambda *p: slic_hinge_loss(*p, convention="trl"),
    ):
        assert torch.autograd.gradcheck(loss, parts)


def test_the_nll_term_is_the_chosen_answers():
    chosen, zero = torch.tensor([-6.0, -2.0]), torch.zeros(2)
    without = dpo_loss(chosen, zero, zero, zero, reduction="none")
    assert torch.allclose(dpo_loss(chosen, zero, zero, zero, nll=0.5, reduction="none"), without - 0.5 * chosen)


def test_half_precision_is_computed_in_float32_and_no_pair_is_no_loss():
    parts = [torch.tensor([300.125], dtype=torch.bfloat16)] * 4
    assert dpo_loss(*parts).dtype == torch.float32
    empty = torch.zeros(0, requires_grad=True)
    loss = dpo_loss(empty, empty, empty, empty)
    loss.backward()
    assert loss.item() == 0
    assert empty.grad.shape == (0,)


def test_large_margins_stay_finite():
    big = torch.tensor([1e4, -1e4], requires_grad=True)
    zero = torch.zeros(2)
    loss = dpo_loss(big, zero, zero, zero, beta=1.0, reduction="none")
    loss.sum().backward()
    assert loss.tolist() == [0.0, 1e4]
    assert big.grad.isfinite().all()


def test_modules_are_their_functions():
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(5, generator=generator) for _ in range(4)]
    lengths = [torch.full((5,), 3), torch.full((5,), 2)]
    assert torch.equal(DPOLoss(0.3, 0.1)(*parts), dpo_loss(*parts, beta=0.3, nll=0.1))
    assert torch.equal(IPOLoss(0.3, "trl")(*parts, *lengths), ipo_loss(*parts, *lengths, tau=0.3, convention="trl"))
    assert torch.equal(SLiCHingeLoss(2.0, 0.5)(*parts, *lengths), slic_hinge_loss(*parts, *lengths, gamma=2, reg=0.5))


def test_sequence_log_probs_sum_the_counted_tokens():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[-100, 1, 2, 3], [0, -100, -100, 6], [-100] * 4])
    sums, lengths = sequence_log_probs(logits, labels)
    table = log_softmax(logits, -1)
    expected = [table[0, 1, 1] + table[0, 2, 2] + table[0, 3, 3], table[1, 0, 0] + table[1, 3, 6], table[0, 0, 0] * 0]
    assert torch.allclose(sums, torch.stack(expected))
    assert lengths.tolist() == [3, 2, 0]
    sums.sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[2] == 0).all()


def test_sequence_log_probs_pass_over_rows_that_do_not_count():
    logits = torch.zeros(1, 2, 3)
    logits[0, 0] = torch.nan
    sums, lengths = sequence_log_probs(logits, torch.tensor([[-100, 2]]))
    assert sums.tolist() == pytest.approx([-math.log(3)])
    assert lengths.tolist() == [1]


BAD = [
    (lambda z: dpo_loss(z, z, z, torch.zeros(3)), "ref_rejected_log_probs \\(3,\\)"),
    (lambda z: dpo_loss(z, z, z, z, beta=0.0), "beta must be finite and above 0; got 0.0"),
    (lambda z: dpo_loss(z, z, z, z, nll=-1.0), "nll must be finite and at least 0; got -1.0"),
    (lambda z: dpo_loss(z, z, z, z, reduction="total"), "reduction must be one of 'mean', 'sum', 'none'; got 'total'"),
    (lambda z: ipo_loss(z, z, z, z, convention="azar"), "convention must be one of 'paper', 'trl'; got 'azar'"),
    (lambda z: ipo_loss(z, z, z, z, convention="trl"), 'convention="trl" averages over tokens'),
    (lambda z: slic_hinge_loss(z, z), 'convention="paper" averages over tokens and needs chosen_lengths'),
    (lambda z: slic_hinge_loss(z, z, convention="trl"), "needs ref_chosen_log_probs and ref_rejected_log_probs"),
    (lambda z: slic_hinge_loss(z, z, z, z, convention="trl", reg=1.0), "neither gamma nor reg; got gamma=1.0, reg=1.0"),
    (lambda z: slic_hinge_loss(z, z, None, None, z + 1, z + 1, reg=1.0), "reg=1.0 needs ref_chosen_log_probs"),
    (lambda z: slic_hinge_loss(z, z, None, None, z + 1, torch.ones(3)), "rejected_lengths must have shape \\(2,\\)"),
    (lambda z: sequence_log_probs(torch.zeros(2, 3, 4), torch.zeros(2, 4).long()), "got \\(2, 4\\) and \\(2, 3, 4\\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2))
