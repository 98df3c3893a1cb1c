"""Entropic optimal transport between two sets of rows, by Sinkhorn's iteration on logarithms.

Each of N source rows is matched with M target rows; the plan P [N, M] minimises sum P (D + eps ln P) under given row
and column sums, where D holds the distances of the rows. Small eps approaches the best one-to-one assignment, large eps
spreads every row over all the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast, get_args, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hartley.info.checks import check_count, check_one_of, check_positive, row_name
from hartley.info.distribution import working_dtype

Cost = Literal["l1", "l2", "sqeuclidean"] | Callable[[Tensor, Tensor], Tensor]
Marginals = Literal["ones", "uniform"]

FRUGAL = ("cpu",)  # devices whose torch.cdist holds no [N, M, C] in its backward pass, and is faster than tiles
TILE = 2**22  # elements [N, M, c] of the backward pass that are held at once: 16 MB in float32


@overload
def sinkhorn_distance(
    p: Tensor,
    q: Tensor,
    *,
    cost: Cost = ...,
    eps: float = ...,
    n_iters: int = ...,
    marginals: Marginals = ...,
    tol: float | None = ...,
    through_plan: bool = ...,
    return_plan: Literal[False] = ...,
) -> Tensor: ...
@overload
def sinkhorn_distance(
    p: Tensor,
    q: Tensor,
    *,
    cost: Cost = ...,
    eps: float = ...,
    n_iters: int = ...,
    marginals: Marginals = ...,
    tol: float | None = ...,
    through_plan: bool = ...,
    return_plan: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def sinkhorn_distance(
    p: Tensor,
    q: Tensor,
    *,
    cost: Cost = "l1",
    eps: float = 0.1,
    n_iters: int = 20,
    marginals: Marginals = "ones",
    tol: float | None = None,
    through_plan: bool = True,
    return_plan: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return sum P D: what it costs to carry the rows of ``p`` onto those of ``q`` by the plan of `sinkhorn_plan`.

    Parameters
    ----------
    p, q
        Rows [..., N, C] and [..., M, C], usually one distribution each. Computed in float32, or float64 where one is.
    cost
        Distance of a row from another: "l1" (twice the total variation), "l2", its square "sqeuclidean", or a function
        (p, q) -> [..., N, M], whose gradient is autograd's. The built-in ones never hold [N, M, C], in either pass.
    eps, n_iters, marginals, tol
        As in `sinkhorn_plan`; eps is in units of the cost.
    through_plan
        False takes the plan for a constant, so that the gradient is that of D alone.
    return_plan
        True returns the plan too.

    Returns
    -------
    [...], in units of the cost, or with the plan [..., N, M]. It is the cost of the plan alone, without its entropy.
    Two equal sets are at a distance above 0 unless all their rows are alike: the price of eps.

    Raises
    ------
    ValueError
        For shapes that do not fit, numbers that are not finite, and settings outside their range.

    >>> p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> bool(sinkhorn_distance(p, p.flip(0), eps=0.01) < 1e-6)
    True
    >>> distance, plan = sinkhorn_distance(p, p, eps=1.0, return_plan=True)
    >>> distance, plan
    (tensor(0.5379), tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]]))

    Source: Cuturi 2013, "Sinkhorn Distances"; Cui et al. 2024, arXiv 2402.17110, for the defaults.
    """
    distances = _distances(p, q, cost)
    plan = sinkhorn_plan(
        distances if through_plan else distances.detach(), eps=eps, n_iters=n_iters, marginals=marginals, tol=tol
    )
    distance = (plan * distances).sum((-2, -1))
    return (distance, plan) if return_plan else distance


def sinkhorn_plan(
    cost: Tensor, *, eps: float = 0.1, n_iters: int = 20, marginals: Marginals = "ones", tol: float | None = None
) -> Tensor:
    """Return the plan P [..., N, M] that ``n_iters`` rounds of Sinkhorn's iteration make from exp(-cost / eps).

    A round gives each row its sum, then each column; so column sums are exact and row sums are approached.
    ``marginals="ones"`` asks for sums of 1 (N = M, total mass N), "uniform" for 1/N and 1/M (total mass 1).
    ``tol`` stops early, once no row sum is off by more than this share of it, and ``n_iters`` is then the most that is
    done. Works on logarithms, so no ``eps`` overflows; a gradient (once) flows through every round, in the memory of
    two vectors a round.

    Raises ``ValueError`` for a ``cost`` that is not finite or has no row or column, for N != M under "ones", and for
    settings outside their range.

    >>> sinkhorn_plan(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), eps=1.0)
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])

    Source: Sinkhorn 1964; on logarithms as in Peyre & Cuturi 2019, "Computational Optimal Transport", section 4.4.
    """
    check_positive("eps", eps)
    check_count("n_iters", n_iters)
    check_one_of("marginals", marginals, get_args(Marginals))
    if tol is not None:
        check_positive("tol", tol)
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must be [..., N, M] with at least one row and column; got shape {tuple(cost.shape)}")
    rows, columns = cost.shape[-2:]
    if marginals == "ones" and rows != columns:
        raise ValueError(
            f'marginals must be "uniform" where the two sets differ in size; got "ones" with {rows} and {columns} rows'
        )
    _check_finite("cost", cost)
    sums = (0.0, 0.0) if marginals == "ones" else (-math.log(rows), -math.log(columns))
    kernel = cost.to(working_dtype(cost.dtype)) / -eps
    return cast(Tensor, _Plan.apply(kernel, sums, n_iters, tol))  # pyright: ignore[reportUnknownMemberType]


