"""Sinkhorn's iteration: its laws, its limits (a linear assignment, the independent plan), POT, and its gradients."""

import math
from itertools import pairwise

import numpy as np
import ot
import pytest
import torch
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode

from hartley.info import sinkhorn_distance, sinkhorn_plan, transport
from strategies import law


def sets(seed, n, m, size, *batch, sharpness=2.0):
    """Two sets of float64 distributions, [..., n, C] and [..., m, C]."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (sharpness * torch.randn(*batch, rows, size, generator=generator, dtype=torch.float64)).softmax(-1)
        for rows in (n, m)
    )


def l1(p, q):
    return (p.unsqueeze(-2) - q.unsqueeze(-3)).abs().sum(-1)


def by_hand(cost, eps, n_iters, row=1.0, column=1.0):
    """The definition in the plain domain: scale rows, then columns."""
    plan = (-cost / eps).exp()
    for _ in range(n_iters):
        plan = plan * row / plan.sum(-1, keepdim=True)
        plan = plan * column / plan.sum(-2, keepdim=True)
    return plan


sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)


# The plan


@law(seeds, sizes, sizes, st.floats(0.05, 10), st.integers(1, 30))
def test_is_the_definition(seed, n, m, eps, n_iters):
    p, q = sets(seed, n, m, 5)
    found = sinkhorn_plan(l1(p, q), eps=eps, n_iters=n_iters, marginals="uniform")
    torch.testing.assert_close(found, by_hand(l1(p, q), eps, n_iters, 1 / n, 1 / m), rtol=1e-10, atol=1e-14)
    if n == m:
        torch.testing.assert_close(sinkhorn_plan(l1(p, q), eps=eps, n_iters=n_iters), n * found, rtol=1e-10, atol=1e-14)


@law(seeds, sizes, st.floats(0.05, 1))
def test_columns_are_exact_and_rows_are_approached(seed, n, eps):
    cost = l1(*sets(seed, n, n, 4))
    errors = []
    for n_iters in (1, 5, 25, 125):
        plan = sinkhorn_plan(cost, eps=eps, n_iters=n_iters)
        assert (plan > 0).all()
        assert (plan.sum(-2) - 1).abs().max() < 1e-12
        assert abs(plan.sum().item() - n) < 1e-12 * n
        errors.append((plan.sum(-1) - 1).abs().sum().item())
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))


@law(seeds, st.integers(2, 9), st.floats(0.1, 1), st.sampled_from([1e-2, 1e-4, 1e-8]))
def test_tol_stops_when_the_rows_are_right_and_not_long_after(seed, n, eps, tol):
    cost = l1(*sets(seed, n, n, 4))
    plan = sinkhorn_plan(cost, eps=eps, n_iters=5000, tol=tol)
    assert (plan.sum(-1) - 1).abs().max() <= tol * 1.0001
    rounds = next(
        k for k in range(1, 5001) if (sinkhorn_plan(cost, eps=eps, n_iters=k).sum(-1) - 1).abs().max() <= tol * 1.0001
    )
    torch.testing.assert_close(plan, sinkhorn_plan(cost, eps=eps, n_iters=rounds), rtol=1e-9, atol=1e-12)


def test_no_eps_overflows():
    cost = torch.tensor([[0.0, 2.0, 2.0], [2.0, 1e-3, 2.0], [2.0, 2.0, 0.5]])
    for eps in (1e-8, 1e8):
        assert sinkhorn_plan(cost, eps=eps).isfinite().all()
    torch.testing.assert_close(sinkhorn_plan(cost, eps=1e-8), torch.eye(3))


# The distance


@law(seeds, sizes, st.integers(1, 6), st.floats(0.05, 10))
def test_bounds_and_one_row(seed, n, size, eps):
    p, q = sets(seed, n, n, size)
    assert -1e-12 <= sinkhorn_distance(p, q, eps=eps) <= 2 * n + 1e-12
    one = sinkhorn_distance(p[:1], q[:1], eps=eps)
    assert one.item() == pytest.approx((p[0] - q[0]).abs().sum().item(), abs=1e-12)


@pytest.mark.parametrize(("d", "expected"), [(0.1, 0.0537883), (0.5, 0.00669285), (2.0, 8.24e-9)])
def test_two_rows_in_closed_form(d, expected):
    cost = torch.tensor([[0.0, d], [d, 0.0]], dtype=torch.float64)
    for n_iters in (1, 20):
        plan = sinkhorn_plan(cost, eps=0.1, n_iters=n_iters)
        assert (plan * cost).sum().item() == pytest.approx(2 * d / (1 + math.exp(d / 0.1)), rel=1e-12)
        assert (plan * cost).sum().item() == pytest.approx(expected, rel=1e-3)


def test_equal_costs_give_the_independent_plan():
    e = torch.eye(3)
    distance, plan = sinkhorn_distance(e[[0, 0, 0]], e[[2, 2, 2]], return_plan=True)
    torch.testing.assert_close(plan, torch.full((3, 3), 1 / 3))
    assert distance.item() == pytest.approx(6)


@law(seeds, st.integers(2, 8), st.integers(1, 20))
def test_order_of_the_rows_does_not_count(seed, n, n_iters):
    p, q = sets(seed, n, n, 5)
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = sinkhorn_distance(p, q, n_iters=n_iters)
    torch.testing.assert_close(sinkhorn_distance(p, q[shuffle], n_iters=n_iters), expected)
    torch.testing.assert_close(sinkhorn_distance(p[shuffle], q, n_iters=n_iters), expected)
    torch.testing.assert_close(
        sinkhorn_distance(q, p, n_iters=20_000, tol=1e-12, eps=0.3),
        sinkhorn_distance(p, q, n_iters=20_000, tol=1e-12, eps=0.3),
        rtol=1e-9,
        atol=1e-9,
    )


@law(seeds, st.integers(2, 8), st.sampled_from([0.1, 0.03, 0.01]))
def test_small_eps_is_the_best_assignment(seed, n, eps):
    """No lower, and at most eps n ln n higher, but for the rows that are still off: 2 for each unit of mass."""
    p, q = sets(seed, n, n, 5)
    rows, columns = linear_sum_assignment(l1(p, q).numpy())
    best = l1(p, q)[rows, columns].sum().item()
    found, plan = sinkhorn_distance(p, q, eps=eps, n_iters=300, return_plan=True)
    off = (plan.sum(-1) - 1).abs().sum().item()
    assert off < 0.05 * n
    assert best - 2 * off <= found.item() <= best + 2 * off + eps * n * math.log(n)


@law(seeds, sizes, sizes)
def test_large_eps_is_the_mean_of_all_pairs(seed, n, m):
    p, q = sets(seed, n, m, 5)
    assert sinkhorn_distance(p, q, eps=1e7, marginals="uniform").item() == pytest.approx(l1(p, q).mean().item())


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8), (1, 4)])
@pytest.mark.parametrize("cost", ["l1", "l2", "sqeuclidean"])
def test_is_what_pot_finds(n, m, cost):
    p, q = sets(3, n, m, 7)
    theirs = ot.dist(p.numpy(), q.numpy(), metric={"l1": "cityblock", "l2": "euclidean"}.get(cost, cost))
    plan = ot.sinkhorn(np.ones(n) / n, np.ones(m) / m, theirs, reg=0.1, numItermax=3000, stopThr=1e-15)
    ours, found = sinkhorn_distance(p, q, cost=cost, eps=0.1, n_iters=2000, marginals="uniform", return_plan=True)
    np.testing.assert_allclose(found.numpy(), plan, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ours.item(), (plan * theirs).sum(), rtol=1e-6)
    if n == m:
        ones = sinkhorn_distance(p, q, cost=cost, eps=0.1, n_iters=2000)
        np.testing.assert_allclose(ones.item(), n * (plan * theirs).sum(), rtol=1e-6)


def test_batches_are_each_alone():
    p, q = sets(1, 4, 6, 5, 2, 3)
    distance, plan = sinkhorn_distance(p, q, marginals="uniform", return_plan=True)
    assert distance.shape == (2, 3)
    assert plan.shape == (2, 3, 4, 6)
    for at in np.ndindex(2, 3):
        torch.testing.assert_close(distance[at], sinkhorn_distance(p[at], q[at], marginals="uniform"))


def test_half_precision_is_worked_in_float32():
    p, q = (each.to(torch.bfloat16) for each in sets(0, 5, 5, 9))
    found = sinkhorn_distance(p, q)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sinkhorn_distance(p.float(), q.float()))
    assert sinkhorn_distance(p, q.double()).dtype == torch.float64


# Gradients


@pytest.fixture(params=["torch.cdist", "tiles"])
def backward(request, monkeypatch):
    """Each way to the gradient of the distances; a GPU takes the second."""
    monkeypatch.setattr(transport, "FRUGAL", ("cpu",) if request.param == "torch.cdist" else ())


@pytest.mark.usefixtures("backward")
@pytest.mark.parametrize("cost", ["l1", "l2", "sqeuclidean", lambda p, q: 1 - p @ q.mT])
@pytest.mark.parametrize(("n", "m", "n_iters", "tol"), [(4, 4, 20, None), (3, 5, 1, None), (4, 4, 500, 1e-3)])
def test_gradients(cost, n, m, n_iters, tol):
    p, q = (each.requires_grad_() for each in sets(2, n, m, 3, 2))

    def value(p, q):
        return sinkhorn_distance(p, q, cost=cost, n_iters=n_iters, marginals="uniform", eps=0.3, tol=tol)

    assert torch.autograd.gradcheck(value, (p, q))


@pytest.mark.usefixtures("backward")
@pytest.mark.parametrize("through_plan", [True, False])
def test_gradients_are_those_of_the_unrolled_loop(through_plan):
    p, q = (each.requires_grad_() for each in sets(7, 6, 6, 4))
    ours = torch.autograd.grad(sinkhorn_distance(p, q, through_plan=through_plan), (p, q))
    cost = l1(p, q)
    plan = by_hand(cost, 0.1, 20)
    theirs = torch.autograd.grad(((plan if through_plan else plan.detach()) * cost).sum(), (p, q))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    if through_plan:
        frozen = torch.autograd.grad(sinkhorn_distance(p, q, through_plan=False), p)[0]
        assert not torch.allclose(ours[0], frozen, atol=1e-3), "the plan's share of the gradient is missing"


@pytest.mark.usefixtures("backward")
@pytest.mark.parametrize("cost", ["l1", "l2", "sqeuclidean"])
def test_gradient_at_equal_rows_is_that_of_the_others(cost):
    p, _ = sets(0, 3, 3, 4)
    q = p.clone()
    p.requires_grad_()
    (found,) = torch.autograd.grad(sinkhorn_distance(p, q, cost=cost, through_plan=False, eps=0.5), p)
    assert found.isfinite().all()
    plan = sinkhorn_plan(transport._distances(p.detach(), q, cost), eps=0.5)
    apart = p.detach()[:, None] - q[None]
    length = apart.norm(dim=-1, keepdim=True)
    slope = {"l1": apart.sign(), "l2": apart / length.clamp(min=1e-30), "sqeuclidean": 2 * apart}[cost]
    torch.testing.assert_close(found, (plan[..., None] * slope).sum(1))


class Largest(TorchDispatchMode):
    """The most elements that any operation gave, the backward pass included."""

    def __init__(self):
        super().__init__()
        self.elements = 0
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_all_pairs_of_rows_are_never_held_over_the_vocabulary(monkeypatch):
    n, size = 24, 1000
    p, q = (each.float().requires_grad_() for each in sets(0, n, n, size))
    expected = torch.autograd.grad(sinkhorn_distance(p, q), (p, q))
    monkeypatch.setattr(transport, "FRUGAL", ())
    monkeypatch.setattr(transport, "TILE", n * n * 100)
    with Largest() as largest:
        found = torch.autograd.grad(sinkhorn_distance(p, q), (p, q))
    assert largest.calls > 2 * size // 100
    assert largest.elements <= max(n * size, transport.TILE) < n * n * size
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


# Errors


def test_what_does_not_fit_is_named():
    p, q = sets(0, 3, 4, 5)
    with pytest.raises(ValueError, match=r'marginals must be "uniform" where .* got "ones" with 3 and 4 rows'):
        sinkhorn_distance(p, q)
    with pytest.raises(ValueError, match=r"same C and the same leading shape; got \(3, 5\) and \(4, 4\)"):
        sinkhorn_distance(p, q[:, :4], marginals="uniform")
    with pytest.raises(ValueError, match=r"q must be finite; got nan in row 2"):
        sinkhorn_distance(p, q[:3].index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(ValueError, match=r"p must be \[..., rows, C\] with at least one row; got shape \(0, 5\)"):
        sinkhorn_distance(p[:0], q)
    with pytest.raises(TypeError, match=r"p must be floating point; got torch.int64"):
        sinkhorn_distance(p.long(), q)
    with pytest.raises(ValueError, match="cost must be one of 'l1', 'l2', 'sqeuclidean'; got 'l3'"):
        sinkhorn_distance(p, p, cost="l3")
    with pytest.raises(ValueError, match=r"cost\(p, q\) must have shape \(3, 3\); got \(3, 1\)"):
        sinkhorn_distance(p, p, cost=lambda p, q: p[:, :1])


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("eps", 0.0, "eps must be finite and above 0; got 0.0"),
        ("n_iters", 0, "n_iters must be a whole number of at least 1; got 0"),
        ("tol", -1.0, "tol must be finite and above 0; got -1.0"),
        ("marginals", "one", "marginals must be one of 'ones', 'uniform'; got 'one'"),
    ],
)
def test_settings_outside_their_range_are_named(setting, value, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_plan(torch.zeros(2, 2), **{setting: value})
