import itertools
import math

import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from hartley.training.losses import (
    PLDLoss,
    plackett_luce_log_prob,
    plackett_luce_loss,
    plackett_luce_sample,
    pld_loss,
    teacher_optimal_ranking,
)
from loss_checks import (
    assert_half_precision_is_accumulated_in_float32,
    assert_rows_that_do_not_count_do_nothing,
    grad_of,
    triples,
)
from strategies import law, seeds

D = torch.float64
taus = st.sampled_from([0.5, 1.0, 4.0])


def by_definition(student, teacher, label, tau=1.0, top_k=None):
    """One row in plain Python: classes that the student removes are dropped, then the sum of the sheet's four steps."""
    classes = [i for i in range(len(student)) if student[i] > -math.inf]
    order = [label, *sorted((i for i in classes if i != label), key=lambda i: (-teacher[i], i))]
    top = max(teacher[i] for i in classes)
    weights = {i: math.exp((teacher[i] - top) / tau) for i in classes}
    total = sum(weights.values())
    loss = 0.0
    for k, pick in enumerate(order[: top_k or len(order)]):
        rest = [student[i] for i in order[k:]]
        high = max(rest)
        loss += weights[pick] / total * (high + math.log(sum(math.exp(s - high) for s in rest)) - student[pick])
    return loss


@law(triples(), taus, st.none() | st.integers(1, 9))
def test_is_its_definition(triple, tau, top_k):
    student, teacher, labels = triple
    found = pld_loss(student, teacher, labels, temperature=tau, top_k=top_k, reduction="none")
    rows = zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True)
    expected = torch.tensor([by_definition(s, t, y, tau, top_k) for s, t, y in rows], dtype=D)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@law(triples(), taus, st.none() | st.integers(1, 9))
def test_the_gradient_is_the_closed_form(triple, tau, top_k):
    """sum_{k <= r(i)} alpha_k sigma_k(i) - alpha_r(i), with sigma_k(i) the chance of i among what is left at k."""
    student, teacher, labels = triple
    student = student.nan_to_num(neginf=-1000.0 - student[student.isfinite()].abs().max().item())  # all there
    order = teacher_optimal_ranking(teacher, labels)
    alpha = (teacher / tau).softmax(-1).gather(1, order)
    depth = min(top_k or order.shape[1], order.shape[1])
    ranked = student.gather(1, order)
    expected = torch.zeros_like(student)
    for k in range(depth):
        left = torch.zeros_like(student).scatter(1, order[:, k:], ranked[:, k:].softmax(-1))
        expected += alpha[:, k, None] * left
        expected -= torch.zeros_like(student).scatter(1, order[:, k, None], alpha[:, k, None])
    found = grad_of(lambda s: pld_loss(s, teacher, labels, temperature=tau, top_k=top_k, reduction="none"), student)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.sum(-1).abs().max() < 1e-9


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_gradcheck(top_k):
    g = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, dtype=D, generator=g, requires_grad=True)
    teacher, labels = torch.randn(4, 6, dtype=D, generator=g), torch.tensor([0, 3, 5, 2])
    teacher[1, 2] = -torch.inf
    assert torch.autograd.gradcheck(lambda s: pld_loss(s, teacher, labels, top_k=top_k, reduction="none"), student)
    with pytest.raises(RuntimeError, match=r"a Plackett-Luce loss can be differentiated once"):
        torch.autograd.grad(pld_loss(student, teacher, labels), student, create_graph=True)


def test_the_sheet_s_row():
    student = torch.tensor([[1.0, 2.0, 3.0]], dtype=D, requires_grad=True)
    teacher, label = torch.tensor([[0.0, 1.0, 2.0]], dtype=D), torch.tensor([1])
    assert teacher_optimal_ranking(teacher, label).tolist() == [[1, 2, 0]]
    loss = pld_loss(student, teacher, label)
    loss.backward()
    assert loss.item() == pytest.approx(0.4289190, abs=1e-7)
    assert student.grad[0].tolist() == pytest.approx([0.1013317, -0.1848365, 0.0835047], abs=1e-7)


