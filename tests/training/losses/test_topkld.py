"""TopKLD: the sums written out, its laws in each form, the closed forms of its minimum, and known tops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.optimize import brentq

from hartley.training.losses import TopKLDLoss, forward_kl_loss, reverse_kl_loss, topkld_loss
from strategies import law

seeds = st.integers(0, 2**32)
FORMS = ("plain", "generalized", "grouped")
P, Q = torch.tensor([0.5, 0.3, 0.15, 0.05]).double(), torch.tensor([0.4, 0.4, 0.1, 0.1]).double()


def logits(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def by_hand(student, teacher, k, form, head="forward", temperature=1.0):
    """One row, term by term."""
    p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (teacher.numpy(), student.numpy()))
    order = np.argsort(-teacher.numpy(), kind="stable")
    groups = [order[:k], order[k:]]
    forward = [head == "forward", head == "reverse"]
    total = 0.0
    if form == "grouped":
        for group, ahead in zip(groups, forward, strict=True):
            if len(group):
                inside = p[group] / p[group].sum(), q[group] / q[group].sum()
                total += kl(*inside) if ahead else kl(*inside[::-1])
        return total + kl(*([x[group].sum() for group in groups] for x in (p, q)))
    for group, ahead in zip(groups, forward, strict=True):
        for i in group:
            a, b = (p[i], q[i]) if ahead else (q[i], p[i])
            total += a * math.log(a / b) + (b - a if form == "generalized" else 0)
    return total


@law(seeds, st.integers(1, 9), st.integers(0, 10), st.sampled_from(FORMS), st.sampled_from(["forward", "reverse"]))
def test_is_the_definition(seed, size, k, form, head):
    student, teacher = logits(seed, 3, size)
    found = topkld_loss(student, teacher, k=k, form=form, head=head, temperature=1.7, reduction="none")
    expected = [by_hand(s, t, k, form, head, 1.7) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    single = topkld_loss(student.float(), teacher.float(), k=k, form=form, head=head, temperature=1.7)
    np.testing.assert_allclose(single.item(), np.mean(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", [0.0545836, 0.2554128, 0.0540354, 0.1554016, 0.0514296]),
        ("generalized", [0.0545836, 0.0554128, 0.0540354, 0.0554016, 0.0514296]),
    ],
)
def test_the_example(form, expected):
    for k, value in enumerate(expected):
        assert topkld_loss(Q.log(), P.log(), k=k, form=form).item() == pytest.approx(value, abs=1e-7)


@law(seeds, st.sampled_from(FORMS))
def test_all_of_the_vocabulary_is_forward_and_none_of_it_reverse(seed, form):
    student, teacher = logits(seed, 2, 6)
    forward, reverse = forward_kl_loss(student, teacher), reverse_kl_loss(student, teacher)
    for k in (6, 7, 900):
        torch.testing.assert_close(topkld_loss(student, teacher, k=k, form=form), forward)
        torch.testing.assert_close(topkld_loss(student, teacher, k=k, form=form, head="reverse"), reverse)
    torch.testing.assert_close(topkld_loss(student, teacher, k=0, form=form), reverse)


@law(seeds, st.integers(1, 5), st.sampled_from(["generalized", "grouped"]), st.sampled_from(["forward", "reverse"]))
def test_two_forms_are_divergences(seed, k, form, head):
    student, teacher = logits(seed, 4, 6)
    losses = topkld_loss(student, teacher, k=k, form=form, head=head, reduction="none")
    assert (losses > 1e-6).all()
    same = teacher.clone().requires_grad_()
    loss = topkld_loss(same, teacher, k=k, form=form, head=head)
    loss.backward()
    assert loss.abs() < 1e-12
    assert same.grad.abs().max() < 1e-12


@law(seeds, st.integers(1, 5))
def test_the_plain_form_is_not_one(seed, k):
    """It is the generalized one plus twice what the head lacks, and so pulls mass into it at p = q."""
    student, teacher = logits(seed, 1, 6)
    inside = teacher[0].topk(k).indices
    lacks = teacher.softmax(-1)[0, inside].sum() - student.softmax(-1)[0, inside].sum()
    plain, generalized = (topkld_loss(student, teacher, k=k, form=form) for form in FORMS[:2])
    torch.testing.assert_close(plain, generalized + 2 * lacks)
    same = teacher.clone().requires_grad_()
    topkld_loss(same, teacher, k=k).backward()
    assert (same.grad[0, inside] < 0).all()


@law(seeds, st.integers(0, 6), st.sampled_from(FORMS))
def test_shifts_and_the_order_of_the_vocabulary_do_not_count(seed, k, form):
    student, teacher = logits(seed, 3, 6)
    shift, _ = logits(seed + 1, 3, 1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    expected = topkld_loss(student, teacher, k=k, form=form)
    torch.testing.assert_close(topkld_loss(student + shift, teacher - shift, k=k, form=form), expected)
    torch.testing.assert_close(topkld_loss(student[:, order], teacher[:, order], k=k, form=form), expected)


@law(seeds, st.integers(0, 6))
def test_gradient_in_closed_form(seed, k):
    student, teacher = logits(seed, 1, 6)
    student.requires_grad_()
    (found,) = torch.autograd.grad(topkld_loss(student, teacher, k=k), student)
    p, q = teacher.softmax(-1)[0], student.detach().softmax(-1)[0]
    inside = torch.zeros(6, dtype=torch.bool)
    inside[teacher[0].argsort(descending=True)[:k]] = True
    g = torch.where(inside, -p / q, (q / p).log() + 1)
    torch.testing.assert_close(found[0], q * (g - (q * g).sum()))
    assert abs(found.sum().item()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["forward", "reverse"])
def test_gradients(form, head):
    student, teacher = logits(3, 3, 6)
    teacher[0, 2] = -torch.inf
    student.requires_grad_()
    ids = torch.tensor([[0, 1], [2, 3], [4, 5]])
    top = ids, teacher.log_softmax(-1).gather(-1, ids)
    for settings in ({"teacher_logits": teacher, "k": 3}, {"teacher_topk": top}):
        assert torch.autograd.gradcheck(lambda s, kw=settings: topkld_loss(s, form=form, head=head, **kw), (student,))


@pytest.mark.parametrize(
    ("mass", "mu", "head", "least", "swapped"),
    [(0.8, 0.826610, 0.967808, -0.211139, 0.227), (0.95, None, 0.992934, None, 0.325)],
)
def test_the_minimum_of_the_plain_form(mass, mu, head, least, swapped):
    """Forward on the head sharpens onto it a little; the other reading empties it."""
    p = torch.tensor([mass * 0.7, mass * 0.3, (1 - mass) * 0.6, (1 - mass) * 0.4], dtype=torch.float64)
    level = brentq(lambda m: mass / m + (1 - mass) * math.exp(-1 - m) - 1, 0.01, 2)
    q = torch.where(torch.arange(4) < 2, p / level, p * math.exp(-1 - level)).log().requires_grad_()
    loss = topkld_loss(q, p.log(), k=2)
    loss.backward()
    assert q.grad.abs().max() < 1e-9
    assert q.exp()[:2].sum().item() == pytest.approx(head, abs=1e-6)
    if mu is not None:
        assert level == pytest.approx(mu, abs=1e-6)
        assert loss.item() == pytest.approx(least, abs=1e-6)
    # Reverse on the head: ln(q / p) + 1 = -p / q - c there and in the tail the other way round
    level = brentq(lambda m: mass * math.exp(-1 - m) + (1 - mass) / m - 1, 0.01, 5)
    q = torch.where(torch.arange(4) < 2, p * math.exp(-1 - level), p / level).log().requires_grad_()
    topkld_loss(q, p.log(), k=2, head="reverse").backward()
    assert q.grad.abs().max() < 1e-9
    assert q.exp()[:2].sum().item() == pytest.approx(swapped, abs=1e-3)


def test_of_equal_tokens_the_lower_id_is_in_the_head():
    teacher = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0]).double()
    for k, inside in [(1, [1]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])]:
        student = logits(k, 5)[0].requires_grad_()
        p, q = teacher.softmax(-1), student.softmax(-1)
        head = torch.isin(torch.arange(5), torch.tensor(inside))
        expected = (p * (p / q).log())[head].sum() + (q * (q / p).log())[~head].sum()
        torch.testing.assert_close(topkld_loss(student, teacher, k=k), expected)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_teacher_removes_is_removed_from_both(form):
    student, teacher = logits(0, 2, 6)
    teacher[:, [1, 4]] = -torch.inf
    student[0, 1] = -torch.inf
    left = [0, 2, 3, 5]
    student.requires_grad_()
    loss = topkld_loss(student, teacher, k=2, form=form)
    torch.testing.assert_close(loss, topkld_loss(student[:, left], teacher[:, left], k=2, form=form))
    loss.backward()
    assert student.grad.isfinite().all()
    assert (student.grad[:, [1, 4]] == 0).all()
    only = torch.full((1, 6), -torch.inf)
    only[0, 1] = 0
    with pytest.raises(ValueError, match="student_logits, without what teacher_logits removes, must leave"):
        topkld_loss(only, teacher[:1], k=2)


@pytest.mark.parametrize("form", FORMS)
def test_infinite_exactly_where_a_forward_term_needs_what_the_student_removes(form):
    _, teacher = logits(0, 4)
    order = teacher.argsort(descending=True)
    for place, expected in ((0, True), (3, False)):
        student = torch.zeros(4, dtype=torch.float64).index_fill(0, order[place], -torch.inf).requires_grad_()
        loss = topkld_loss(student, teacher, k=2, form=form)
        assert bool(loss.isinf()) == expected
        loss.backward()
        assert student.grad.isfinite().all()
    student = torch.zeros(4, dtype=torch.float64).index_fill(0, order[2:], -torch.inf)  # all of the tail
    assert bool(topkld_loss(student, teacher, k=2, form=form).isinf()) == (form == "grouped")


# Teachers known by their top


@law(seeds, st.integers(1, 5), st.sampled_from(FORMS), st.sampled_from(["forward", "reverse"]))
def test_a_known_top_is_a_head_and_one_lumped_tail(seed, k, form, head):
    student, teacher = logits(seed, 3, 6)
    ids = teacher.topk(k).indices
    top = ids, teacher.log_softmax(-1).gather(-1, ids)

    def lumped(x):
        p = x.softmax(-1)
        named = p.gather(-1, ids)
        return torch.cat([named, 1 - named.sum(-1, keepdim=True)], -1).log()

    found = topkld_loss(student, teacher_topk=top, form=form, head=head, reduction="none")
    p, q = lumped(teacher), lumped(student)
    inside = torch.arange(k + 1) < k
    if form == "grouped":
        expected = [by_hand_grouped(b.exp(), a.exp(), inside, head) for a, b in zip(q, p, strict=True)]
    else:
        ahead = inside if head == "forward" else ~inside
        extra = 1.0 if form == "generalized" else 0.0
        a, b = torch.where(ahead, p, q), torch.where(ahead, q, p)
        expected = (a.exp() * (a - b) + extra * (b.exp() - a.exp())).sum(-1).tolist()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-11)


def by_hand_grouped(p, q, inside, head):
    a, b = (x[inside] / x[inside].sum() for x in (p, q))
    masses = ([x[inside].sum(), x[~inside].sum()] for x in (p, q))
    return (kl(a, b) if head == "forward" else kl(b, a)) + kl(*masses)


@law(seeds, st.sampled_from(FORMS))
def test_a_top_of_everything_is_the_forward_divergence(seed, form):
    student, teacher = logits(seed, 2, 5)
    ids = torch.arange(5).expand(2, 5).flip(-1)
    top = ids, teacher.log_softmax(-1).flip(-1)
    torch.testing.assert_close(topkld_loss(student, teacher_topk=top, form=form), forward_kl_loss(student, teacher))


def test_a_tail_that_rounding_hides_is_finite():
    student = torch.zeros(1, 10, requires_grad=True)
    loss = topkld_loss(student, teacher_topk=(torch.tensor([[3]]), torch.tensor([[0.0]])))
    loss.backward()
    assert loss.isfinite()
    assert student.grad[0, 3] < 0


def test_only_rows_that_count_are_read():
    student, teacher = logits(5, 2, 3, 6)
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    rows = labels != -100
    bad = student.masked_fill(~rows[..., None], torch.nan).requires_grad_()
    ids = teacher.topk(2).indices
    top = ids, teacher.log_softmax(-1).gather(-1, ids)
    hidden = ids.masked_fill(~rows[..., None], -1), top[1].masked_fill(~rows[..., None], torch.nan)
    for form in FORMS:
        losses = topkld_loss(bad, teacher, labels, k=2, form=form, reduction="none")
        assert losses.shape == (2, 3)
        assert (losses[~rows] == 0).all()
        torch.testing.assert_close(losses[rows].mean(), topkld_loss(student[rows], teacher[rows], k=2, form=form))
        sparse = topkld_loss(bad, None, labels, teacher_topk=hidden, form=form)
        alone = topkld_loss(student[rows], teacher_topk=(top[0][rows], top[1][rows]), form=form)
        torch.testing.assert_close(sparse, alone)
        (losses.sum() + sparse).backward()
    assert bad.grad.isfinite().all()
    assert (bad.grad[~rows] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_selected_is_zero_with_a_gradient_of_zero(form):
    student, teacher = logits(0, 3, 6)
    student.requires_grad_()
    mask = torch.zeros(3, dtype=torch.bool)
    top = torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 1)
    for settings in ({"teacher_logits": teacher, "k": 2}, {"teacher_topk": top}):
        loss = topkld_loss(student, mask=mask, form=form, **settings)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_worked_in_float32(form):
    student, teacher = (x.bfloat16() for x in logits(0, 4, 300))
    found = topkld_loss(student, teacher, k=20, form=form)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, topkld_loss(student.float(), teacher.float(), k=20, form=form))
    exact = topkld_loss(student.double(), teacher.double(), k=20, form=form)
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_module_is_the_function():
    student, teacher = logits(8, 2, 3, 5)
    settings = {"k": 2, "temperature": 1.5, "form": "grouped", "head": "reverse", "reduction": "sum"}
    mask = torch.tensor([[True, True, False], [True, False, True]])
    expected = topkld_loss(student, teacher, mask=mask, **settings)
    assert torch.equal(TopKLDLoss(**settings)(student, teacher, mask=mask), expected)
    ids = teacher.topk(2).indices
    top = ids, teacher.log_softmax(-1).gather(-1, ids)
    assert torch.equal(TopKLDLoss()(student, teacher_topk=top), topkld_loss(student, teacher_topk=top))


def test_what_does_not_fit_is_named():
    student, teacher = logits(0, 2, 6)
    top = torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), -1.0)
    with pytest.raises(ValueError, match=r"same vocabulary; got 6 and 5: .* cut both"):
        topkld_loss(student, teacher[:, :5], k=2)
    with pytest.raises(ValueError, match="give teacher_logits= and k=, or teacher_topk=; got neither in full"):
        topkld_loss(student, teacher)
    with pytest.raises(ValueError, match="got both"):
        topkld_loss(student, teacher_topk=top, k=2)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1; got -1"):
        topkld_loss(student, teacher, k=-1)
    with pytest.raises(ValueError, match="form must be one of 'plain', 'generalized', 'grouped'; got 'simple'"):
        topkld_loss(student, teacher, k=2, form="simple")
    with pytest.raises(ValueError, match=r"teacher_topk's tokens must be in 0 .. 5; got 6 in row \(1, 1\)"):
        topkld_loss(student, teacher_topk=(torch.tensor([[0, 1], [2, 6]]), top[1]))
    with pytest.raises(ValueError, match="teacher_topk's tokens must differ; got 1 twice in row 0"):
        topkld_loss(student, teacher_topk=(torch.tensor([[1, 1], [2, 3]]), top[1]))
    with pytest.raises(ValueError, match=r"must sum to at most 1; got 1.2130.* in row 0"):
        topkld_loss(student, teacher_topk=(top[0], torch.full((2, 2), -0.5)))
    with pytest.raises(ValueError, match=r"ids and log-probabilities, both \(2, 'K'\); got \(2, 2\) and \(2, 1\)"):
        topkld_loss(student, teacher_topk=(top[0], top[1][:, :1]))
    with pytest.raises(TypeError, match=r"teacher_topk's tokens must be integers; got torch.float32"):
        topkld_loss(student, teacher_topk=(top[1], top[1]))
