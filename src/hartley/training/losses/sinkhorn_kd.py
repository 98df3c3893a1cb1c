"""SinKD: distil by the transport distance between the batch's set of student distributions and the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hartley.info.checks import check_non_negative, check_one_of, check_positive
from hartley.info.divergences import cross_entropy
from hartley.info.processes import all_processes
from hartley.info.processes import gather as gathered
from hartley.info.transport import sinkhorn_distance
from hartley.training.losses.rows import IGNORE, pair_rows


def sinkhorn_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 2.0,
    eps: float = 0.1,
    n_iters: int = 20,
    weight: float = 8e-4,
    through_plan: bool = True,
    debias: bool = False,
    gather: bool = False,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Return ``weight`` times the Sinkhorn distance of the N student distributions from the N teacher distributions.

    The cost of a pair is the L1 distance of its two softened rows, so the sum is between 0 and 2 N. The plan pairs
    whichever rows are alike: permuting the teacher's rows changes nothing. The loss alone therefore teaches no task;
    add a cross-entropy or a KL divergence (`SinKDLoss` does).

    Parameters
    ----------
    student_logits, teacher_logits
        [..., V], the same V; all rows that count form one set. No gradient goes to the teacher.
    labels, mask, ignore_index
        Which rows count, as in `forward_kl_loss`. None that does gives 0 with a gradient of 0.
    temperature
        Divides both logits (the paper's code has 2).
    eps, n_iters, through_plan
        As in `hartley.info.sinkhorn_distance`.
    weight
        Of the sum. The paper's text says 0.8, its code multiplies that by a hidden 0.001: 8e-4.
    debias
        Subtract half the distance of each set from itself, which eps keeps above 0. Then equal sets are at 0; other
        sets can come out slightly below it. Not the paper's.
    gather
        Form the sets over all processes of ``torch.distributed`` (without a process group there is one). Each process
        returns the loss of all, and its gradients, averaged over processes as data-parallel training does, are those
        of that loss.
    reduction
        "sum" over rows, the paper's, whose size grows with N; "mean" divides by N: for the paper's batch of 16,
        ``weight=0.0128`` is then the same. There is no "none": the distance belongs to the set.

    Raises
    ------
    ValueError, TypeError
        As `forward_kl_loss`; also for settings that `sinkhorn_distance` refuses.

    >>> teacher, student = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.3, 0.7], [0.8, 0.2]])
    >>> sinkhorn_kd_loss(student.log(), teacher.log(), temperature=1.0, weight=1.0)
    tensor(0.4001)

    Source: Cui et al. 2024, "SinKD: Sinkhorn Distance Minimization for Knowledge Distillation", arXiv 2402.17110.
    """
    check_positive("temperature", temperature)
    check_non_negative("weight", weight)
    check_one_of("reduction", reduction, ("sum", "mean"))
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    student, teacher = ((logits / temperature).softmax(-1) for logits in (rows.student, rows.teacher))
    if gather:
        student, teacher = _from_all(student), _from_all(teacher)
    count = len(student)
    if count == 0:
        return student.sum()

    def distance(p: Tensor, q: Tensor) -> Tensor:
        return sinkhorn_distance(p, q, eps=eps, n_iters=n_iters, through_plan=through_plan)

    loss = distance(student, teacher)
    if debias:
        loss = loss - (distance(student, student) + distance(teacher, teacher)) / 2
    return weight * (loss if reduction == "sum" else loss / count)


