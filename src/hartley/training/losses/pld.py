"""Plackett-Luce distillation: the true label first, then the teacher's order, each pick weighed by its confidence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hartley.info.checks import check_count, check_non_negative, check_positive, row_name
from hartley.training.losses.rows import (
    IGNORE,
    Reduction,
    check_rows_shape,
    checked_rows,
    kept_rows,
    pair_rows,
    reduce_rows,
    refuse_second_derivatives,
    take_rows,
)


def pld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return sum_k q[pi_k] (logsumexp of s over pi_k, pi_{k+1}, ... - s[pi_k]), pi = label, then the teacher's order.

    s are the student's logits and q = softmax(teacher / ``temperature``). It takes the place of a cross-entropy and its
    distillation term together: add neither, and no factor ``temperature ** 2``. Its scale is below a cross-entropy's
    (the first weight is below 1), so a learning rate tuned for one may be low. It has no finite minimum: margins grow
    as long as one trains, and the teacher's calibration is not passed on.

    Parameters
    ----------
    student_logits, teacher_logits
        [..., C], the same C. No gradient goes to the teacher. A class that the student removes (-inf) is as if it were
        not there; one that the teacher removes weighs 0 and comes last.
    labels
        [...] integers: the true class, or ``ignore_index`` for a row that does not count.
    temperature
        Softens the weights alone, never the student's logits or the order.
    top_k
        Count the first ``top_k`` picks only, without sorting the others: what is left out is the teacher's tail. None,
        or at least C, is exact.
    mask
        [...] bool: rows that count. One that selects nothing gives 0 with a gradient of 0.
    reduction
        "mean" over the rows that count, "sum", or "none": [...] with 0 in the rows that do not.

    Returns
    -------
    Nats weighed by probabilities, float32 (float64 where the student's logits are). It can be differentiated once.

    Raises
    ------
    ValueError
        For vocabularies that differ (it says how to align them), shapes that do not fit, labels outside 0..C-1 or
        removed by the student, a temperature not above 0, and a row that counts with NaN, +inf or nothing but -inf.
    TypeError
        For logits that are not floating point, labels that are not integers and a ``top_k`` that is no whole number.

    >>> student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> pld_loss(student, teacher, torch.tensor([1]))
    tensor(0.4289)

    Source: Bassam, Zhu & Bian 2025, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation".
    """
    check_positive("temperature", temperature)
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    student, teacher, first = rows.student, rows.teacher, take_rows(labels, rows.kept).long()
    if bool((student.detach().amin(-1) == -torch.inf).any()):
        removed = student.detach() == -torch.inf
        bad = removed.gather(1, first[:, None])[:, 0]
        if bool(bad.any()):
            raise ValueError(f"labels must be a class that the student allows; got one at -inf{_place(bad, rows.kept)}")
        teacher = teacher.masked_fill(removed, -torch.inf)
        bad = (teacher == -torch.inf).all(-1)
        if bool(bad.any()):
            raise ValueError(f"teacher_logits must allow a class that the student does{_place(bad, rows.kept)}")
    ranking = _teacher_order(teacher, first, top_k)
    scaled = teacher if temperature == 1 else teacher / temperature
    weights = (scaled.gather(1, ranking) - scaled.logsumexp(-1, keepdim=True)).exp()
    return rows.reduce(_PlackettLuce.apply(student, ranking, weights.to(student.dtype)), reduction)


