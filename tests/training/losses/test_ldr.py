import math

import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from hartley.training.losses import ALDRKLLoss, LDRKLLoss, aldr_kl_loss, as_compute_loss_func, ldr_kl_loss
from hartley.training.losses import ldr as module
from loss_checks import (
    assert_half_precision_is_accumulated_in_float32,
    assert_rows_that_do_not_count_do_nothing,
    grad_of,
    triples,
)
from strategies import law, seeds

D = torch.float64
lams = st.sampled_from([0.01, 0.3, 1.0, 10.0, 1e6])
margins = st.sampled_from([0.0, 0.1, 2.0])
normalizations = st.sampled_from([None, "softplus", "l1"])
SHEET = torch.tensor([[0.0, 1.0, 2.0]], dtype=D)  # d = (0, 1, 2) for label 0
ZERO = torch.tensor([0])


def gaps(logits, target, margin):
    """d, and how many classes are there."""
    d = logits - logits.gather(1, target[:, None]) + margin
    return d.scatter(1, target[:, None], 0.0), (logits > -torch.inf).sum(-1).to(logits)


def by_definition(logits, target, lam, margin):
    """lam log mean exp(d / lam), shifted by the largest d."""
    d, classes = gaps(logits, target, margin)
    top = d.amax(-1, keepdim=True)
    return top[:, 0] + lam * (((d - top) / lam).exp().sum(-1) / classes).log()


@law(triples(), lams, margins)
def test_is_its_definition(triple, lam, margin):
    logits, _, target = triple
    found = ldr_kl_loss(logits, target, lam, margin, reduction="none")
    tolerance = 1e-9 if lam < 1e5 else 1e-8
    torch.testing.assert_close(found, by_definition(logits, target, lam, margin), rtol=tolerance, atol=tolerance)


@law(triples(), lams, margins)
def test_the_gradient_is_softmax_less_the_label(triple, lam, margin):
    logits, _, target = triple
    d, _ = gaps(logits, target, margin)
    expected = (d / lam).softmax(-1) - F.one_hot(target, logits.shape[1])
    found = grad_of(lambda x: ldr_kl_loss(x, target, lam, margin, reduction="none"), logits)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.sum(-1).abs().max() < 1e-9
    assert (found.gather(1, target[:, None]) <= 0).all()


def test_the_sheet_s_row():
    for lam, expected in [(1.0, 1.308994), (10.0, 1.033306), (1000.0, 1.000333), (0.001, 1.998901)]:
        assert ldr_kl_loss(SHEET, ZERO, lam).item() == pytest.approx(expected, abs=5e-7)
        assert ldr_kl_loss(SHEET.float(), ZERO, lam).item() == pytest.approx(expected, abs=2e-6)


@law(triples())
def test_at_one_it_is_the_cross_entropy_less_ln_k(triple):
    logits, _, target = triple
    classes = (logits > -torch.inf).sum(-1).to(logits)
    expected = F.cross_entropy(logits, target, reduction="none") - classes.log()
    torch.testing.assert_close(ldr_kl_loss(logits, target, reduction="none"), expected, rtol=1e-9, atol=1e-9)


@law(triples(removed=False), margins)
def test_between_the_mean_and_the_largest_gap_and_falling_in_lam(triple, margin):
    logits, _, target = triple
    d, classes = gaps(logits, target, margin)
    last = d.amax(-1)
    for lam in (1e-3, 0.1, 1.0, 10.0, 1e4):
        found = ldr_kl_loss(logits, target, lam, margin, reduction="none")
        slack = 1e-9 * (1 + d.abs().amax(-1))
        assert (found <= last + slack).all()
        assert (found >= d.mean(-1) - slack).all()
        assert (found >= d.amax(-1) - lam * classes.log() - slack).all()
        last = found


def test_both_limits_in_float32():
    logits = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    target = torch.arange(5)
    d, _ = gaps(logits.double(), target, 0.5)
    hinge = ldr_kl_loss(logits, target, 1e-6, 0.5, reduction="none").double()
    mean = ldr_kl_loss(logits, target, 1e9, 0.5, reduction="none").double()
    torch.testing.assert_close(hinge, d.amax(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean, d.mean(-1), rtol=1e-5, atol=1e-5)


def test_far_out_it_is_symmetric():
    """Summed over the labels it is margin (K - 1) whatever the scores: what makes it robust to uniform noise."""
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(1), dtype=D)
    total = ldr_kl_loss(logits.expand(7, -1), torch.arange(7), 1e12, 0.3, reduction="sum")
    assert total.item() / 7 == pytest.approx(0.3 * 6 / 7, abs=1e-9)
    assert ldr_kl_loss(logits.expand(7, -1), torch.arange(7), 1.0, 0.3, reduction="sum") > 0.3 * 6 + 0.1


