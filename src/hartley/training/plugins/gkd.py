"""Distil with a loss of this house inside TRL's on-policy distillation.

Written for TRL 1.16 and tested with 1.16.0, whose ``GKDTrainer`` still counts as experimental there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hartley.training.losses.rows import IGNORE
from hartley.training.plugins.versions import require_trl

require_trl(__name__)

from trl.experimental.gkd import GKDTrainer  # noqa: E402

DistillationLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


class LossGKDTrainer(GKDTrainer):
    """TRL's ``GKDTrainer`` with ``distillation_loss`` in the place of its generalised Jensen-Shannon divergence.

    ``distillation_loss(student_logits, teacher_logits, labels)`` is `DivergenceLoss`, `PLDLoss`, `SinKDLoss`,
    `TopKLDLoss` or any callable that takes logits ``[B, T, V]`` and labels ``[B, T]``, already shifted, -100 where
    nothing counts, and returns a mean over the tokens that count (nats). The mean is weighed by their number, so
    accumulated batches and several processes count every token alike. ``beta`` of the ``GKDConfig`` is not used; who
    writes the answers (``lmbda``, ``seq_kd``) stays TRL's, and so do all other arguments.

    Raises ``ValueError`` for a loss whose ``reduction`` is another one than "mean".

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models".
    """

    def __init__(self, *args: Any, distillation_loss: DistillationLoss, **kwargs: Any) -> None:
        reduction = getattr(distillation_loss, "reduction", "mean")
        if reduction != "mean":
            raise ValueError(f"distillation_loss must have reduction 'mean'; got {reduction!r}")
        self.distillation_loss = distillation_loss
        super().__init__(*args, **kwargs)

    def generalized_jsd_loss(  # pyright: ignore[reportIncompatibleMethodOverride] - TRL's is static, and called by self
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the loss of one micro-batch, as TRL asks for it."""
        loss = self.distillation_loss(student_logits, teacher_logits, labels)
        if num_items_in_batch is None:
            return loss
        return loss * (labels != IGNORE).sum() / num_items_in_batch
