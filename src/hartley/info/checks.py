"""Errors that name the argument, the offending value or row, and what is allowed."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")


def row_name(bad: Tensor) -> str:
    """Name the first row that ``bad`` marks, and say how many more there are.

    ``bad`` is a bool tensor of the leading shape; a single distribution (0-d) needs no name.

    >>> row_name(torch.tensor([False, True, True]))
    ' in row 1 (and 1 more)'
    >>> row_name(torch.tensor(True))
    ''
    """
    if bad.ndim == 0:
        return ""
    index = [int(i) for i in bad.nonzero()[0]]
    more = int(bad.sum()) - 1
    return f" in row {index[0] if len(index) == 1 else tuple(index)}" + (f" (and {more} more)" if more else "")


def check_exactly_one(**given: Value | None) -> tuple[str, Value]:
    """Return the name and value of the one argument that is not None.

    Raises: ``ValueError`` when none or several are given, naming them.

    >>> check_exactly_one(logits=None, probs=0.5)
    ('probs', 0.5)
    """
    present = [(name, value) for name, value in given.items() if value is not None]
    if len(present) != 1:
        got = " and ".join(f"{name}=" for name, _ in present) or "none"
        raise ValueError(f"give exactly one of {', '.join(f'{name}=' for name in given)}; got {got}")
    return present[0]


def check_positive(name: str, value: Any) -> None:
    """Refuse a scalar, or a tensor of one value per row, that is not finite and above 0.

    Raises: ``ValueError`` naming argument, value and row; ``TypeError`` for what is no number.

    >>> check_positive("temperature", -1.0)
    Traceback (most recent call last):
    ValueError: temperature must be finite and above 0; got -1.0
    """
    _require(name, value, "finite and above 0", lambda x: (x > 0) & (x < torch.inf))


def check_non_negative(name: str, value: Any) -> None:
    """Refuse a scalar, or a tensor of one value per row, that is not finite and at least 0.

    Errors as `check_positive`.
    """
    _require(name, value, "finite and at least 0", lambda x: (x >= 0) & (x < torch.inf))


def check_fraction(name: str, value: Any) -> None:
    """Refuse a scalar, or a tensor of one value per row, outside (0, 1]; errors as `check_positive`.

    >>> check_fraction("top_p", torch.tensor([0.9, 1.5]))
    Traceback (most recent call last):
    ValueError: top_p must be in (0, 1]; got 1.5 in row 1
    """
    _require(name, value, "in (0, 1]", lambda x: (x > 0) & (x <= 1))


def check_count(name: str, value: Any) -> None:
    """Refuse a scalar, or a tensor of one value per row, that is not a whole number of at least 1.

    Raises: ``ValueError`` naming argument, value and row; ``TypeError`` for what is no integer.

    >>> check_count("top_k", 0)
    Traceback (most recent call last):
    ValueError: top_k must be a whole number of at least 1; got 0
    """
    if _numbers(name, value).is_floating_point():
        raise TypeError(f"{name} must be a whole number of at least 1; got {value!r}")
    _require(name, value, "a whole number of at least 1", lambda x: x >= 1)


def check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value that is not one of a few.

    >>> check_one_of("rule", "papers", ("paper", "partial"))
    Traceback (most recent call last):
    ValueError: rule must be one of 'paper', 'partial'; got 'papers'
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_base(base: float | None) -> None:
    """Refuse a base of logarithms that is not finite and above 1; None stands for e (nats)."""
    if base is not None:
        _require("base", base, "None (nats) or a number above 1 (2 = bits)", lambda x: (x > 1) & (x < torch.inf))


def check_axis(axis: int, ndim: int, name: str) -> None:
    """Refuse an axis that the array called ``name`` does not have."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of range: {name} has {ndim} dimension{'s' * (ndim != 1)}")


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """Refuse NaN, +inf and rows of nothing but -inf.

    Shape: ``logits`` [..., V], V at least 1, floating point; -inf marks a removed token and is legal. One pass.
    Raises: ``ValueError`` naming the row, and for NaN and +inf the place in it; ``TypeError`` for integers.

    >>> check_logits(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]))
    Traceback (most recent call last):
    ValueError: logits must be finite or -inf; got NaN at index 0 in row 1
    """
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {logits.dtype}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must hold at least one value a row; got shape {tuple(logits.shape)}")
    top = logits.detach().amax(-1)  # NaN if any is NaN, +inf if any is +inf, -inf if all are
    if bool(top.isfinite().all()):
        return
    for bad, what in ((top.isnan(), "NaN"), (top.isposinf(), "+inf")):
        if bool(bad.any()):
            row = logits[bad][0]
            at = int((row.isnan() if what == "NaN" else row.isposinf()).nonzero()[0])
            raise ValueError(f"{name} must be finite or -inf; got {what} at index {at}{row_name(bad)}")
    raise ValueError(f"{name} must leave at least one token above -inf; got nothing but -inf{row_name(top.isneginf())}")