def test_constant_scores():
    for classes, lam, margin in [(3, 1.0, 0.5), (10, 0.1, 2.0), (5, 10.0, 0.1)]:
        expected = lam * math.log((1 + (classes - 1) * math.exp(margin / lam)) / classes)
        assert ldr_kl_loss(torch.full((1, classes), 4.0, dtype=D), ZERO, lam, margin).item() == pytest.approx(expected)


@law(triples(removed=False), seeds(), st.floats(0, 1), lams, margins)
def test_convex_in_the_scores_and_invariant_to_shifts(triple, seed, theta, lam, margin):
    logits, _, target = triple
    other = logits.abs().max() * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=D)
    at = [
        ldr_kl_loss(x, target, lam, margin, reduction="none")
        for x in (theta * logits + (1 - theta) * other, logits, other)
    ]
    assert (at[0] <= theta * at[1] + (1 - theta) * at[2] + 1e-8 * (1 + at[1].abs() + at[2].abs())).all()
    torch.testing.assert_close(ldr_kl_loss(logits + 7.5, target, lam, margin, reduction="none"), at[1])


@law(triples(), lams, margins, seeds())
def test_probabilities_average_over_the_labels(triple, lam, margin, seed):
    logits, _, target = triple
    there = logits > -torch.inf
    weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=D) * there
    weights /= weights.sum(-1, keepdim=True)
    safe = torch.where(there, torch.arange(logits.shape[1]), target[:, None])  # a label that is there
    each = torch.stack([ldr_kl_loss(logits, y, lam, margin, reduction="none") for y in safe.unbind(1)], 1)
    found = ldr_kl_loss(logits, weights, lam, margin, reduction="none")
    torch.testing.assert_close(found, (weights * each).sum(-1), rtol=1e-8, atol=1e-8)
    assert grad_of(lambda x: ldr_kl_loss(x, weights, lam, margin), logits).isfinite().all()
    one_hot = F.one_hot(target, logits.shape[1]).float()
    torch.testing.assert_close(
        ldr_kl_loss(logits.float(), one_hot, lam, margin, reduction="none"),
        ldr_kl_loss(logits.float(), target, lam, margin, reduction="none"),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_second_derivative_is_refused():
    logits = torch.zeros(1, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"ldr_kl_loss can be differentiated once"):
        torch.autograd.grad(ldr_kl_loss(logits, ZERO), logits, create_graph=True)


@pytest.mark.parametrize("normalize", [None, "softplus", "l1"])
@pytest.mark.parametrize("lam", [0.3, 10.0])
def test_gradcheck(lam, normalize):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, dtype=D, generator=g, requires_grad=True)
    target, weights = torch.tensor([0, 3, 5, 2]), torch.rand(4, 6, dtype=D, generator=g)
    weights /= weights.sum(-1, keepdim=True)
    for labels in (target, weights):
        assert torch.autograd.gradcheck(lambda x, y=labels: ldr_kl_loss(x, y, lam, 0.2, normalize, "none"), logits)
    assert torch.autograd.gradcheck(
        lambda x: aldr_kl_loss(x, target, lam, normalize=normalize, reduction="none"), logits
    )


