"""How far apart two distributions are, row by row, in NumPy or torch, differentiable in torch.

The first distribution, p, comes as `logits=`, `log_probs=`, `probs=` or `counts=`; the second, q, under the same names
led by `q_`. The two may come in different forms (a teacher's probabilities, a student's logits), and their leading
shapes broadcast.
"""

import math

import numpy as np
import torch
from torch import Tensor

from hartley.info.checks import check_axis, check_exactly_one
from hartley.info.distribution import Array, Rows, give, read, rows_of, safe_log, tensor_of, working_dtype


def cross_entropy(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    q_logits: Array | None = None,
    q_log_probs: Array | None = None,
    q_probs: Array | None = None,
    q_counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return -sum p ln q of each row: the mean surprisal under the model q of what p draws.

    Parameters
    ----------
    logits, log_probs, probs, counts
        Exactly one: p, the distribution averaged over, along ``axis``. See `entropy` for each form, its checks and its
        dtype.
    q_logits, q_log_probs, q_probs, q_counts
        Exactly one: q, the model. V must be p's; the leading shapes broadcast.
    axis, base, keepdims
        As in `entropy`; ``axis`` holds for both.

    Returns
    -------
    The broadcast leading shape, in nats, or in units of ``base``; inf where p has an outcome that q excludes. The dtype
    is the wider of p's and q's (float32 for half precision and float32, else float64).

    Raises
    ------
    ValueError
        As `entropy`, naming ``q_...`` for the second; also when the sizes along ``axis`` differ or the shapes do not
        broadcast.
    TypeError
        As `entropy`; also when one is NumPy and the other torch.

    >>> cross_entropy(probs=torch.tensor([0.5, 0.5, 0.0]), q_probs=torch.tensor([0.25, 0.5, 0.25]), base=2)
    tensor(1.5000)
    """
    p, q = _read_pair(axis, (logits, log_probs, probs, counts), (q_logits, q_log_probs, q_probs, q_counts))
    log_q = q.log_probs.masked_fill((p.probs == 0) | (q.log_probs == -torch.inf), 0)
    value = _inf_where_excluded(0 - (p.probs * log_q).sum(-1), p, q)
    return give(value, p.numpy, axis, keepdims, base)


def kl_divergence(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    q_logits: Array | None = None,
    q_log_probs: Array | None = None,
    q_probs: Array | None = None,
    q_counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return KL(p || q) = sum p ln(p / q) of each row: forward when p is the reference and q the model.

    Takes, returns and refuses what `cross_entropy` does. It is summed as p (d + exp(-d) - 1) with d = ln(p / q), whose
    terms are all at least 0: the result is never negative, and keeps its digits when q is close to p (float32 resolves
    1e-12 nats, where sum p d stops at 1e-7).

    >>> kl_divergence(probs=torch.tensor([0.5, 0.5, 0.0]), q_probs=torch.tensor([0.25, 0.5, 0.25]), base=2)
    tensor(0.5000)
    >>> kl_divergence(probs=torch.tensor([0.25, 0.5, 0.25]), q_probs=torch.tensor([0.5, 0.5, 0.0]))
    tensor(inf)

    Source: Kullback & Leibler 1951, "On Information and Sufficiency".
    """
    p, q = _read_pair(axis, (logits, log_probs, probs, counts), (q_logits, q_log_probs, q_probs, q_counts))
    value = _inf_where_excluded(kl_terms(p.probs, p.log_probs, q.probs, q.log_probs).sum(-1), p, q)
    return give(value, p.numpy, axis, keepdims, base)


def js_divergence(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    q_logits: Array | None = None,
    q_log_probs: Array | None = None,
    q_probs: Array | None = None,
    q_counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the Jensen-Shannon divergence KL(p || m) / 2 + KL(q || m) / 2 of each row, with m = (p + q) / 2.

    Symmetric, and between 0 and ln 2 nats (1 bit). It is the divergence; its square root is the distance (SciPy's
    `jensenshannon` returns that). Otherwise takes, returns and refuses what `cross_entropy` does, without ever being
    inf.

    >>> js_divergence(probs=torch.tensor([1.0, 0.0]), q_probs=torch.tensor([0.0, 1.0]), base=2)
    tensor(1.)

    Source: Lin 1991, "Divergence Measures Based on the Shannon Entropy".
    """
    p, q = _read_pair(axis, (logits, log_probs, probs, counts), (q_logits, q_log_probs, q_probs, q_counts))
    m = (p.probs + q.probs) / 2
    log_m = safe_log(p.probs + q.probs) - math.log(2)  # of the sum: halving could underflow
    terms = kl_terms(p.probs, p.log_probs, m, log_m) + kl_terms(q.probs, q.log_probs, m, log_m)
    return give(terms.sum(-1) / 2, p.numpy, axis, keepdims, base)


def mutual_information(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: tuple[int, int] = (-2, -1),
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return I(X; Y) = KL(joint || product of its marginals) of each joint distribution.

    The joint lies along the two axes ``axis`` and sums to 1 over both together (as `log_probs` or `probs`; logits and
    counts are normalised so); ``keepdims`` keeps both with length 1. Otherwise takes, returns and refuses what
    `entropy` does. Never negative, and at most the smaller of the two marginal entropies. From counts it is the plug-in
    value, biased upwards by about (|X| - 1)(|Y| - 1) / 2n nats.

    >>> import numpy as np
    >>> round(float(mutual_information(counts=np.array([[4, 0], [0, 4]]), base=2)), 4)
    1.0
    >>> mutual_information(probs=np.array([[0.25, 0.25], [0.25, 0.25]]))
    np.float64(0.0)

    Source: Shannon 1948, "A Mathematical Theory of Communication", section 12.
    """
    name, value = check_exactly_one(logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    x, numpy = tensor_of(name, value)
    first, second = axis
    for each in axis:
        check_axis(each, x.ndim, name)
    if first % x.ndim == second % x.ndim:
        raise ValueError(f"axis must name two different axes; got {axis}")
    joint = x.movedim(axis, (-2, -1))
    if 0 in joint.shape[-2:]:
        raise ValueError(f"{name} must hold at least one value along axes {axis}; got shape {tuple(x.shape)}")
    flat = rows_of(name, joint.flatten(-2).to(working_dtype(x.dtype)), x.dtype, numpy)
    p = flat.probs.reshape(joint.shape)
    p_x, p_y = p.sum(-1, keepdim=True), p.sum(-2, keepdim=True)
    terms = kl_terms(p, safe_log(p), p_x * p_y, safe_log(p_x) + safe_log(p_y))
    result = give(terms.sum((-2, -1)), numpy, -1, False, base)
    if keepdims:
        kept = tuple(1 if d in (first % x.ndim, second % x.ndim) else n for d, n in enumerate(x.shape))
        return result.reshape(kept)
    return result


def _read_pair(axis: int, p_forms: tuple[Array | None, ...], q_forms: tuple[Array | None, ...]) -> tuple[Rows, Rows]:
    names = ("logits", "log_probs", "probs", "counts")
    p = read(axis, **dict(zip(names, p_forms, strict=True)))
    q = read(axis, prefix="q_", **dict(zip(names, q_forms, strict=True)))
    if p.numpy != q.numpy:
        kinds = ("NumPy", "torch") if p.numpy else ("torch", "NumPy")
        raise TypeError(f"p and q must both be NumPy arrays or both torch tensors; got p {kinds[0]}, q {kinds[1]}")
    if p.probs.shape[-1] != q.probs.shape[-1]:
        sizes = f"{p.probs.shape[-1]} and {q.probs.shape[-1]}"
        raise ValueError(f"p and q must have the same number of outcomes along axis {axis}; got {sizes}")
    try:
        np.broadcast_shapes(p.probs.shape, q.probs.shape)
    except ValueError:
        shapes = f"{tuple(p.probs.shape[:-1])} and {tuple(q.probs.shape[:-1])}"
        raise ValueError(f"the leading shapes of p and q must broadcast; got {shapes}") from None
    return p, q


def kl_terms(p: Tensor, log_p: Tensor, q: Tensor, log_q: Tensor) -> Tensor:
    """p ln(p/q) - p + q term by term: at least 0 each, and the same sum since p and q both sum to 1."""
    shared = (p > 0) & (log_q > -torch.inf)
    d = torch.where(shared, log_p, 0) - torch.where(shared, log_q, 0)
    near_d = d.clamp(min=-1)  # below that q would be computed as p exp(-d), which can overflow; q is at hand
    near = (p * (near_d + (-near_d).expm1())).clamp(min=0)
    return torch.where(shared, torch.where(d >= -1, near, p * (d - 1) + q), q)


def _inf_where_excluded(value: Tensor, p: Rows, q: Rows) -> Tensor:
    excluded = ((p.log_probs > -torch.inf) & (q.log_probs == -torch.inf)).any(-1)
    return torch.where(excluded, torch.inf, value)
