"""What a model says of tokens that were written: surprisal, entropy, varentropy and the cumulants of the surprisal."""

import functools
import os
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import check_logits
from hartley.info.kernels import cumulants_reference
from hartley.info.kernels.compiling import announced

CHUNK = 1 << 22  # logits looked at together, so that the definition, in float64, needs little memory beside them

_lock = threading.Lock()


class Cumulants(NamedTuple):
    """One row for each of N written tokens, float64 since they are summed along a text."""

    surprisal: Tensor  # [N], nats: -ln p(token), inf where it was removed
    entropy: Tensor  # [N], nats: the surprisal's mean
    varentropy: Tensor  # [N], nats^2: its variance
    functions: Tensor  # [N, P], nats: ln E[exp(lambda * surprisal)] = ln sum p^(1 - lambda), for each lambda


def token_cumulants(logits: Tensor, tokens: Tensor, lambdas: Sequence[float] = ()) -> Cumulants:
    """Return the surprisal of each written token, and its mean, variance and cumulant functions before it was written.

    Parameters
    ----------
    logits
        ``[N, V]``, floating point: row n is the distribution that token n was to be drawn from; -inf is a removed
        token. Half precision is read as float32.
    tokens
        ``[N]``, integers in 0 .. V-1.
    lambdas
        P numbers below 1.

    Returns
    -------
    :class:`Cumulants`, in nats, float64. Float32 logits in main memory take one fused pass, right to about 1e-6.

    Raises
    ------
    ValueError
        A shape, token or lambda that is not so; a row with NaN, +inf or nothing but -inf, which is named.
    TypeError
        Logits or tokens of another kind.

    >>> found = token_cumulants(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]), [0.5])
    >>> [round(float(part), 4) for part in (found.surprisal, found.entropy, found.varentropy)]
    [0.6931, 1.0397, 0.1201]
    >>> round(float(found.functions.exp()), 4)  # sqrt(1/2) + 2 sqrt(1/4)
    1.7071
    """
    _check(logits, tokens, lambdas)
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    logits, tokens = logits.detach(), tokens.to(logits.device, torch.int64)
    size, values = logits.shape[1], torch.tensor(list(lambdas), dtype=torch.float64)
    step = max(1, CHUNK // size)
    kernels = _kernels_for(logits)
    parts: list[tuple[Tensor, Tensor]] = []
    for begin in range(0, logits.shape[0], step):
        chunk = logits[begin : begin + step]
        found = kernels.cumulants(chunk, tokens[begin : begin + step], values)
        if bool(found[0][1].isnan().any()):
            check_logits(logits)
        parts.append(found)
    if not parts:
        nothing = torch.zeros(0, dtype=torch.float64)
        return Cumulants(nothing, nothing, nothing, torch.zeros(0, len(values), dtype=torch.float64))
    surprisal, entropy, varentropy = torch.cat([part[0] for part in parts], 1)
    return Cumulants(surprisal, entropy, varentropy, torch.cat([part[1] for part in parts]))


def _kernels_for(logits: Tensor) -> ModuleType:
    fast = logits.device.type == "cpu" and logits.dtype is torch.float32
    if fast and os.environ.get("HARTLEY_KERNELS") != "reference":
        return _compiled()
    return cumulants_reference


@functools.cache
def _compiled() -> ModuleType:
    with _lock, announced("the kernel that reads texts"):
        from hartley.info.kernels import cumulants_cpu

        cumulants_cpu.cumulants(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    return cumulants_cpu


def _check(logits: Tensor, tokens: Tensor, lambdas: Sequence[float]) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point; got {logits.dtype}")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens must be integers; got {tokens.dtype}")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must have shape [N, V] with at least one token; got {tuple(logits.shape)}")
    if tokens.shape != logits.shape[:1]:
        raise ValueError(f"tokens must have shape {tuple(logits.shape[:1])}, one a row; got {tuple(tokens.shape)}")
    outside = (tokens < 0) | (tokens >= logits.shape[1])
    if bool(outside.any()):
        raise ValueError(f"tokens must be in 0 .. {logits.shape[1] - 1}; got {int(tokens[outside][0])}")
    for value in lambdas:
        if not -1e3 < value < 1:
            raise ValueError(f"lambdas must be below 1 and above -1000; got {value}")
