"""SinKD's loss: closed forms, what it cannot see, masks, several processes, and the mix with labels and soft labels."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from hartley.info import sinkhorn_distance
from hartley.training.losses import SinKDLoss, SinkhornKDLoss, annealed, sinkhorn_kd_loss
from strategies import law

seeds = st.integers(0, 2**32)


def logits(seed, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))


def by_hand(student, teacher, temperature=2.0, eps=0.1, n_iters=20):
    """The paper's four lines, in the plain domain."""
    p, q = (x.double().div(temperature).softmax(-1) for x in (student, teacher))
    cost = (p[:, None] - q[None]).abs().sum(-1)
    plan = (-cost / eps).exp()
    for _ in range(n_iters):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum()


@law(seeds, st.integers(1, 12), st.integers(1, 9), st.floats(0.5, 4))
def test_is_the_definition(seed, rows, size, temperature):
    student, teacher = logits(seed, rows, size)
    found = sinkhorn_kd_loss(student, teacher, temperature=temperature)
    expected = 8e-4 * by_hand(student, teacher, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
    mean = sinkhorn_kd_loss(student, teacher, temperature=temperature, reduction="mean")
    torch.testing.assert_close(mean, expected / rows, rtol=1e-9, atol=1e-14)
    single = sinkhorn_kd_loss(student.float(), teacher.float(), temperature=temperature)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-8)
    assert 0 <= found <= 8e-4 * 2 * rows


def test_one_row_is_twice_the_total_variation():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.2, 0.3, 0.5]])
    assert sinkhorn_kd_loss(p.log(), q.log(), temperature=1, weight=1).item() == pytest.approx(1.0)


def test_disjoint_sets_cost_two_a_row():
    e = torch.eye(3).log()
    assert sinkhorn_kd_loss(e[[0, 0, 0]], e[[2, 2, 2]], weight=1).item() == pytest.approx(6)


@law(seeds, st.integers(2, 9))
def test_pairing_is_not_seen(seed, rows):
    student, teacher = logits(seed, rows, 5)
    shuffle = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(sinkhorn_kd_loss(student, teacher[shuffle]), sinkhorn_kd_loss(student, teacher))
    torch.testing.assert_close(sinkhorn_kd_loss(teacher[shuffle], teacher), sinkhorn_kd_loss(teacher, teacher))


@law(seeds, st.integers(2, 9))
def test_shifts_of_a_row_do_not_count(seed, rows):
    student, teacher = logits(seed, rows, 5)
    shift, _ = logits(seed + 1, rows, 1)
    expected = sinkhorn_kd_loss(student, teacher, weight=1.0)
    torch.testing.assert_close(sinkhorn_kd_loss(student + shift, teacher - shift, weight=1.0), expected)


def test_equal_sets_are_not_at_zero_unless_debiased():
    student, _ = logits(0, 6, 4)
    assert sinkhorn_kd_loss(student, student, weight=1.0) > 0.05
    assert sinkhorn_kd_loss(student, student, weight=1.0, debias=True).abs() < 1e-12
    assert sinkhorn_kd_loss(student, student.flip(0), weight=1.0, debias=True).abs() < 1e-12


@law(seeds, st.integers(1, 6))
def test_debias_subtracts_half_of_each_distance_from_itself(seed, rows):
    student, teacher = logits(seed, rows, 4)
    p, q = (x.div(2).softmax(-1) for x in (student, teacher))
    expected = sinkhorn_distance(p, q) - sinkhorn_distance(p, p) / 2 - sinkhorn_distance(q, q) / 2
    torch.testing.assert_close(sinkhorn_kd_loss(student, teacher, weight=1.0, debias=True), expected)


@pytest.mark.parametrize("settings", [{}, {"debias": True}, {"reduction": "mean", "n_iters": 3}])
def test_gradients(settings):
    student, teacher = logits(3, 4, 5)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sinkhorn_kd_loss(s, teacher, weight=1.0, **settings), (student,))


def test_no_gradient_goes_to_the_teacher():
    student, teacher = (x.requires_grad_() for x in logits(3, 4, 5))
    sinkhorn_kd_loss(student, teacher, debias=True).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_only_rows_that_count_are_in_the_set():
    student, teacher = logits(5, 2, 4, 6)
    mask = torch.tensor([[True, False, True, True], [False, False, True, True]])
    labels = torch.where(mask, 1, -100)
    bad = student.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    expected = sinkhorn_kd_loss(student[mask], teacher[mask])
    torch.testing.assert_close(sinkhorn_kd_loss(bad, teacher, mask=mask), expected)
    loss = sinkhorn_kd_loss(bad, teacher.masked_fill(~mask[..., None], torch.inf), labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert bad.grad.isfinite().all()
    assert (bad.grad[~mask] == 0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nothing_selected_is_zero_with_a_gradient_of_zero(reduction):
    student, teacher = (x.requires_grad_() for x in logits(0, 3, 4))
    loss = sinkhorn_kd_loss(student, teacher, mask=torch.zeros(3, dtype=torch.bool), reduction=reduction)
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()
    empty = torch.zeros(0, 4, requires_grad=True)
    assert sinkhorn_kd_loss(empty, torch.zeros(0, 4)) == 0


def test_removed_tokens_and_half_precision():
    student, teacher = logits(1, 5, 6)
    student[:, 2] = teacher[:, 3] = -torch.inf
    student.requires_grad_()
    loss = sinkhorn_kd_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss, 8e-4 * by_hand(student, teacher))
    assert student.grad.isfinite().all()
    half = sinkhorn_kd_loss(student.detach().bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), 8e-4 * by_hand(student.bfloat16(), teacher.bfloat16()), rtol=1e-4, atol=0)