def check_tokens(name: str, tokens: Tensor, size: int, counted: Tensor | None = None) -> None:
    """Refuse tokens outside a vocabulary of ``size``, and with ``TypeError`` those that are no integers.

    ``counted`` is bool, in the shape of the tokens: the others may hold anything.

    >>> check_tokens("labels", torch.tensor([0, 9]), 9)
    Traceback (most recent call last):
    ValueError: labels must be in 0 .. 8; got 9 in row 1
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"{name} must be integers; got {tokens.dtype}")
    bad = (tokens < 0) | (tokens >= size)
    if counted is not None:
        bad &= counted
    if bool(bad.any()):
        raise ValueError(f"{name} must be in 0 .. {size - 1}; got {int(tokens[bad][0])}{row_name(bad)}")


def check_named_tokens(name: str, tokens: Tensor, log_probs: Tensor, size: int, counted: Tensor | None = None) -> None:
    """Refuse ``tokens [..., K]`` of a vocabulary and their ``log_probs`` (nats) that are no part of a distribution.

    Tokens lie in 0 .. size - 1 and differ, but where the log-probability is -inf; probabilities sum to at most 1 and a
    thousandth, as what servers send is rounded. ``counted`` is bool ``[...]``: the other rows may hold anything. Raises
    ``ValueError`` naming the row; ``TypeError`` for other kinds.

    >>> check_named_tokens("teacher", torch.tensor([[4, 4]]), torch.tensor([[-1.0, -2.0]]), 9)
    Traceback (most recent call last):
    ValueError: teacher's tokens must differ; got 4 twice in row 0
    """
    if not log_probs.is_floating_point():
        raise TypeError(f"{name}'s log_probs must be floating point; got {log_probs.dtype}")
    if counted is not None:
        tokens = tokens.masked_fill(~counted[..., None], 0)
        log_probs = log_probs.masked_fill(~counted[..., None], -torch.inf)
    check_tokens(f"{name}'s tokens", tokens, size)
    listed = tokens.masked_fill(log_probs.isneginf(), -1).sort(-1).values
    twice = (listed[..., 1:] == listed[..., :-1]) & (listed[..., 1:] >= 0)
    if bool(twice.any()):
        again = int(listed[..., 1:][twice][0])
        raise ValueError(f"{name}'s tokens must differ; got {again} twice{row_name(twice.any(-1))}")
    mass = log_probs.double().exp().sum(-1)
    over = ~(mass <= 1 + 1e-3)
    if bool(over.any()):
        raise ValueError(
            f"{name}'s probabilities must sum to at most 1; got {float(mass[over][0]):.6g}{row_name(over)}"
        )


def _numbers(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | np.generic | np.ndarray):
        raise TypeError(f"{name} must be a number, or a tensor of one number per row; got {value!r}")
    return torch.as_tensor(value)


def _require(name: str, value: Any, allowed: str, good: Callable[[Tensor], Tensor]) -> None:
    numbers = _numbers(name, value)
    bad = ~good(numbers)
    if bool(bad.any()):
        raise ValueError(f"{name} must be {allowed}; got {numbers[bad].flatten()[0].item()}{row_name(bad)}")
