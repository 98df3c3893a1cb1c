"""TopKLD: the forward KL where a sampler looks, in the teacher's top k, and the reverse KL in the rest.

The paper's equations were not available to us. Its plain form, the default here, is a reconstruction from the abstract
and the public reviews.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hartley.info.checks import check_count, check_logits, check_named_tokens, check_one_of, check_positive
from hartley.info.divergences import kl_terms
from hartley.training.losses.rows import (
    IGNORE,
    Reduction,
    check_rows_shape,
    checked_rows,
    kept_rows,
    pair_rows,
    reduce_rows,
    take_rows,
)

Form = Literal["plain", "generalized", "grouped"]
Direction = Literal["forward", "reverse"]


def topkld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    k: int | None = None,
    teacher_topk: tuple[Tensor, Tensor] | None = None,
    temperature: float = 1.0,
    form: Form = "plain",
    head: Direction = "forward",
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return sum p ln(p / q) over the teacher's top k (the head) plus sum q ln(q / p) over the rest (the tail).

    p is the teacher, q the student. k = V gives the forward KL(teacher || student), k = 0 the reverse one.

    Parameters
    ----------
    student_logits, teacher_logits
        [..., V], the same V. A token that the teacher removes (-inf) is removed from the student too. No gradient goes
        to the teacher, nor through the choice of the head.
    labels, mask, ignore_index, reduction
        As in `forward_kl_loss`.
    k
        Tokens in the head, at least 0; of equal ones the lower id. The paper's is unknown; its model samples from the
        top 900 of 4,096.
    teacher_topk
        Instead of ``teacher_logits`` and ``k``: ids [..., K] and their log-probabilities [..., K], as servers return
        them. They are the head; the rest is one lumped outcome, whose split the loss then does not see.
    temperature
        Divides both logits, but not the log-probabilities of ``teacher_topk``. No factor ``temperature ** 2``.
    form
        "plain" is the sum above. It is not a divergence: it can be negative, and pulls mass into the head even where
        p = q. "generalized" adds (q - p) to each head term and (p - q) to each tail term: every term is at least 0, and
        all are only at p = q. "grouped" is the forward KL of the head renormalised + the reverse KL of the tail
        renormalised + KL of (head, tail) masses; a divergence too, with an empty group counted as 0.
    head
        "reverse" swaps the two directions. In the plain form it drives mass out of the head.

    Returns
    -------
    Nats, float32 (float64 where the logits are); inf where the student removes a token that a forward term needs.

    Raises
    ------
    ValueError, TypeError
        As `forward_kl_loss`; also for neither or both teachers, and for ids or log-probabilities that are no top of a
        distribution over V.

    >>> p, q = torch.tensor([[0.5, 0.3, 0.15, 0.05]]), torch.tensor([[0.4, 0.4, 0.1, 0.1]])
    >>> topkld_loss(q.log(), p.log(), k=1)
    tensor(0.2554)
    >>> topkld_loss(q.log(), p.log(), k=1, form="generalized")
    tensor(0.0554)
    >>> topkld_loss(q.log(), teacher_topk=(torch.tensor([[0]]), p.log()[:, :1]), form="generalized")
    tensor(0.0210)

    Source: Ding et al. 2025, "Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative Models", arXiv
    2501.06218; reconstructed.
    """
    check_positive("temperature", temperature)
    check_one_of("form", form, get_args(Form))
    check_one_of("head", head, get_args(Direction))
    if teacher_topk is None:
        if teacher_logits is None or k is None:
            raise ValueError("give teacher_logits= and k=, or teacher_topk=; got neither in full")
        if k != 0:
            check_count("k", k)
        rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
        inside = _top(rows.teacher, k)
        removed = rows.teacher == -torch.inf
        p, q = (rows.teacher / temperature).log_softmax(-1), rows.student / temperature
        q = q.masked_fill(removed, -torch.inf)
        check_logits(q, "student_logits, without what teacher_logits removes,")
        return rows.reduce(_topkld(p, q.log_softmax(-1), inside, form, head == "forward"), reduction)
    if teacher_logits is not None or k is not None:
        raise ValueError("give teacher_logits= and k=, or teacher_topk= alone; got both")
    check_rows_shape("student_logits", student_logits)
    kept = kept_rows(student_logits, labels, mask=mask, ignore_index=ignore_index, name="student_logits")
    p, q = _lumped(checked_rows(student_logits, kept, "student_logits") / temperature, kept, *teacher_topk)
    inside = torch.arange(p.shape[-1], device=p.device).expand_as(p) < p.shape[-1] - 1
    return reduce_rows(_topkld(p, q, inside, form, head == "forward"), kept, reduction)