def test_what_does_not_fit_is_named():
    student, teacher = logits(0, 3, 4)
    with pytest.raises(ValueError, match=r"same vocabulary; got 4 and 3: .* cut both"):
        sinkhorn_kd_loss(student, teacher[:, :3])
    with pytest.raises(ValueError, match="teacher_logits must be finite or -inf; got NaN at index 1 in row 2"):
        sinkhorn_kd_loss(student, torch.where(torch.arange(12).view(3, 4) == 9, torch.nan, teacher))
    with pytest.raises(ValueError, match=r"weight must be finite and at least 0; got -1.0"):
        sinkhorn_kd_loss(student, teacher, weight=-1.0)
    with pytest.raises(ValueError, match="reduction must be one of 'sum', 'mean'; got 'none'"):
        sinkhorn_kd_loss(student, teacher, reduction="none")
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]; got 1.5"):
        SinKDLoss(alpha=1.5)
    with pytest.raises(ValueError, match=r"temperature_schedule\(3\) must be finite and above 0; got 0"):
        SinKDLoss(temperature_schedule=lambda epoch: 3 - epoch).set_epoch(3)


def test_the_module_is_the_function():
    student, teacher = logits(8, 2, 3, 5)
    settings = {"temperature": 1.5, "eps": 0.2, "n_iters": 3, "weight": 0.5, "reduction": "mean", "debias": True}
    mask = torch.tensor([[True, True, False], [True, False, True]])
    expected = sinkhorn_kd_loss(student, teacher, mask=mask, **settings)
    assert torch.equal(SinkhornKDLoss(**settings)(student, teacher, mask=mask), expected)


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_mix(shape):
    student, teacher = logits(2, *shape, 5)
    labels = torch.arange(6).reshape(shape) % 5
    labels.view(-1)[1] = -100
    rows = (labels != -100).flatten()
    s, t, y = student.reshape(6, 5)[rows], teacher.reshape(6, 5)[rows], labels.flatten()[rows]
    soft = -((t / 3).softmax(-1) * (s / 3).log_softmax(-1)).sum(-1).mean()
    expected = 0.1 * F.cross_entropy(s, y) + 0.9 * soft + 8e-4 * by_hand(s, t)
    found = SinKDLoss(alpha=0.9, temperature=3.0)(student, teacher, labels)
    torch.testing.assert_close(found, expected)
    none = SinKDLoss()(student.requires_grad_(), teacher, torch.full(shape, -100))
    none.backward()
    assert none == 0
    assert (student.grad == 0).all()


def test_the_schedule():
    student, teacher = logits(2, 6, 5)
    labels = torch.arange(6) % 5
    loss = SinKDLoss(temperature_schedule=annealed(3.0, epochs=5))
    for epoch, temperature in enumerate([3.0, 2.5, 2.0, 1.5, 1.0]):
        loss.set_epoch(epoch)
        fixed = SinKDLoss(temperature=temperature)
        fixed.set_epoch(epoch)
        assert torch.equal(loss(student, teacher, labels), fixed(student, teacher, labels))
    assert annealed(3.0, epochs=1)(0) == 3.0


@pytest.mark.slow
def test_two_processes_form_one_set(tmp_path):
    """Each returns the loss of all rows; the mean of their gradients is its gradient."""
    import importlib.util

    script = Path(__file__).with_name("gather_processes.py")
    spec = importlib.util.spec_from_file_location("gather_processes", script)
    both = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(both)
    arguments = [str(tmp_path / "store"), str(tmp_path / "found")]
    running = [subprocess.Popen([sys.executable, str(script), str(rank), *arguments]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    found = [json.loads((tmp_path / f"found.{rank}").read_text()) for rank in range(2)]
    student, teacher = both.data()
    student.requires_grad_()
    for reduction in ("sum", "mean"):
        loss = sinkhorn_kd_loss(student, teacher, weight=1.0, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss, student)
        for rank, rows in enumerate(gradient.split(both.ROWS)):
            assert found[rank][reduction] == pytest.approx(loss.item(), rel=1e-12)
            mine = torch.tensor(found[rank][f"{reduction} gradient"], dtype=torch.float64)
            torch.testing.assert_close(mine[: len(rows)] / 2, rows)
            assert (mine[len(rows) :] == 0).all()
    alone = sinkhorn_kd_loss(student[: both.ROWS[0]], teacher[: both.ROWS[0]], weight=1.0).item()
    assert [each["one empty"] for each in found] == [pytest.approx(alone)] * 2
    assert found[0]["one empty gradient"] > 0
    assert found[1]["one empty gradient"] == 0
    assert not math.isclose(alone, loss.item())