class PLDLoss(nn.Module):
    """`pld_loss` as a module: ``PLDLoss(temperature=4.0)(student_logits, teacher_logits, labels)``.

    >>> PLDLoss()(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1]))
    tensor(0.4289)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        ignore_index: int = IGNORE,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.temperature, self.top_k, self.ignore_index = temperature, top_k, ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the rows that count."""
        return pld_loss(
            student_logits,
            teacher_logits,
            labels,
            temperature=self.temperature,
            top_k=self.top_k,
            mask=mask,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


def teacher_optimal_ranking(teacher_logits: Tensor, labels: Tensor, top_k: int | None = None) -> Tensor:
    """Return the label, then the other classes by falling teacher logit, ties by class: [..., K] int64.

    K is ``top_k``, or C with None. Shapes: ``teacher_logits`` [..., C], ``labels`` [...]. Raises as `pld_loss`.

    >>> teacher_optimal_ranking(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1]))
    tensor([[1, 2, 0]])
    """
    check_rows_shape("teacher_logits", teacher_logits)
    all_rows = kept_rows(teacher_logits, labels, ignore_index=-1, name="teacher_logits")
    teacher = checked_rows(teacher_logits.detach(), all_rows, "teacher_logits")
    ranking = _teacher_order(teacher, labels.reshape(-1).long(), top_k)
    return ranking.reshape(*labels.shape, -1)


def plackett_luce_loss(
    scores: Tensor,
    ranking: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return sum_k w_k (logsumexp of the scores not ranked before k - the k-th one's score): ListMLE with weights 1.

    Shapes: ``scores`` [..., C]; ``ranking`` [..., K] integers, K at most C, no class twice (those not ranked come
    after all that are); ``weights`` [..., K] or [K], without a gradient; ``mask`` [...] bool, the rows that count. A
    score of -inf is a class that is not there, so lists of several lengths are padded with it. Nats; reduced as in
    `pld_loss`; differentiable once in the scores. Raises ``ValueError`` for shapes that do not fit, places outside
    0..C-1 or twice in a row, and a row that counts with NaN, +inf or nothing but -inf.

    >>> plackett_luce_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 0]))
    tensor(1.5345)

    Source: Xia et al. 2008, "Listwise Approach to Learning to Rank".
    """
    check_rows_shape("scores", scores)
    kept = kept_rows(scores, mask=mask, name="scores")
    taken = checked_rows(scores, kept, "scores")
    picks = take_rows(_checked_ranking(ranking, scores, kept), kept)
    if weights is None:
        weighed = torch.ones_like(picks, dtype=taken.dtype)
    elif weights.shape in (ranking.shape, ranking.shape[-1:]):
        check_non_negative("weights", weights)
        weighed = take_rows(weights.detach().to(taken).expand(ranking.shape), kept)
    else:
        wanted = f"{tuple(ranking.shape)}, or that of one list, {tuple(ranking.shape[-1:])}"
        raise ValueError(f"weights must have the shape of ranking, {wanted}; got {tuple(weights.shape)}")
    return reduce_rows(_PlackettLuce.apply(taken, picks, weighed), kept, reduction)


def plackett_luce_log_prob(scores: Tensor, ranking: Tensor) -> Tensor:
    """Return the log-probability, nats [...], that drawing without replacement from softmax(scores) gives ``ranking``.

    Shapes, errors and gradient as `plackett_luce_loss`; a ``ranking`` [..., K] shorter than C is the first K draws.

    >>> plackett_luce_log_prob(torch.zeros(3), torch.tensor([2, 0])).exp()
    tensor(0.1667)

    Source: Plackett 1975, "The Analysis of Permutations".
    """
    return -plackett_luce_loss(scores, ranking, reduction="none")


def plackett_luce_sample(scores: Tensor, generator: torch.Generator | None = None, top_k: int | None = None) -> Tensor:
    """Draw classes without replacement from softmax(scores), [..., K] int64; K is ``top_k``, or C with None.

    Shape: ``scores`` [..., C]. Classes at -inf come last, in no order. Raises as `plackett_luce_loss`.

    >>> plackett_luce_sample(torch.tensor([0.0, 100.0, 50.0]), torch.Generator().manual_seed(0))
    tensor([1, 2, 0])

    Source: the scores plus Gumbel noise, sorted (Yellott 1977).
    """
    check_rows_shape("scores", scores)
    checked = checked_rows(scores.detach(), kept_rows(scores), "scores").reshape(scores.shape)
    k = _depth(top_k, scores.shape[-1])
    # -log of an exponential is a Gumbel variable; at 0 it would be inf, and NaN for a class at -inf
    noise = torch.empty_like(checked).exponential_(generator=generator).clamp_(min=torch.finfo(checked.dtype).tiny)
    return (checked - noise.log_()).topk(k).indices


def _teacher_order(teacher: Tensor, labels: Tensor, top_k: int | None) -> Tensor:
    """The first K places of the order for rows [N, C]; only a tie across the K-th place needs a whole sort."""
    k = _depth(top_k, teacher.shape[1])
    teacher = teacher.scatter(1, labels[:, None], torch.inf)
    if k == teacher.shape[1]:
        return _falling(teacher)
    values, found = teacher.topk(k + 1, dim=1)
    found = found[:, :k].sort(dim=1).values  # by class, so that a stable sort by value leaves ties so
    found = found.gather(1, _falling(teacher.gather(1, found)))
    torn = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)  # what is removed weighs 0 in any order
    if bool(torn.any()):
        found[torn] = _falling(teacher[torn])[:, :k]
    return found


def _falling(values: Tensor) -> Tensor:
    return values.sort(dim=1, descending=True, stable=True).indices


def _depth(top_k: int | None, classes: int) -> int:
    if top_k is None:
        return classes
    check_count("top_k", top_k)
    return min(top_k, classes)


def _checked_ranking(ranking: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
    classes = scores.shape[-1]
    if ranking.is_floating_point() or ranking.is_complex() or ranking.dtype == torch.bool:
        raise TypeError(f"ranking must be integers; got {ranking.dtype}")
    if ranking.shape[:-1] != scores.shape[:-1] or ranking.ndim == 0 or not 1 <= ranking.shape[-1] <= classes:
        wanted = f"[..., K] with the leading shape of scores, {tuple(scores.shape[:-1])}, and K in 1..{classes}"
        raise ValueError(f"ranking must be {wanted}; got shape {tuple(ranking.shape)}")
    bad = kept & ((ranking < 0) | (ranking >= classes)).any(-1)
    if bool(bad.any()):
        raise ValueError(f"ranking must hold classes in 0..{classes - 1}; got others{row_name(bad)}")
    inside = ranking.long().clamp(0, classes - 1)
    seen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(-1, inside, True)
    bad = kept & (seen.sum(-1) < ranking.shape[-1])
    if bool(bad.any()):
        raise ValueError(f"ranking must hold no class twice; got one twice{row_name(bad)}")
    return inside


def _place(bad: Tensor, kept: Tensor) -> str:
    """Name the first bad one of the rows that count by its place among all."""
    return row_name(torch.zeros_like(kept).masked_scatter(kept, bad))


class _PlackettLuce(torch.autograd.Function):
    """The losses of scores [N, C], each suffix sum taken once; K-long scans and no copy of the scores kept.

    With Z_k the sum of exp(s) over what is not picked before k, dL/ds_i = exp(s_i) sum_{k<=r(i)} w_k / Z_k - w_r(i),
    where r(i) is the place of i, and the sum runs to K and the last term is missing where i is not picked.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, ranking: Tensor, weights: Tensor) -> Tensor:
        picked = scores.gather(1, ranking)
        suffixes = picked.flip(1)
        if ranking.shape[1] < scores.shape[1]:
            rest = scores.scatter(1, ranking, -torch.inf).logsumexp(-1, keepdim=True)
            suffixes = torch.cat([rest, suffixes], 1)
        log_z = suffixes.logcumsumexp(1).flip(1)[:, : ranking.shape[1]]
        weights = weights.masked_fill(picked == -torch.inf, 0)  # not there
        ctx.save_for_backward(scores, ranking, weights, log_z)
        return (weights * torch.where(weights == 0, 0, log_z - picked)).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        refuse_second_derivatives("a Plackett-Luce loss")
        scores, ranking, weights, log_z = ctx.saved_tensors
        rate = torch.where(weights == 0, -torch.inf, weights.log() - log_z).logcumsumexp(1)
        grad = (scores + rate[:, -1:]).exp_()
        grad.scatter_(1, ranking, (scores.gather(1, ranking) + rate).exp_().sub_(weights))
        return grad.mul_(grad_outputs[0][:, None]), None, None
