"""Entropy and its relatives for one distribution a row, in NumPy or torch, differentiable in torch.

Every function takes the distribution by the name of its form, exactly one of `logits=` (unnormalised log-weights, -inf
for a removed token), `log_probs=`, `probs=` or `counts=` (non-negative weights of any sum), and returns what it was
given: a torch tensor for a torch tensor, a NumPy array (a NumPy scalar for a single row) for an array or a list. The
gradient with respect to a removed token (a logit of -inf, a probability of 0) is 0, never infinite.
"""

import torch
from torch import Tensor

from hartley.info.checks import check_count, check_non_negative
from hartley.info.distribution import Array, give, normalised, read, shannon, tensor_of


def entropy(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the Shannon entropy -sum p ln p of each row, with 0 log 0 = 0.

    Parameters
    ----------
    logits, log_probs, probs, counts
        Exactly one, of any shape, the distributions lying along ``axis``. ``probs`` and exp(``log_probs``) must sum to
        1 within 1e-6 in float64, 1e-4 in float32, 5e-3 in float16 and 5e-2 in bfloat16; the difference is removed by
        renormalising. ``counts`` may be any non-negative weights.
    axis
        Where the V outcomes lie.
    base
        Of the logarithm: None for nats, 2 for bits, 10 for hartleys.
    keepdims
        Keep ``axis``, with length 1.

    Returns
    -------
    The input's shape without ``axis``, in nats, or in units of ``base``. Half precision and float32 are computed and
    returned in float32; float64 and integers in float64.

    Raises
    ------
    ValueError
        None or several forms given; NaN, +inf, nothing but -inf, negative or all zero weights (naming the row); a sum
        that is not 1; an axis or base that is none.
    TypeError
        An input that is not an array of real numbers.

    >>> import numpy as np
    >>> entropy(probs=np.array([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]]), base=2)
    array([1.75, 0.  ])
    >>> entropy(logits=torch.tensor([0.0, 0.0, -torch.inf]))
    tensor(0.6931)

    Source: Shannon 1948, "A Mathematical Theory of Communication", section 6.
    """
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    return give(shannon(rows.log_probs, rows.probs), rows.numpy, axis, keepdims, base)


def varentropy(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the variance of the surprisal, sum p (-ln p - H)^2, of each row.

    Takes, returns and refuses what `entropy` does; the unit is nats squared (``base=2``: bits squared). It is 0 exactly
    for uniform distributions on any support.

    >>> import numpy as np
    >>> round(float(varentropy(probs=np.array([0.5, 0.25, 0.125, 0.125]), base=2)), 4)
    0.6875

    Source: Kontoyiannis & Verdú 2014, "Optimal Lossless Data Compression".
    """
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    log_p = rows.log_probs.masked_fill(rows.probs == 0, 0)
    h = shannon(rows.log_probs, rows.probs).unsqueeze(-1)
    return give((rows.probs * (log_p + h).square()).sum(-1), rows.numpy, axis, keepdims, base, power=2)


def surprisal(
    tokens: Array | int | None = None,
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return -ln p of the given token of each row, or of every token when ``tokens`` is None.

    ``tokens`` holds integers in 0 .. V-1, in the input's shape without ``axis`` (or one that broadcasts to it); the
    result has that shape. With None the result has the input's shape. Impossible tokens have surprisal inf. Otherwise
    takes, returns and refuses what `entropy` does; also raises ``ValueError`` for a token outside 0 .. V-1, which it
    names, and ``TypeError`` for one that is no integer.

    >>> surprisal(torch.tensor([0, 2]), probs=torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]), base=2)
    tensor([1., 2.])
    >>> surprisal(probs=torch.tensor([0.5, 0.5, 0.0]), base=2)
    tensor([1., 1., inf])
    """
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    every = 0 - rows.log_probs
    if tokens is None:
        return give(every.movedim(-1, axis), rows.numpy, axis, False, base)
    index = _token_index(tokens, every)
    return give(every.gather(-1, index.unsqueeze(-1)).squeeze(-1), rows.numpy, axis, keepdims, base)


def renyi_entropy(
    order: float,
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the Rényi entropy ln(sum p^order) / (1 - order) of each row.

    ``order`` is one number from 0 to inf: 0 gives the logarithm of the support's size (Hartley's measure), 1 the
    Shannon entropy (the limit), 2 the collision entropy, inf the min-entropy -ln max p. Otherwise takes, returns and
    refuses what `entropy` does; also raises ``ValueError`` for an order below 0 or NaN.

    >>> import numpy as np
    >>> p = np.array([0.5, 0.25, 0.25, 0.0])
    >>> [round(float(renyi_entropy(order, probs=p, base=2)), 4) for order in (0, 1, 2, np.inf)]
    [1.585, 1.5, 1.415, 1.0]

    Source: Rényi 1961, "On Measures of Entropy and Information".
    """
    if order != torch.inf:
        check_non_negative("order", order)
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    return give(_renyi(float(order), rows.log_probs, rows.probs), rows.numpy, axis, keepdims, base)