class _Plan(torch.autograd.Function):
    """exp(kernel + f + g) after alternating updates of the potentials f [..., N, 1] and g [..., 1, M].

    Autograd would keep the [N, M] terms of each of the 2 ``n_iters`` logsumexps; the potentials are enough to make them
    again.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, sums: tuple[float, float], n_iters: int, tol: float | None) -> Tensor:
        log_row, log_column = sums
        f, g = torch.zeros_like(kernel[..., :, :1]), torch.zeros_like(kernel[..., :1, :])
        potentials = [g]
        for done in range(n_iters):
            new = log_row - (kernel + g).logsumexp(-1, keepdim=True)
            # The step that f would take is by how much the row sums are off
            if tol is not None and done and bool(((f - new).expm1().abs() <= tol).all()):
                break
            f = new
            g = log_column - (kernel + f).logsumexp(-2, keepdim=True)
            potentials += [f, g]
        plan = (kernel + f + g).exp()
        ctx.sums = sums
        ctx.save_for_backward(kernel, plan, *potentials)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kernel, plan, *potentials = ctx.saved_tensors
        log_row, log_column = ctx.sums
        grad_kernel = grads[0] * plan
        grad_f = grad_kernel.sum(-1, keepdim=True)
        grad_g = grad_kernel.sum(-2, keepdim=True)
        for at in range(len(potentials) - 1, 0, -2):
            before, f, g = potentials[at - 2 : at + 1]
            share = (kernel + (f + (g - log_column))).exp_() * grad_g  # a softmax over rows, since g made it sum to 1
            grad_kernel -= share
            grad_f = grad_f - share.sum(-1, keepdim=True)
            share = (kernel + (before + (f - log_row))).exp_() * grad_f
            grad_kernel -= share
            grad_f, grad_g = 0, -share.sum(-2, keepdim=True)
        return grad_kernel, None, None, None


def _distances(p: Tensor, q: Tensor, cost: Cost) -> Tensor:
    if not callable(cost):
        check_one_of("cost", cost, ("l1", "l2", "sqeuclidean"))
    for name, rows in (("p", p), ("q", q)):
        if not rows.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {rows.dtype}")
        if rows.ndim < 2 or 0 in rows.shape[-2:]:
            raise ValueError(f"{name} must be [..., rows, C] with at least one row; got shape {tuple(rows.shape)}")
        _check_finite(name, rows)
    if p.shape[-1] != q.shape[-1] or p.shape[:-2] != q.shape[:-2]:
        shapes = f"{tuple(p.shape)} and {tuple(q.shape)}"
        raise ValueError(f"p and q must have the same C and the same leading shape; got {shapes}")
    dtype = torch.promote_types(working_dtype(p.dtype), working_dtype(q.dtype))
    p, q = p.to(dtype), q.to(dtype)
    if callable(cost):
        found = cost(p, q)
        if found.shape != (wanted := (*p.shape[:-1], q.shape[-2])):
            raise ValueError(f"cost(p, q) must have shape {wanted}; got {tuple(found.shape)}")
        return found
    order = 1.0 if cost == "l1" else 2.0
    if p.device.type in FRUGAL:
        found = _cdist(p, q, order)
    else:
        found = cast(Tensor, _Distances.apply(p, q, order))  # pyright: ignore[reportUnknownMemberType]
    return found.square() if cost == "sqeuclidean" else found


def _cdist(p: Tensor, q: Tensor, order: float) -> Tensor:
    """The distances [..., N, M], exact near 0 too."""
    return torch.cdist(p, q, p=order, compute_mode="donot_use_mm_for_euclid_dist")


class _Distances(torch.autograd.Function):
    """`_cdist` with a backward pass that goes through C in tiles."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, order: float) -> Tensor:
        distances = _cdist(p, q, order)
        ctx.order = order
        ctx.save_for_backward(p, q, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        p, q, distances = ctx.saved_tensors
        towards_p = _distances_backward(p, q, distances, grads[0], ctx.order) if ctx.needs_input_grad[0] else None
        towards_q = _distances_backward(q, p, distances.mT, grads[0].mT, ctx.order) if ctx.needs_input_grad[1] else None
        return towards_p, towards_q, None


def _distances_backward(p: Tensor, q: Tensor, distances: Tensor, grad: Tensor, order: float) -> Tensor:
    """The gradient of p [..., N, C], from ``grad`` [..., N, M] of the distances."""
    if order == 2:
        weight = torch.where(distances > 0, grad / distances, 0)
        return weight.sum(-1, keepdim=True) * p - weight @ q
    towards = torch.empty_like(p)
    width = max(1, TILE // distances.numel())
    for begin in range(0, p.shape[-1], width):
        tile = slice(begin, begin + width)
        signs = (p[..., :, None, tile] - q[..., None, :, tile]).sign_()
        towards[..., tile] = (grad.unsqueeze(-2) @ signs).squeeze(-2)
    return towards


def _check_finite(name: str, values: Tensor) -> None:
    good = values.detach().isfinite()
    if not bool(good.all()):
        bad = ~good.all(-1)
        at = values.detach()[~good][0].item()
        raise ValueError(f"{name} must be finite; got {at}{row_name(bad)}")