@law(triples(), lams, margins, normalizations)
def test_a_class_that_is_removed_is_as_if_it_were_not_there(triple, lam, margin, normalize):
    logits, _, target = triple
    options = {"margin": margin, "normalize": normalize, "reduction": "none"}
    found, adaptive = ldr_kl_loss(logits, target, lam, **options), aldr_kl_loss(logits, target, lam, **options)
    for row, (x, y) in enumerate(zip(logits, target, strict=True)):
        there = x > -torch.inf
        alone = x[there][None], there[:y].sum()[None]
        torch.testing.assert_close(found[row : row + 1], ldr_kl_loss(*alone, lam, **options), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(adaptive[row : row + 1], aldr_kl_loss(*alone, lam, **options), rtol=1e-5, atol=1e-5)
    grad = grad_of(lambda x: ldr_kl_loss(x, target, lam, **options), logits)
    assert grad.isfinite().all()
    assert not grad[logits == -torch.inf].any()


def test_how_many_rows_are_worked_on_at_once_changes_nothing(monkeypatch):
    logits = 2 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    logits[7, 3:9] = -torch.inf
    logits[8] *= 1e-3
    target = torch.arange(50) % 3
    loss = lambda x: ldr_kl_loss(x, target, 0.7, 0.2, reduction="none")  # noqa: E731
    found, grad = loss(logits), grad_of(loss, logits)
    monkeypatch.setitem(module.CHUNK, "cpu", 120)
    assert torch.equal(loss(logits), found)
    assert torch.equal(grad_of(loss, logits), grad)


# Normalisation


def test_normalisations_fix_the_scale():
    logits = 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=D)
    positive = module.normalized(logits, "softplus")
    assert (positive > 0).all()
    torch.testing.assert_close(positive.mean(-1), torch.ones(4, dtype=D))
    torch.testing.assert_close(module.normalized(logits, "l1").abs().mean(-1), torch.ones(4, dtype=D))
    target = torch.tensor([0, 1, 2, 3])
    for normalize, invariant in [("l1", True), ("softplus", False), (None, False)]:
        one, scaled = (ldr_kl_loss(x, target, 1.0, 0.1, normalize) for x in (logits, 5 * logits))
        assert (abs(one - scaled) < 1e-9) == invariant
    moved, at_rest = (ldr_kl_loss(x, target, 1.0, 0.1, "softplus") for x in (logits + 1, logits))
    assert abs(moved - at_rest) > 0.01


@pytest.mark.parametrize("normalize", ["softplus", "l1"])
def test_scores_of_nothing_can_be_normalised(normalize):
    value = -1e4 if normalize == "softplus" else 0.0
    logits = torch.full((2, 3), value, requires_grad=True)
    loss = ldr_kl_loss(logits, torch.tensor([0, 1]), normalize=normalize)
    loss.backward()
    assert loss == 0
    assert logits.grad.isfinite().all()


# The adaptive loss


def test_the_fixed_point_of_the_sheet_is_the_best_lam():
    options = {"margin": 0.0, "normalize": None}
    assert aldr_kl_loss(SHEET, ZERO, **options).item() == pytest.approx(1.329603, abs=1e-6)
    lam = module.best_lambdas(SHEET, ZERO, 1.0, 2.0, 0.0)
    assert lam.item() == pytest.approx(0.842380, abs=2e-6)
    grid = torch.linspace(0.05, 1.5, 20_001, dtype=D)
    values = ldr_kl_loss(SHEET.expand(len(grid), -1), ZERO.expand(len(grid)), grid, reduction="none")
    values -= 2 * math.log(3) / 2 * (grid - 1) ** 2
    assert values.max().item() == pytest.approx(1.329603, abs=1e-6)
    assert grid[values.argmax()].item() == pytest.approx(0.842380, abs=1e-4)
    p = grad_of(lambda x: aldr_kl_loss(x, ZERO, **options), SHEET) + F.one_hot(ZERO, 3)
    assert p[0].tolist() == pytest.approx([0.066577, 0.218212, 0.715211], abs=2e-6)


@law(triples(), st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([1.1, 2.0, 5.0]), margins)
def test_every_lam_solves_its_equation_in_its_range(triple, lam0, alpha, margin):
    logits, _, target = triple
    found = module.best_lambdas(logits, target, lam0, alpha, margin)
    assert (found <= lam0).all()
    assert (found >= lam0 * (1 - 1 / alpha) - 1e-9).all()
    d, classes = gaps(logits, target, margin)
    log_p = (d / found[:, None]).log_softmax(-1)
    kl = classes.log() - torch.special.entr(log_p.exp()).sum(-1)
    share = torch.where(classes > 1, kl / classes.log().clamp(min=1e-9), 0)
    torch.testing.assert_close(found, lam0 * (1 - share / alpha), rtol=0, atol=2e-6 * lam0)


@law(triples())
def test_with_a_stiff_pull_it_is_ldr(triple):
    logits, _, target = triple
    found = aldr_kl_loss(logits, target, 1.0, 1e9, 0.1, None, "none")
    torch.testing.assert_close(found, ldr_kl_loss(logits, target, 1.0, 0.1, reduction="none"), rtol=1e-6, atol=1e-6)


