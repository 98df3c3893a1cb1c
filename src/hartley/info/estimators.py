"""The entropy of a source, with a standard error, from how often each of its outcomes was seen.

H is the entropy of the unknown source, n the number of observations, n_i those of outcome i, m the number of outcomes
seen. All three estimators share one standard error to first order (the delta method): the spread of a single
observation's contribution over sqrt n. It ignores the bias, the terms of order 1/n in the variance (all there is when
the source is uniform, where it gives 0), and what an unseen outcome would add; it is the error of sampling, to be
trusted when n is well above the number of outcomes.
"""

from typing import Generic, NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import row_name
from hartley.info.distribution import Array, give, read, tensor_of


class Estimate(NamedTuple, Generic[Array]):
    """An estimated number and its standard error, in the same unit."""

    value: Array
    stderr: Array


def plugin(counts: Array, *, axis: int = -1, base: float | None = None, keepdims: bool = False) -> Estimate[Array]:
    """Return the entropy of the observed frequencies (maximum likelihood).

    ``counts`` are whole numbers of at least 0, at least one of them above, the outcomes lying along ``axis``; the
    result has the remaining shape, in nats or units of ``base``, always in float64. The bias is about -(K - 1) / 2n
    nats for K possible outcomes. The standard error is sqrt(varentropy / n), see the top of the module for what it
    ignores.
    Raises: ``ValueError`` for negative, fractional, not finite or all zero counts (naming the row); ``TypeError`` for
    what is no number.

    >>> import numpy as np
    >>> value, stderr = plugin(np.array([30, 10]))
    >>> round(float(value), 4), round(float(stderr), 4)
    (0.5623, 0.0752)

    Source: Miller 1955, "Note on the Bias of Information Estimates".
    """
    n, numpy = _whole_counts(counts, axis)
    return _estimate(n, n.clamp(min=1).log(), 0.0, numpy, axis, base, keepdims)


def miller_madow(
    counts: Array, *, axis: int = -1, base: float | None = None, keepdims: bool = False
) -> Estimate[Array]:
    """Return the plug-in entropy plus (m - 1) / 2n, its bias to first order with the m outcomes seen for all there are.

    Takes, returns and refuses what `plugin` does. Good once nearly every outcome has been seen; the fluctuation of m is
    not in the standard error.

    >>> import numpy as np
    >>> value, stderr = miller_madow(np.array([30, 10]))
    >>> round(float(value), 4), round(float(stderr), 4)
    (0.5748, 0.0752)

    Source: Miller 1955, "Note on the Bias of Information Estimates".
    """
    n, numpy = _whole_counts(counts, axis)
    correction = ((n > 0).sum(-1) - 1) / (2 * n.sum(-1))
    return _estimate(n, n.clamp(min=1).log(), correction, numpy, axis, base, keepdims)


def grassberger(counts: Array, *, axis: int = -1, base: float | None = None, keepdims: bool = False) -> Estimate[Array]:
    """Return ln n - sum n_i G(n_i) / n, where G stands for the logarithm and undoes its bias at small counts.

    G(k) = psi(k) + (-1)^k / 2 (psi((k + 1) / 2) - psi(k / 2)). For Poisson counts the bias of each outcome falls
    exponentially in its expected count (instead of costing 1 / 2n each); when n was fixed beforehand, 1 / 2n is left
    over, upwards, however many outcomes there are. The choice of the three when many were seen only a few times; it is
    low when many were never seen, and can be slightly below 0. Takes, returns and refuses what `plugin` does.

    >>> import numpy as np
    >>> value, stderr = grassberger(np.array([30, 10]))
    >>> round(float(value), 4), round(float(stderr), 4)
    (0.5618, 0.0751)

    Source: Grassberger 2003, "Entropy Estimates from Insufficient Samplings", arXiv physics/0307138.
    (Not the form of 1988, which has (-1)^k / (k + 1) for the second term.)
    """
    n, numpy = _whole_counts(counts, axis)
    k = n.clamp(min=1)
    sign = 1 - 2 * (k % 2)
    g = torch.digamma(k) + sign / 2 * (torch.digamma((k + 1) / 2) - torch.digamma(k / 2))
    return _estimate(n, g, 0.0, numpy, axis, base, keepdims)


def _whole_counts(counts: Array, axis: int) -> tuple[Tensor, bool]:
    """Return the counts along the last axis in float64, having refused what is not a histogram."""
    rows = read(axis, logits=None, log_probs=None, probs=None, counts=counts)
    n = tensor_of("counts", counts)[0].movedim(axis, -1).double()
    fractional = n != n.round()
    if bool(fractional.any()):
        got = f"{float(n[fractional][0])}{row_name(fractional.any(-1))}"
        raise ValueError(f"counts must be whole numbers; got {got}")
    return n, rows.numpy


def _estimate(
    n: Tensor, log_n: Tensor, correction: Tensor | float, numpy: bool, axis: int, base: float | None, keepdims: bool
) -> Estimate[Array]:
    total = n.sum(-1)
    p = n / total.unsqueeze(-1)
    mean = (p * log_n).sum(-1)
    value = total.log() - mean + correction
    variance = (p * (log_n - mean.unsqueeze(-1)).square()).sum(-1)
    stderr = (variance / total).sqrt()
    return Estimate(give(value, numpy, axis, keepdims, base), give(stderr, numpy, axis, keepdims, base))