def perplexity(
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return exp of the entropy in nats of each row: the number of equally likely outcomes that would be as uncertain.

    Takes, returns and refuses what `entropy` does. The entropy is exponentiated in the base it is measured in (2 to the
    bits is e to the nats), so ``base`` does not change the number; it is taken so that all measures can be called
    alike.

    >>> import numpy as np
    >>> round(float(perplexity(counts=np.array([3, 3, 3, 0]))), 6)
    3.0
    """
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    return _unitless(shannon(rows.log_probs, rows.probs).exp(), rows.numpy, axis, keepdims, base)


def top_k_mass(
    k: int,
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the probability of the ``k`` most probable outcomes of each row, in 0 .. 1.

    ``k`` is an integer of at least 1; from V on the mass is 1. Otherwise takes, returns and refuses what `entropy`
    does. A mass has no unit: ``base`` does not change it, and is taken so that all measures can be called alike.

    >>> top_k_mass(2, probs=torch.tensor([0.125, 0.5, 0.125, 0.25]))
    tensor(0.7500)
    """
    check_count("k", k)
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    mass = rows.probs.topk(min(k, rows.probs.shape[-1]), -1).values.sum(-1)
    return _unitless(mass, rows.numpy, axis, keepdims, base)


def top_k_entropy(
    k: int,
    *,
    logits: Array | None = None,
    log_probs: Array | None = None,
    probs: Array | None = None,
    counts: Array | None = None,
    axis: int = -1,
    base: float | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the entropy of the ``k`` most probable outcomes of each row, renormalised to sum to 1.

    It is the entropy of what top-k sampling draws from: at most ln k, and `entropy` itself from ``k`` = V on. ``k`` is
    an integer of at least 1. Otherwise takes, returns and refuses what `entropy` does.

    >>> top_k_entropy(2, probs=torch.tensor([0.25, 0.5, 0.125, 0.125]), base=2)  # that of (2/3, 1/3)
    tensor(0.9183)
    """
    check_count("k", k)
    rows = read(axis, logits=logits, log_probs=log_probs, probs=probs, counts=counts)
    top = rows.log_probs.topk(min(k, rows.probs.shape[-1]), -1).values
    return give(shannon(*normalised(top)), rows.numpy, axis, keepdims, base)


def _renyi(order: float, log_p: Tensor, p: Tensor) -> Tensor:
    if order == 0:
        return (log_p > -torch.inf).sum(-1).to(p.dtype).log() + 0 * p.sum(-1)  # the zero keeps it in the graph
    if order == 1:
        return shannon(log_p, p)
    if order == torch.inf:
        return 0 - log_p.amax(-1)
    if abs(order - 1) > 0.1:
        return (order * log_p).logsumexp(-1) / (1 - order)
    # Near 1 the logarithm of a sum near 1 is divided by a number near 0: take what exceeds 1 directly.
    excess = (p * ((order - 1) * log_p.masked_fill(p == 0, 0)).expm1()).sum(-1)
    return excess.log1p() / (1 - order)


def _token_index(tokens: Array | int, table: Tensor) -> Tensor:
    index, _ = tensor_of("tokens", tokens)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f"tokens must be integers; got dtype {index.dtype}")
    *leading, size = table.shape
    bad = (index < 0) | (index >= size)
    if bool(bad.any()):
        raise ValueError(f"tokens must be in 0 .. {size - 1}; got {int(index[bad].flatten()[0])}")
    try:
        return index.to(table.device, torch.int64).broadcast_to(leading)
    except RuntimeError:
        raise ValueError(f"tokens must have shape {tuple(leading)}, one a row; got {tuple(index.shape)}") from None


def _unitless(result: Tensor, numpy: bool, axis: int, keepdims: bool, base: float | None) -> Array:
    return give(result, numpy, axis, keepdims, base, power=0)