def test_a_student_without_an_opinion():
    zeros = torch.zeros(1, 3, dtype=D)
    teacher = torch.tensor([[0.7, 0.2, 0.1]], dtype=D).log()
    assert pld_loss(zeros, teacher, torch.tensor([0])).item() == pytest.approx(0.9076580, abs=1e-7)
    flat = torch.zeros(1, 4, dtype=D)
    assert pld_loss(flat, flat, torch.tensor([2])).item() == pytest.approx(0.7945135, abs=1e-7)


def test_one_class_and_two():
    assert pld_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0])) == 0
    student, teacher = torch.tensor([[0.3, -1.2]], dtype=D), torch.tensor([[0.5, 2.0]], dtype=D)
    share = teacher.softmax(-1)[0, 1]
    expected = share * F.softplus(student[0, 0] - student[0, 1])
    torch.testing.assert_close(pld_loss(student, teacher, torch.tensor([1])), expected)


@law(triples(removed=False), taus)
def test_at_least_the_first_pick_s_share_of_the_cross_entropy(triple, tau):
    student, teacher, labels = triple
    share = (teacher / tau).softmax(-1).gather(1, labels[:, None])[:, 0]
    floor = share * F.cross_entropy(student, labels, reduction="none")
    found = pld_loss(student, teacher, labels, temperature=tau, reduction="none")
    assert (found >= floor - 1e-9 * floor.abs()).all()
    if student.shape[1] == 2:
        torch.testing.assert_close(found, floor, rtol=1e-9, atol=1e-12)


@law(triples(removed=False), seeds(), st.floats(0, 1))
def test_convex_in_the_student(triple, seed, theta):
    student, teacher, labels = triple
    other = student.abs().max() * torch.randn(student.shape, generator=torch.Generator().manual_seed(seed), dtype=D)
    at = [
        pld_loss(s, teacher, labels, reduction="none") for s in (theta * student + (1 - theta) * other, student, other)
    ]
    assert (at[0] <= theta * at[1] + (1 - theta) * at[2] + 1e-9 * (1 + at[1] + at[2])).all()


@law(triples(), seeds(), st.floats(-50, 50), st.floats(-50, 50))
def test_invariant_to_shifts_and_to_renaming_the_classes(triple, seed, a, b):
    student, teacher, labels = triple
    found = pld_loss(student, teacher, labels, reduction="none")
    shifted = pld_loss(student + a, teacher + b, labels, reduction="none")
    torch.testing.assert_close(shifted, found, rtol=1e-8, atol=1e-8)
    names = torch.randperm(student.shape[1], generator=torch.Generator().manual_seed(seed))
    if all(len(row.unique()) == len(row) for row in teacher):  # the order of ties follows the names
        renamed = pld_loss(student[:, names], teacher[:, names], names.argsort()[labels], reduction="none")
        torch.testing.assert_close(renamed, found, rtol=1e-9, atol=1e-9)


@law(triples(removed=False), st.integers(1, 9))
def test_truncation_leaves_out_the_tail(triple, k):
    student, teacher, labels = triple
    exact = pld_loss(student, teacher, labels, reduction="none")
    cut = pld_loss(student, teacher, labels, top_k=k, reduction="none")
    assert (cut <= exact + 1e-9 * exact).all()
    classes = student.shape[1]
    torch.testing.assert_close(pld_loss(student, teacher, labels, top_k=classes, reduction="none"), exact)
    order = teacher_optimal_ranking(teacher, labels)
    tail = teacher.softmax(-1).gather(1, order)[:, k:].sum(-1)
    spread = student.amax(-1) - student.amin(-1)
    assert (exact - cut <= tail * (math.log(classes) + spread) + 1e-9).all()
    assert torch.equal(teacher_optimal_ranking(teacher, labels, k), order[:, : min(k, classes)])