class TopKLDLoss(nn.Module):
    """`topkld_loss` as a module; without ``k`` it takes ``teacher_topk``.

    >>> p, q = torch.tensor([[0.5, 0.3, 0.15, 0.05]]), torch.tensor([[0.4, 0.4, 0.1, 0.1]])
    >>> TopKLDLoss(k=2, form="generalized")(q.log(), p.log())
    tensor(0.0540)
    """

    def __init__(
        self,
        k: int | None = None,
        *,
        temperature: float = 1.0,
        form: Form = "plain",
        head: Direction = "forward",
        ignore_index: int = IGNORE,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.k, self.temperature, self.ignore_index = k, temperature, ignore_index
        self.form: Form = form
        self.head: Direction = head
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        teacher_topk: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the loss of the rows that count."""
        return topkld_loss(
            student_logits,
            teacher_logits,
            labels,
            k=self.k,
            teacher_topk=teacher_topk,
            temperature=self.temperature,
            form=self.form,
            head=self.head,
            mask=mask,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


def _topkld(log_p: Tensor, log_q: Tensor, inside: Tensor, form: Form, forward: bool) -> Tensor:
    """The losses [N] of log-probabilities [N, V] whose head is ``inside``, forward there or in the tail."""
    p, q = log_p.exp(), log_q.exp()
    ahead = inside if forward else ~inside  # where KL(teacher || student) is taken
    excluded = torch.where(ahead, (p > 0) & (log_q == -torch.inf), (q > 0) & (log_p == -torch.inf)).any(-1)
    if form == "grouped":
        loss = _grouped(log_p, log_q, inside, forward)
    else:
        terms = torch.where(ahead, kl_terms(p, log_p, q, log_q), kl_terms(q, log_q, p, log_p))
        loss = terms.sum(-1)
        if form == "plain":  # without (q - p) ahead and (p - q) elsewhere, which are equal in sum
            loss = loss + 2 * ((p - q) * ahead).sum(-1)
    return loss.masked_fill(excluded, torch.inf)


def _grouped(log_p: Tensor, log_q: Tensor, inside: Tensor, forward: bool) -> Tensor:
    loss = log_p.new_zeros(len(log_p))
    masses: list[tuple[Tensor, Tensor]] = []
    for group, ahead in ((inside, forward), (~inside, not forward)):
        within_p, log_mass_p = _within(log_p, group)
        within_q, log_mass_q = _within(log_q, group)
        pair = (within_p.exp(), within_p, within_q.exp(), within_q)
        terms = kl_terms(*pair) if ahead else kl_terms(*pair[2:], *pair[:2])
        loss = loss + terms.sum(-1)
        masses.append((log_mass_p, log_mass_q))
    log_p, log_q = (torch.stack(both, -1) for both in zip(*masses, strict=True))
    loss = loss + kl_terms(log_p.exp(), log_p, log_q.exp(), log_q).sum(-1)
    return loss.masked_fill(((log_p > -torch.inf) & (log_q == -torch.inf)).any(-1), torch.inf)


def _within(log_probs: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities inside a group [N, V], -inf elsewhere, and the log of its mass [N]; all -inf if it has none."""
    logits = log_probs.masked_fill(~group, -torch.inf)
    some = (logits > -torch.inf).any(-1, keepdim=True)
    mass = torch.where(some, logits, 0).logsumexp(-1, keepdim=True)
    return logits - mass, torch.where(some, mass, -torch.inf).squeeze(-1)


def _top(logits: Tensor, k: int) -> Tensor:
    """Mark the k largest of each row [N, V]; of equal ones at the end, those with the lowest ids."""
    if k >= logits.shape[-1]:
        return torch.ones_like(logits, dtype=torch.bool)
    if k == 0:
        return torch.zeros_like(logits, dtype=torch.bool)
    last = logits.topk(k).values[:, -1:]
    above, level = logits > last, logits == last
    return above | (level & (level.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def _lumped(logits: Tensor, kept: Tensor, ids: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher and student [N, K + 1] over K named tokens and all the rest as one."""
    shape = kept.shape
    if ids.shape != log_probs.shape or ids.shape[:-1] != shape or ids.ndim != len(shape) + 1 or ids.shape[-1] == 0:
        got = f"{tuple(ids.shape)} and {tuple(log_probs.shape)}"
        raise ValueError(f"teacher_topk must be ids and log-probabilities, both {(*shape, 'K')}; got {got}")
    vocabulary = logits.shape[-1]
    check_named_tokens("teacher_topk", ids, log_probs.detach(), vocabulary, kept)
    ids, log_p = take_rows(ids, kept).long(), take_rows(log_probs.detach(), kept).to(logits.dtype)
    mass = log_p.exp().sum(-1)
    q = logits.log_softmax(-1)
    rest_q = q.scatter(-1, ids, -torch.inf)
    if ids.shape[-1] == vocabulary:
        rest_p = torch.full_like(mass, -torch.inf)
        rest_q = torch.full_like(mass, -torch.inf)
    else:
        rest_p = (1 - mass).clamp(min=torch.finfo(mass.dtype).eps).log()  # what rounding of the sum cannot tell from 0
        rest_q = _within(rest_q, torch.ones_like(rest_q, dtype=torch.bool))[1]
    return torch.cat([log_p, rest_p[:, None]], -1), torch.cat([q.gather(-1, ids), rest_q[:, None]], -1)