def test_a_step_softens_who_is_unsure_and_sharpens_who_is_sure():
    loss = ALDRKLLoss(5, lam0=2.0, margin=0.0, normalize=None)
    sure = torch.tensor([[1e4, 0.0, 0.0, 0.0]])
    loss(torch.cat([torch.zeros(1, 4), sure]), torch.tensor([1, 0]), torch.tensor([3, 1]))
    assert loss.lambdas().tolist() == pytest.approx([2, 1, 2, 2, 2])


def test_the_step_is_the_closed_form_and_the_loss_has_the_new_lam():
    g = torch.Generator().manual_seed(0)
    loss = ALDRKLLoss(6, lam0=1.5, alpha=3.0, margin=0.2)
    logits, target, index = torch.randn(4, 5, generator=g), torch.tensor([0, 1, 2, 3]), torch.tensor([5, 0, 2, 3])
    for _ in range(2):
        scores = logits / logits.abs().mean(-1, keepdim=True)
        p = (scores / loss.lam[index][:, None]).softmax(-1)
        lam = 1.5 - 1.5 * (p * (5 * p).log()).sum(-1) / (3 * math.log(5))
        found = loss(logits, target, index, reduction="none")
        torch.testing.assert_close(loss.lam[index], lam)
        pull = 3 * math.log(5) / (2 * 1.5) * (lam - 1.5) ** 2
        torch.testing.assert_close(found, by_definition(scores, target, lam[:, None], 0.2).diagonal() - pull)
    assert loss.lam[1] == loss.lam[4] == 1.5


def test_visits_lead_to_the_best_lam():
    loss = ALDRKLLoss(3, margin=0.0)
    logits, target = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    for _ in range(60):
        at_visit = loss(logits, target, torch.arange(3))
    torch.testing.assert_close(at_visit, loss(logits, target), rtol=1e-5, atol=1e-5)


def test_evaluation_moves_nothing_and_the_state_is_saved():
    loss = ALDRKLLoss(4)
    logits, target, index = (
        torch.randn(2, 5, generator=torch.Generator().manual_seed(0)),
        ZERO.expand(2),
        torch.arange(2),
    )
    loss(logits, target, index)
    trained = loss.lambdas()
    assert (trained[:2] < 1).all()
    with torch.no_grad():
        loss(-logits, target, index)
    loss.eval()
    loss(-logits, target, index)
    loss(-logits, target)
    assert torch.equal(loss.lambdas(), trained)
    other = ALDRKLLoss(4)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.lambdas(), trained)
    loss.lambdas().zero_()
    assert torch.equal(loss.lambdas(), trained)


def test_masked_examples_keep_their_lam():
    loss = ALDRKLLoss(4)
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    loss(logits, torch.tensor([0, -100, 1]), torch.tensor([0, 1, 2]), mask=torch.tensor([True, True, False]))
    assert (loss.lambdas() < 1).tolist() == [True, False, False, False]


# transformers' Trainer


def test_compute_loss_func_divides_by_the_items_of_the_accumulated_batch():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 4, 6, generator=g), torch.randint(6, (2, 4), generator=g)
    labels[0, 1] = -100
    loss = LDRKLLoss(lam=2.0)
    plain = as_compute_loss_func(loss)
    torch.testing.assert_close(plain({"logits": logits}, labels), loss(logits, labels))
    torch.testing.assert_close(plain((logits,), labels, 14), loss(logits, labels, reduction="sum") / 14)
    shifted = as_compute_loss_func(loss, shift=True)({"logits": logits}, labels)
    torch.testing.assert_close(shifted, loss(logits[:, :-1], labels[:, 1:]))


def test_compute_loss_func_reads_pairs_of_label_and_index():
    logits, pairs = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 3], [2, 0]])
    loss, twin = ALDRKLLoss(4), ALDRKLLoss(4)
    found = as_compute_loss_func(loss)({"logits": logits}, pairs, torch.tensor(8))  # four examples, counted twice
    torch.testing.assert_close(found, twin(logits, pairs[:, 0], pairs[:, 1], reduction="sum") / 4)
    assert torch.equal(loss.lam, twin.lam)
    with torch.no_grad():
        for labels in (pairs, pairs[:, 0]):
            torch.testing.assert_close(
                as_compute_loss_func(loss)({"logits": logits}, labels), twin(logits, pairs[:, 0])
            )
    assert torch.equal(loss.lam, twin.lam)
    with pytest.raises(ValueError, match=r"labels must be pairs \[label, index\].*; got shape \(2,\)"):
        as_compute_loss_func(loss)({"logits": logits}, pairs[:, 0])
    with pytest.raises(ValueError, match=r"labels must all count beside an index; got -100"):
        as_compute_loss_func(loss)({"logits": logits}, torch.tensor([[1, 3], [-100, 0]]))
    with pytest.raises(ValueError, match=r"labels must be among the inputs"):
        as_compute_loss_func(loss)({"logits": logits}, None)
    with pytest.raises(ValueError, match=r"shift must be False for ALDRKLLoss"):
        as_compute_loss_func(loss, shift=True)