@law(triples(removed=False))
def test_limits_of_the_weights(triple):
    student, teacher, labels = triple
    classes = student.shape[1]
    flat = pld_loss(student, teacher, labels, temperature=1e12, reduction="none")
    ranking = teacher_optimal_ranking(teacher, labels)
    torch.testing.assert_close(
        flat, plackett_luce_loss(student, ranking, reduction="none") / classes, rtol=1e-6, atol=0
    )
    sure = torch.zeros_like(teacher).scatter(1, labels[:, None], 1e4)
    crossed = F.cross_entropy(student, labels, reduction="none")
    torch.testing.assert_close(pld_loss(student, sure, labels, reduction="none"), crossed)


def test_it_has_no_finite_minimum_and_the_teacher_is_not_one():
    teacher, label = torch.tensor([[0.0, 1.0, 2.0]], dtype=D), torch.tensor([2])
    losses = [pld_loss(scale * teacher, teacher, label).item() for scale in (1, 2, 4, 8, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6
    assert grad_of(lambda s: pld_loss(s, teacher, label), teacher).abs().max() > 0.05


def test_ties_of_the_teacher_go_by_class_wherever_the_cut_falls():
    teacher = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0, 1.0]])
    for k in range(1, 7):
        assert teacher_optimal_ranking(teacher, torch.tensor([3]), k).tolist() == [[3, 1, 0, 2, 5, 4][:k]]
    many = torch.randint(0, 4, (20, 500), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(20)
    whole = teacher_optimal_ranking(many, labels)
    assert torch.equal(teacher_optimal_ranking(many, labels, 130), whole[:, :130])
    assert teacher_optimal_ranking(many[0], labels[0], 3).shape == (3,)


@law(triples(), taus)
def test_a_class_that_the_student_removes_is_as_if_it_were_not_there(triple, tau):
    student, teacher, labels = triple
    found = pld_loss(student, teacher, labels, temperature=tau, reduction="none")
    grad = grad_of(lambda s: pld_loss(s, teacher, labels, temperature=tau, reduction="none"), student)
    for row, (s, t, y) in enumerate(zip(student, teacher, labels, strict=True)):
        there = s > -torch.inf
        alone = pld_loss(s[there][None], t[there][None], there[:y].sum()[None], temperature=tau)
        torch.testing.assert_close(found[row], alone, rtol=1e-9, atol=1e-12)
        assert not grad[row][~there].any()
    assert grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 6])
def test_rankings_are_a_distribution(classes):
    g = torch.Generator().manual_seed(classes)
    scores = 2 * torch.randn(classes, generator=g, dtype=D)
    for k in range(1, classes + 1):
        rankings = torch.tensor(list(itertools.permutations(range(classes), k)))
        log_probs = plackett_luce_log_prob(scores.expand(len(rankings), -1), rankings)
        assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_samples_come_with_their_probabilities():
    """Chi-squared over the 24 rankings of four classes: 23 degrees of freedom, a false alarm once in 10,000 seeds."""
    scores = torch.tensor([0.0, 1.0, -0.5, 2.0], dtype=D)
    rankings = torch.tensor(list(itertools.permutations(range(4))))
    expected = 20_000 * plackett_luce_log_prob(scores.expand(24, -1), rankings).exp()
    drawn = plackett_luce_sample(scores.expand(20_000, -1), torch.Generator().manual_seed(0))
    counts = (drawn[:, None] == rankings).all(-1).sum(0)
    assert counts.sum() == 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 55.0
    first = plackett_luce_sample(scores.expand(20_000, -1), torch.Generator().manual_seed(0), top_k=1)
    assert torch.equal(first, drawn[:, :1])
    gone = plackett_luce_sample(torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0]]).expand(50, -1))
    assert (gone[:, :2] % 2 == 1).all()