class SinkhornKDLoss(nn.Module):
    """`sinkhorn_kd_loss` as a module.

    >>> loss = SinkhornKDLoss(reduction="mean", weight=0.0128)
    >>> loss(torch.zeros(4, 3), torch.zeros(4, 3))
    tensor(0.)
    """

    def __init__(
        self,
        temperature: float = 2.0,
        eps: float = 0.1,
        n_iters: int = 20,
        weight: float = 8e-4,
        reduction: Literal["sum", "mean"] = "sum",
        through_plan: bool = True,
        *,
        debias: bool = False,
        gather: bool = False,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.temperature, self.eps, self.n_iters, self.weight = temperature, eps, n_iters, weight
        self.reduction: Literal["sum", "mean"] = reduction
        self.through_plan, self.debias, self.gather, self.ignore_index = through_plan, debias, gather, ignore_index

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the set of rows that count."""
        return sinkhorn_kd_loss(
            student_logits,
            teacher_logits,
            labels,
            temperature=self.temperature,
            eps=self.eps,
            n_iters=self.n_iters,
            weight=self.weight,
            through_plan=self.through_plan,
            debias=self.debias,
            gather=self.gather,
            mask=mask,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class SinKDLoss(nn.Module):
    """(1 - alpha) cross-entropy with the labels + alpha cross-entropy with the teacher + the Sinkhorn loss.

    Parameters
    ----------
    sinkhorn
        The third term, its weight inside; ``SinkhornKDLoss()`` by default.
    alpha
        In [0, 1]; the paper has 0.8 (0.9 for CoLA).
    temperature
        Divides both logits in the second term, which has no factor ``temperature ** 2``. The Sinkhorn term has its own.
    temperature_schedule
        A function of the epoch that replaces ``temperature``, such as ``annealed(3.0, epochs)``; tell the epoch with
        `set_epoch` at its beginning.

    The first two terms are means over the rows whose label counts. For a decoder, the paper's 1, 0.1 and 1 instead of
    1 - alpha, alpha and 1 are a plain sum of `torch.nn.functional.cross_entropy`, 0.1 `forward_kl_loss` and
    `sinkhorn_kd_loss`. Raises ``ValueError`` and ``TypeError`` as those do.

    >>> teacher, student = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    >>> SinKDLoss()(student.log(), teacher.log(), torch.tensor([0, 1]))
    tensor(0.5005)

    Source: Cui et al. 2024, arXiv 2402.17110, section 3.
    """

    def __init__(
        self,
        sinkhorn: SinkhornKDLoss | None = None,
        *,
        alpha: float = 0.8,
        temperature: float = 1.0,
        temperature_schedule: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1]; got {alpha}")
        self.sinkhorn = SinkhornKDLoss() if sinkhorn is None else sinkhorn
        self.alpha = alpha
        self.temperature_schedule = temperature_schedule
        self.temperature = temperature
        check_positive("temperature", temperature)
        if temperature_schedule is not None:
            self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Take the temperature of this epoch, counted from 0, from the schedule; without one nothing changes."""
        if self.temperature_schedule is not None:
            self.temperature = self.temperature_schedule(epoch)
            check_positive(f"temperature_schedule({epoch})", self.temperature)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits [..., V] and ``labels`` [...]."""
        rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=self.sinkhorn.ignore_index)
        assert rows.labels is not None
        hard = rows.reduce(F.cross_entropy(rows.student, rows.labels, reduction="none"), "mean")
        soft = cross_entropy(logits=rows.teacher / self.temperature, q_logits=rows.student / self.temperature)
        transport = self.sinkhorn(rows.student, rows.teacher)
        return (1 - self.alpha) * hard + self.alpha * rows.reduce(soft, "mean") + transport


def annealed(temperature: float, epochs: int) -> Callable[[int], float]:
    """Return a schedule from ``temperature`` at epoch 0 linearly to 1 at the last of ``epochs`` (the paper's for MNLI).

    >>> [annealed(3.0, 5)(epoch) for epoch in range(5)]
    [3.0, 2.5, 2.0, 1.5, 1.0]
    """
    return lambda epoch: temperature + (1 - temperature) * epoch / max(1, epochs - 1)


def _from_all(rows: Tensor) -> Tensor:
    """The rows [N, C] of every process, in the order of ranks; the counts may differ.

    Every process computes the same loss from them, and sends its gradient into its own rows alone, times the number of
    processes, since the average that follows divides by it.
    """
    group = all_processes()
    found, start = gathered(rows, group)
    world = 1 if group is None else group.size()
    mine = torch.zeros_like(found).index_add(0, torch.arange(start, start + len(rows), device=rows.device), rows)
    return found + world * (mine - mine.detach())
