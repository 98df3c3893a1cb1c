import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.info import js_divergence, kl_divergence
from hartley.training.losses import (
    DivergenceLoss,
    forward_kl_loss,
    jensen_shannon_loss,
    reverse_kl_loss,
    skew_kl_loss,
    skew_reverse_kl_loss,
)
from loss_checks import (
    assert_half_precision_is_accumulated_in_float32,
    assert_rows_that_do_not_count_do_nothing,
    triples,
)
from strategies import law

LOSSES = {
    "forward_kl": forward_kl_loss,
    "reverse_kl": reverse_kl_loss,
    "jensen_shannon": jensen_shannon_loss,
    "skew_kl": skew_kl_loss,
    "skew_reverse_kl": skew_reverse_kl_loss,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
shares = st.floats(0.01, 0.99)


def kl64(log_p, log_q):
    """sum p ln(p/q), written out: 0 for what p removes, inf for what q alone does."""
    terms = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), torch.zeros_like(log_p))
    return terms.masked_fill((log_q == -torch.inf) & (log_p > -torch.inf), torch.inf).sum(-1)


def mixed(share, log_p, log_q):
    """ln(share p + (1 - share) q), in the log domain."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def near(a, b):
    torch.testing.assert_close(a, b.to(a), rtol=1e-9, atol=1e-9)


@law(triples(), st.floats(0.2, 5), shares)
def test_each_is_its_definition_with_the_teacher_and_the_student_in_their_places(triple, temperature, share):
    student, teacher, _ = triple
    q, p = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    options = {"temperature": temperature, "reduction": "none"}
    near(forward_kl_loss(student, teacher, **options), kl64(p, q))
    near(reverse_kl_loss(student, teacher, **options), kl64(q, p))
    near(skew_kl_loss(student, teacher, skew=share, **options), kl64(p, mixed(share, p, q)))
    near(skew_reverse_kl_loss(student, teacher, skew=share, **options), kl64(q, mixed(share, q, p)))
    middle = mixed(share, p, q)
    near(
        jensen_shannon_loss(student, teacher, beta=share, **options),
        share * kl64(p, middle) + (1 - share) * kl64(q, middle),
    )


@law(triples())
def test_they_agree_with_the_measures(triple):
    student, teacher, _ = triple
    near(forward_kl_loss(student, teacher, reduction="none"), kl_divergence(logits=teacher, q_logits=student))
    near(reverse_kl_loss(student, teacher, reduction="none"), kl_divergence(logits=student, q_logits=teacher))
    near(jensen_shannon_loss(student, teacher, reduction="none"), js_divergence(logits=teacher, q_logits=student))


@law(triples(), shares)
def test_bounds_and_the_zero_at_the_teacher(triple, share):
    student, teacher, _ = triple
    for loss in LOSSES.values():
        assert (loss(student, teacher, reduction="none") >= 0).all()
        assert loss(teacher, teacher) <= 1e-12
    assert (skew_kl_loss(student, teacher, skew=share, reduction="none") <= -math.log(share) + 1e-9).all()
    assert (skew_reverse_kl_loss(student, teacher, skew=share, reduction="none") <= -math.log(share) + 1e-9).all()
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    assert (jensen_shannon_loss(student, teacher, beta=share, reduction="none") <= entropy + 1e-9).all()


def test_at_its_ends_jensen_shannon_is_a_scaled_kl():
    student, teacher = torch.tensor([[0.3, 0.0, 1.0]]).double(), torch.tensor([[1.0, -1.0, 0.0]]).double()
    beta = 1e-6
    near_forward = jensen_shannon_loss(student, teacher, beta=beta) / beta
    near_reverse = jensen_shannon_loss(student, teacher, beta=1 - beta) / beta
    assert near_forward.item() == pytest.approx(forward_kl_loss(student, teacher).item(), rel=1e-4)
    assert near_reverse.item() == pytest.approx(reverse_kl_loss(student, teacher).item(), rel=1e-4)


@each_loss
def test_gradients(loss):
    g = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, dtype=torch.float64, generator=g, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach(), temperature=2.0, reduction="none"), student)
    loss(student, teacher).backward()
    assert teacher.grad is None


@each_loss
def test_removed_tokens_make_no_nan(loss):
    student = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -torch.inf]])
    loss(student, teacher).backward()
    assert student.grad.isfinite().all()
    assert student.grad[0, 2] == 0


def test_what_one_side_excludes_is_infinite_in_one_direction_only():
    cut, whole = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[0.0, 1.0, 2.0]])
    assert forward_kl_loss(cut, whole) == torch.inf
    assert reverse_kl_loss(whole, cut) == torch.inf
    for loss in (jensen_shannon_loss, skew_kl_loss, skew_reverse_kl_loss):
        assert loss(cut, whole).isfinite()
        assert loss(whole, cut).isfinite()


@each_loss
def test_rows_that_do_not_count(loss):
    teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    assert_rows_that_do_not_count_do_nothing(
        lambda x, y, m, r: loss(x, teacher[-1] if x.ndim == 2 else teacher, y, mask=m, reduction=r)
    )


@each_loss
def test_half_precision(loss):
    teacher = torch.randn(4, 300, generator=torch.Generator().manual_seed(3))
    assert_half_precision_is_accumulated_in_float32(lambda x: loss(x, teacher))


def test_the_module_names_its_kind():
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    for kind, loss in LOSSES.items():
        module = DivergenceLoss(kind, temperature=3.0, reduction="sum")
        assert module(student, teacher) == loss(student, teacher, temperature=3.0, reduction="sum")
    assert "reverse_kl, temperature=3.0" in repr(DivergenceLoss("reverse_kl", temperature=3.0))
    with pytest.raises(ValueError, match=r"kind must be one of 'forward_kl', .*; got 'kl'"):
        DivergenceLoss("kl")
    with pytest.raises(TypeError, match=r"settings of 'forward_kl' must be among temperature, .*; got 'beta'"):
        DivergenceLoss("forward_kl", beta=0.5)


def test_values_outside_their_range():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"temperature must be finite and above 0; got 0"):
        forward_kl_loss(x, x, temperature=0.0)
    with pytest.raises(ValueError, match=r"beta must be inside \(0, 1\).*forward_kl_loss and reverse_kl_loss\); got 1"):
        jensen_shannon_loss(x, x, beta=1.0)
    with pytest.raises(ValueError, match=r"skew must be inside \(0, 1\).*; got 0"):
        skew_kl_loss(x, x, skew=0.0)
