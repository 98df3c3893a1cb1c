"""Distillation baselines, the direction of each divergence in its name: a teacher's rows against a student's."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hartley.info.checks import check_one_of, check_positive
from hartley.info.divergences import kl_divergence
from hartley.info.linear import logits_statistics
from hartley.training.losses.rows import IGNORE, Reduction, pair_rows


def forward_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(teacher || student): the student is to cover all that the teacher would say.

    Parameters
    ----------
    student_logits, teacher_logits
        [..., V], the same V; -inf marks a removed token. No gradient goes to the teacher.
    labels
        [...] integers. They only say which rows count: all whose label is not ``ignore_index``.
    temperature
        Divides both logits. No factor ``temperature ** 2`` is applied (Hinton et al. 2015 multiply by it to keep the
        gradient's size when they add a cross-entropy; do so yourself where you add one).
    mask
        [...] bool: rows that count. One that selects nothing gives 0 with a gradient of 0.
    reduction
        "mean" over the rows that count, "sum", or "none": [...] with 0 in the rows that do not.

    Returns
    -------
    Nats, float32 (float64 where the logits are); inf where the student removes a token that the teacher allows.

    Raises
    ------
    ValueError
        For vocabularies that differ (it says how to align them), shapes that do not fit, a temperature that is not
        above 0, and a row that counts with NaN, +inf or nothing but -inf.
    TypeError
        For logits that are not floating point and labels that are not integers.

    >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> forward_kl_loss(student, teacher)
    tensor(0.1438)

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network".
    """
    check_positive("temperature", temperature)
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    losses = logits_statistics(rows.student, teacher=rows.teacher, temperature=temperature).kl
    assert losses is not None
    return rows.reduce(losses, reduction)


def reverse_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(student || teacher): the student is to say nothing that the teacher would not.

    Takes, returns and refuses what `forward_kl_loss` does; inf where the teacher removes a token that the student
    allows, so a teacher cut to its top k needs `skew_reverse_kl_loss` or `jensen_shannon_loss`.

    >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> reverse_kl_loss(student, teacher)
    tensor(0.1308)

    Source: Gu et al. 2024, "MiniLLM".
    """
    check_positive("temperature", temperature)
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    losses = kl_divergence(logits=rows.student / temperature, q_logits=rows.teacher / temperature)
    return rows.reduce(losses, reduction)


def jensen_shannon_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student.

    ``beta`` is inside (0, 1): 0.5 is the Jensen-Shannon divergence. The loss goes to 0 at both ends, like beta times
    the forward KL at 0 and 1 - beta times the reverse KL at 1 (TRL's ``GKDTrainer`` returns those two there, unscaled:
    use `forward_kl_loss` and `reverse_kl_loss`). Never inf. Otherwise takes, returns and refuses what
    `forward_kl_loss` does.

    >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> jensen_shannon_loss(student, teacher)
    tensor(0.0338)

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models", eq. 2.
    """
    check_positive("temperature", temperature)
    _check_share("beta", beta, "for 0 and 1 use forward_kl_loss and reverse_kl_loss")
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    teacher, student = rows.teacher / temperature, rows.student / temperature
    middle = _log_mixture(beta, teacher, student)
    to_teacher, to_student = (kl_divergence(logits=x, q_log_probs=middle) for x in (teacher, student))
    losses = beta * to_teacher + (1 - beta) * to_student
    return rows.reduce(losses, reduction)


def skew_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(teacher || skew teacher + (1 - skew) student): the forward KL, at most -ln ``skew``.

    ``skew`` is inside (0, 1). Otherwise takes, returns and refuses what `forward_kl_loss` does, without ever being inf.

    >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> skew_kl_loss(student, teacher)
    tensor(0.1131)

    Source: Ko et al. 2024, "DistiLLM", eq. 4.
    """
    check_positive("temperature", temperature)
    _check_share("skew", skew, "for 0 use forward_kl_loss")
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    teacher, student = rows.teacher / temperature, rows.student / temperature
    losses = kl_divergence(logits=teacher, q_log_probs=_log_mixture(skew, teacher, student))
    return rows.reduce(losses, reduction)


def skew_reverse_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(student || skew student + (1 - skew) teacher): the reverse KL, at most -ln ``skew``.

    ``skew`` is inside (0, 1). Otherwise takes, returns and refuses what `forward_kl_loss` does, without ever being inf.

    >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> skew_reverse_kl_loss(student, teacher)
    tensor(0.1070)

    Source: Ko et al. 2024, "DistiLLM", eq. 6.
    """
    check_positive("temperature", temperature)
    _check_share("skew", skew, "for 0 use reverse_kl_loss")
    rows = pair_rows(student_logits, teacher_logits, labels, mask=mask, ignore_index=ignore_index)
    teacher, student = rows.teacher / temperature, rows.student / temperature
    losses = kl_divergence(logits=student, q_log_probs=_log_mixture(skew, student, teacher))
    return rows.reduce(losses, reduction)


Kind = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"]


class DivergenceLoss(nn.Module):
    """One of the losses above by its name, as a module: ``DivergenceLoss("reverse_kl", temperature=2.0)``.

    ``settings`` are the keywords of the function but ``mask``, which `forward` takes. Raises ``ValueError`` for another
    kind, ``TypeError`` for a setting that the kind does not have.

    >>> loss = DivergenceLoss("jensen_shannon", beta=0.9)
    >>> loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor(0.0118)
    """

    def __init__(self, kind: Kind, **settings: Any) -> None:
        super().__init__()
        check_one_of("kind", kind, get_args(Kind))
        self.function = globals()[f"{kind}_loss"]
        allowed = [name for name, p in inspect.signature(self.function).parameters.items() if p.kind == p.KEYWORD_ONLY]
        allowed.remove("mask")
        for name in settings:
            if name not in allowed:
                raise TypeError(f"settings of {kind!r} must be among {', '.join(allowed)}; got {name!r}")
        self.kind, self.settings = kind, settings

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the rows that count."""
        return self.function(student_logits, teacher_logits, labels, mask=mask, **self.settings)

    def extra_repr(self) -> str:
        """Kind and settings, for ``print``."""
        return ", ".join([self.kind, *(f"{name}={value!r}" for name, value in self.settings.items())])


def _log_mixture(share: float, a: Tensor, b: Tensor) -> Tensor:
    """ln(share p + (1 - share) q) of logits a and b; what both remove stays removed, without NaN in the gradient.

    In the log domain, since a probability that underflows would look like one that is excluded.
    """
    gone = (a == -torch.inf) & (b == -torch.inf)
    log_p, log_q = (x.log_softmax(-1).masked_fill(gone, 0) for x in (a, b))
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share)).masked_fill(gone, -torch.inf)


def _check_share(name: str, value: float, ends: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be inside (0, 1) ({ends}); got {value}")