# What every loss does


def test_rows_that_do_not_count():
    for normalize in (None, "softplus", "l1"):
        assert_rows_that_do_not_count_do_nothing(
            lambda x, y, m, r, n=normalize: ldr_kl_loss(x, y, 0.5, 0.1, n, r, mask=m)
        )
        assert_rows_that_do_not_count_do_nothing(
            lambda x, y, m, r, n=normalize: aldr_kl_loss(x, y, normalize=n, reduction=r, mask=m)
        )


def test_half_precision():
    target = torch.arange(4)
    for lam in (0.1, 1.0, 10.0):
        assert_half_precision_is_accumulated_in_float32(lambda x, lam=lam: ldr_kl_loss(x, target, lam, 0.1))
    assert_half_precision_is_accumulated_in_float32(lambda x: aldr_kl_loss(x, target))


def test_one_lam_a_row():
    logits, target = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    each = torch.tensor([0.5, 1.0, 9.0])
    found = ldr_kl_loss(logits, target, each, 0.1, reduction="none")
    alone = [ldr_kl_loss(x[None], y[None], lam.item(), 0.1) for x, y, lam in zip(logits, target, each, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone))


def test_the_modules_are_the_functions():
    logits, target = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, -1, 2])
    options = {"margin": 0.3, "normalize": "softplus", "reduction": "sum", "ignore_index": -1}
    assert LDRKLLoss(2.0, **options)(logits, target) == ldr_kl_loss(logits, target, 2.0, **options)
    assert ALDRKLLoss(1, 2.0, 3.0, **options)(logits, target) == aldr_kl_loss(logits, target, 2.0, 3.0, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ldr_kl_loss(x, torch.tensor([0, 3])), r"target must be in 0\.\.2.*got 3 in row 1"),
        (lambda x: ldr_kl_loss(x, torch.zeros(3).long()), r"target must have the leading shape.*got shape \(3,\)"),
        (lambda x: ldr_kl_loss(x, torch.zeros(2)), r"target must hold classes.*\(2, 3\); got torch.float32 of shape"),
        (lambda x: ldr_kl_loss(x, torch.ones(2, 3)), r"target must hold probabilities that sum to 1; got a sum of 3"),
        (lambda x: ldr_kl_loss(x, torch.zeros(2).long(), lam=0.0), r"lam must be finite and above 0; got 0"),
        (lambda x: ldr_kl_loss(x, torch.zeros(2).long(), torch.ones(3)), r"lam must be one value or one per row"),
        (lambda x: ldr_kl_loss(x, torch.zeros(2).long(), margin=-1), r"margin must be finite and at least 0; got -1"),
        (lambda x: ldr_kl_loss(x, torch.zeros(2).long(), normalize="l2"), r"normalize must be one of .*; got 'l2'"),
        (lambda x: ldr_kl_loss(x.log(), torch.tensor([1, 1])), r"target must be a class that is there.*in row 1"),
        (lambda x: ldr_kl_loss(x * math.nan, torch.tensor([1, 1])), r"logits must be finite or -inf; got NaN"),
        (lambda x: ldr_kl_loss(x * math.nan, torch.tensor([1, 1]), normalize="l1"), r"logits must be finite or -inf"),
        (lambda x: aldr_kl_loss(x * math.nan, torch.tensor([1, 1])), r"logits must be finite or -inf; got NaN"),
        (lambda x: aldr_kl_loss(x, torch.tensor([1, 1]), alpha=1.0), r"alpha must be finite and above 1.*; got 1"),
        (lambda x: ALDRKLLoss(0), r"num_examples must be a whole number of at least 1; got 0"),
        (lambda x: ALDRKLLoss(4)(x, torch.tensor([1, 1]), torch.tensor([0, 4])), r"index must be in 0\.\.3.*got 4"),
        (lambda x: ALDRKLLoss(4)(x, torch.tensor([1, 1]), torch.tensor([0])), r"index must have the shape of target"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0]]))
