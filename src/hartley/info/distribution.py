"""Read one distribution per row from the form the caller named, and hand the result back in the caller's kind."""

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hartley.info.checks import check_axis, check_base, check_exactly_one, check_logits, row_name

Array = TypeVar("Array", Tensor, NDArray[Any])

SUM_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""How far the sum of ``probs=``, or of exp(``log_probs=``), may be from 1, by dtype of the input.

The half-precision entries are what rounding the log-probabilities of a flat row over 10^5 tokens costs.
What is within the tolerance is rounding, and is removed by renormalising.
"""


class Rows(NamedTuple):
    """Distributions along the last axis, in float32 or float64; ``numpy`` says which kind the caller gave."""

    log_probs: Tensor  # [..., V], -inf where the probability is 0
    probs: Tensor  # [..., V]
    numpy: bool


def read(
    axis: int,
    *,
    logits: Array | None,
    log_probs: Array | None,
    probs: Array | None,
    counts: Array | None,
    prefix: str = "",
) -> Rows:
    """Return the distributions along ``axis``, moved to the last one; ``prefix`` leads the argument names in errors."""
    given = {"logits": logits, "log_probs": log_probs, "probs": probs, "counts": counts}
    name, value = check_exactly_one(**{prefix + form: value for form, value in given.items()})
    x, numpy = tensor_of(name, value)
    check_axis(axis, x.ndim, name)
    source, x = x.dtype, x.movedim(axis, -1)
    if x.shape[-1] == 0:
        raise ValueError(f"{name} must hold at least one value along axis {axis}; got shape {tuple(value.shape)}")
    return rows_of(name, x.to(working_dtype(source)), source, numpy)


def rows_of(name: str, x: Tensor, source: torch.dtype, numpy: bool) -> Rows:
    """Normalise ``x`` [..., V], already in its working dtype, as the form that ``name`` ends in."""
    form = name.removeprefix("q_")
    tolerance = SUM_TOLERANCE.get(source, SUM_TOLERANCE[torch.float64])
    if form in ("logits", "log_probs"):
        check_logits(x, name)
        if form == "log_probs":
            _check_sum(f"exp({name})", x.detach().logsumexp(-1).exp(), tolerance)
        return Rows(*normalised(x), numpy)
    _check_weights(name, x)
    total = x.sum(-1, keepdim=True)
    if form == "probs":
        _check_sum(name, total.detach().squeeze(-1), tolerance)
    p = x / total
    return Rows(safe_log(p), p, numpy)


def give(result: Tensor, numpy: bool, axis: int, keepdims: bool, base: float | None, power: int = 1) -> Any:
    """Convert nats**power to ``base``, put the axis back if it is to be kept, and return the caller's kind of array."""
    check_base(base)
    if base is not None:
        result = result / math.log(base) ** power
    if keepdims:
        result = result.unsqueeze(-1).movedim(-1, axis)
    return result.numpy()[()] if numpy else result  # [()]: a 0-d result becomes a NumPy scalar, as NumPy's own do


def tensor_of(name: str, value: Any) -> tuple[Tensor, bool]:
    """Return ``value`` as a real tensor that shares its memory where it can, and whether it was NumPy (or a list)."""
    if isinstance(value, Tensor):
        x, numpy = value, False
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{name} must be an array of real numbers (at most 64 bits); got dtype {array.dtype}")
        shareable = array.flags.writeable and array.flags.c_contiguous and all(stride >= 0 for stride in array.strides)
        x, numpy = torch.as_tensor(array if shareable else array.copy()), True
    if x.is_complex():
        raise TypeError(f"{name} must be an array of real numbers; got dtype {x.dtype}")
    return x, numpy


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is accumulated in float32, float32 in float32, all else (float64, integers) in float64."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float64


def safe_log(p: Tensor) -> Tensor:
    """Return ln p, -inf at 0, with gradient 0 there instead of infinity (a removed token stays removed)."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1).log(), -torch.inf)


def normalised(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and probabilities of each row [..., V].

    exp(log_softmax) would carry the rounding of one logarithm in every term alike: in float32 an error of H times 5e-7.
    """
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(-1, keepdim=True)
    return shifted - total.log(), weights / total


def shannon(log_probs: Tensor, probs: Tensor) -> Tensor:
    """Return the entropy in nats of each row [..., V], 0 log 0 = 0, with finite gradients."""
    return 0 - (probs * log_probs.masked_fill(probs == 0, 0)).sum(-1)  # 0 - x, so that 0 is not -0.0


def _check_weights(name: str, x: Tensor) -> None:
    weights = x.detach()
    low, total = weights.amin(-1), weights.sum(-1)
    if not bool(total.isfinite().all()):
        bad = ~total.isfinite()
        raise ValueError(f"{name} must be finite; got NaN or inf{row_name(bad)}")
    if bool((low < 0).any()):
        raise ValueError(f"{name} must not be negative; got {low[low < 0][0].item()}{row_name(low < 0)}")
    if bool((total == 0).any()):
        raise ValueError(f"{name} must not be all zero; got nothing but 0{row_name(total == 0)}")


def _check_sum(name: str, total: Tensor, tolerance: float) -> None:
    bad = (total - 1).abs() > tolerance
    if bool(bad.any()):
        raise ValueError(
            f"{name} must sum to 1 within {tolerance:g}; got {total[bad][0].item():.7g}{row_name(bad)}"
            " (for the top of a longer list see hartley.info.bounds; for unnormalised weights use counts=)"
        )
