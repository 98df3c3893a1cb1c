"""What every loss over rows of logits shares: which rows count, what does not fit, and how row losses are reduced."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hartley.info.checks import check_logits, check_one_of, row_name
from hartley.info.distribution import working_dtype

Reduction = Literal["mean", "sum", "none"]
IGNORE = -100  # the label of a row that does not count, as in torch and transformers


class Rows(NamedTuple):
    """The N rows that count, of a leading shape [...] that was flattened."""

    student: Tensor  # [N, V], float32 or float64
    teacher: Tensor  # [N, V], float32 or float64, without a gradient
    labels: Tensor | None  # [N] int64
    kept: Tensor  # [...] bool: which rows these are

    def reduce(self, losses: Tensor, reduction: Reduction) -> Tensor:
        """Reduce ``losses`` [N] as `reduce_rows` does."""
        return reduce_rows(losses, self.kept, reduction)


def pair_rows(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Rows:
    """Return the rows of a student and a teacher that count, checked, in float32 (float64 where they were).

    Shapes: both logits [..., V], ``labels`` [...] integers, ``mask`` [...] bool. A row counts where ``mask`` is True
    and its label is not ``ignore_index``; what does not count may hold anything, NaN too, and gets a gradient of 0.

    Raises ``ValueError`` for vocabularies, leading shapes, labels or masks that do not fit, and for a row that counts
    with NaN, +inf or nothing but -inf (which it names); ``TypeError`` for logits that are no floating point numbers and
    for labels that are no integers.

    >>> rows = pair_rows(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5), torch.tensor([[0, 4, -100], [1, -100, -100]]))
    >>> tuple(rows.student.shape), rows.labels
    ((3, 5), tensor([0, 4, 1]))
    """
    check_same_vocabulary(student_logits, teacher_logits)
    kept = kept_rows(student_logits, labels, mask=mask, ignore_index=ignore_index, name="student_logits")
    student, teacher = (
        checked_rows(logits, kept, name)
        for logits, name in ((student_logits, "student_logits"), (teacher_logits.detach(), "teacher_logits"))
    )
    return Rows(student, teacher, None if labels is None else take_rows(labels, kept).long(), kept)


def check_same_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse a student and a teacher whose shapes differ, saying how vocabularies are aligned.

    >>> check_same_vocabulary(torch.zeros(2, 50), torch.zeros(2, 64))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: student_logits and teacher_logits must have the same vocabulary; got 50 and 64: ...
    """
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_rows_shape(name, logits)
    ours, theirs = student_logits.shape[-1], teacher_logits.shape[-1]
    if ours != theirs:
        raise ValueError(
            f"student_logits and teacher_logits must have the same vocabulary; got {ours} and {theirs}: where one's "
            f"ids begin the other's (padded embeddings) cut both to logits[..., :{min(ours, theirs)}], otherwise "
            "select the tokens that both have, in one order, with logits[..., ids]"
        )
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape[:-1])} and {tuple(teacher_logits.shape[:-1])}"
        raise ValueError(f"student_logits and teacher_logits must have the same leading shape; got {shapes}")


def check_rows_shape(name: str, logits: Tensor) -> None:
    """Refuse what is no floating point tensor [..., V] with V at least 1."""
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {logits.dtype}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must hold at least one value a row; got shape {tuple(logits.shape)}")


def kept_rows(
    logits: Tensor,
    labels: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    name: str = "logits",
    labels_name: str = "labels",
) -> Tensor:
    """Return which rows of ``logits`` [..., V] count, bool [...].

    They are those in ``mask`` whose label is not ``ignore_index``.

    Raises ``ValueError`` for a mask or labels of another leading shape, for a mask that is not bool, and for a label
    outside 0..V-1 in a row that counts; ``TypeError`` for labels that are no integers.

    >>> kept_rows(torch.zeros(3, 5), torch.tensor([4, -100, 0]), mask=torch.tensor([True, True, False]))
    tensor([ True, False, False])
    """
    shape = logits.shape[:-1]
    kept = torch.ones(shape, dtype=torch.bool, device=logits.device)
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != shape:
            raise ValueError(
                f"mask must be bool with the leading shape of {name}, {tuple(shape)}; "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        kept = mask
    if labels is not None:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"{labels_name} must be integers; got {labels.dtype}")
        if labels.shape != shape:
            raise ValueError(
                f"{labels_name} must have the leading shape of {name}, {tuple(shape)}; got shape {tuple(labels.shape)}"
            )
        kept = kept & (labels != ignore_index)
        bad = kept & ((labels < 0) | (labels >= logits.shape[-1]))
        if bool(bad.any()):
            allowed = f"0..{logits.shape[-1] - 1}, or {ignore_index} for a row that does not count"
            raise ValueError(f"{labels_name} must be in {allowed}; got {int(labels[bad][0])}{row_name(bad)}")
    return kept


def take_rows(values: Tensor, kept: Tensor) -> Tensor:
    """Return ``values`` [..., *rest] at the rows that count, [N, *rest]; copied only where some do not.

    >>> take_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([False, True]))
    tensor([[3., 4.]])
    """
    return values.reshape(-1, *values.shape[kept.ndim :]) if bool(kept.all()) else values[kept]


def checked_rows(logits: Tensor, kept: Tensor, name: str) -> Tensor:
    """Return the rows of ``logits`` [..., V] that count, [N, V], in their working dtype, each a distribution."""
    taken = take_rows(logits, kept)
    try:
        check_logits(taken, name)
    except ValueError:
        check_logits(torch.where(kept[..., None], logits, 0), name)  # again, to name the row by the caller's place
        raise
    return taken.to(working_dtype(taken.dtype))


def reduce_rows(losses: Tensor, kept: Tensor, reduction: Reduction) -> Tensor:
    """Reduce the ``losses`` [N] of the rows that count, which ``kept`` [...] marks.

    "mean" is over the rows that count, "none" gives [...] with 0 in the others. Without any row that counts the result
    is 0, with a gradient of 0. Raises ``ValueError`` for another reduction.

    >>> reduce_rows(torch.tensor([1.0, 3.0]), torch.tensor([True, False, True]), "none")
    tensor([1., 0., 3.])
    """
    check_one_of("reduction", reduction, get_args(Reduction))
    if reduction == "none":
        return torch.zeros_like(kept, dtype=losses.dtype).masked_scatter(kept, losses)
    return losses.sum() / max(1, len(losses)) if reduction == "mean" else losses.sum()


def refuse_second_derivatives(what: str) -> None:
    """For a backward with a formula of its own: refuse to be differentiated, which would silently give 0."""
    if torch.is_grad_enabled():  # as it is in a backward with create_graph=True alone
        raise RuntimeError(f"{what} can be differentiated once; got create_graph=True")