def test_padded_lists_and_weights():
    scores = torch.tensor([[1.0, 2.0, 3.0, -torch.inf], [0.5, 0.1, -0.3, 0.2]], dtype=D)
    ranking = torch.tensor([[1, 2, 0, 3], [3, 2, 1, 0]])
    found = plackett_luce_loss(scores, ranking, reduction="none")
    torch.testing.assert_close(found[0], plackett_luce_loss(scores[0, :3], ranking[0, :3]))
    weights = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=D)
    steps = torch.stack([plackett_luce_loss(scores[1], ranking[1], weights=one) for one in torch.eye(4, dtype=D)])
    torch.testing.assert_close(plackett_luce_loss(scores[1], ranking[1], weights), weights @ steps)
    assert grad_of(lambda s: plackett_luce_loss(s, ranking, weights), scores).isfinite().all()


def test_large_scales_stay_exact_in_float32():
    student = torch.tensor([[1000.0, -1000.0, 0.0, 500.0]])
    found = pld_loss(student, torch.tensor([[0.0, 1.0, 2.0, 0.5]]), torch.tensor([0]))
    assert found.item() == pytest.approx(by_definition(student[0].tolist(), [0.0, 1.0, 2.0, 0.5], 0), rel=1e-6)


@pytest.mark.parametrize("top_k", [None, 2])
def test_rows_that_do_not_count(top_k):
    teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    assert_rows_that_do_not_count_do_nothing(
        lambda x, y, m, r: pld_loss(x, teacher[-1] if x.ndim == 2 else teacher, y, top_k=top_k, mask=m, reduction=r)
    )


@pytest.mark.parametrize("top_k", [None, 7])
def test_half_precision(top_k):
    teacher = torch.randn(4, 300, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(4)
    assert_half_precision_is_accumulated_in_float32(lambda x: pld_loss(x, teacher, labels, top_k=top_k))


def test_the_module_is_the_function():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, generator=g).unbind()
    labels = torch.tensor([1, -1])
    module = PLDLoss(temperature=4.0, top_k=3, ignore_index=-1, reduction="sum")
    expected = pld_loss(student, teacher, labels, temperature=4.0, top_k=3, ignore_index=-1, reduction="sum")
    assert module(student, teacher, labels) == expected


def test_bad_input_is_named():
    x = torch.zeros(2, 3)
    gone = torch.tensor([[0.0, 0.0, 0.0], [0.0, -torch.inf, 0.0]])
    only = torch.tensor([[0.0, 0.0, 0.0], [-torch.inf, 0.0, -torch.inf]])
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"same vocabulary; got 3 and 4"):
        pld_loss(x, torch.zeros(2, 4), y)
    with pytest.raises(ValueError, match=r"labels must be a class that the student allows; got one at -inf in row 1"):
        pld_loss(gone, x, y)
    with pytest.raises(ValueError, match=r"teacher_logits must allow a class that the student does in row 1"):
        pld_loss(gone, only, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"temperature must be finite and above 0; got -1"):
        pld_loss(x, x, y, temperature=-1.0)
    with pytest.raises(ValueError, match=r"top_k must be a whole number of at least 1; got 0"):
        pld_loss(x, x, y, top_k=0)
    with pytest.raises(ValueError, match=r"ranking must hold no class twice; got one twice in row 1"):
        plackett_luce_log_prob(x, torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(ValueError, match=r"ranking must hold classes in 0\.\.2; got others in row 0"):
        plackett_luce_log_prob(x, torch.tensor([[0, 3], [1, 0]]))
    with pytest.raises(ValueError, match=r"ranking must be \[\.\.\., K\].*K in 1\.\.3; got shape \(2, 4\)"):
        plackett_luce_log_prob(x, torch.zeros(2, 4).long())
    with pytest.raises(TypeError, match=r"ranking must be integers; got torch.float32"):
        plackett_luce_log_prob(x, x)
    with pytest.raises(ValueError, match=r"weights must have the shape of ranking, \(2, 2\).*\(2,\); got \(3,\)"):
        plackett_luce_loss(x, torch.tensor([[0, 1], [1, 0]]), torch.ones(3))
    with pytest.raises(ValueError, match=r"weights must be finite and at least 0; got -1"):
        plackett_luce_loss(x, torch.tensor([[0, 1], [1, 0]]), -torch.ones(2))
