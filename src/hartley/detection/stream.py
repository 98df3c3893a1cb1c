"""Watch a text while it grows: a verdict after every token, valid at every length."""

from __future__ import annotations

import torch
from torch import Tensor

from hartley.detection.protocol import Transformation
from hartley.detection.scores import check_floor, score_tokens, transformation
from hartley.detection.verdict import Alternative, Detection, decide
from hartley.detection.wealth import Totals


class Detector:
    """Take in tokens one by one and test "drawn from these logits" all along.

    **Guarantee.** If every token was drawn from the logits given with it, under the stated temperature or sampler, the
    decision is ever "rejected", at any length, with probability at most ``alpha``. Looking after every token and
    stopping when it suits costs nothing: the p-value is 1 over the running maximum of the E-value (Ville's inequality).
    Once rejected, always rejected.

    Raises ``ValueError`` for settings that :func:`decide` and :func:`score_from_logits` refuse.

    >>> detector = Detector(alternative="greater", alpha=0.01)
    >>> logits = torch.tensor([0.9, 0.05, 0.05]).log()
    >>> for tokens, verdict in enumerate(map(detector.update, [logits] * 20, [1] * 20), 1):
    ...     if verdict.decision == "rejected":
    ...         break
    >>> tokens, round(verdict.p_value, 4)
    (7, 0.0058)
    """

    def __init__(
        self,
        *,
        alternative: Alternative = "two-sided",
        alpha: float = 0.05,
        temperature: float = 1.0,
        sampler: Transformation | None = None,
        floor: float | None = None,
    ) -> None:
        self.alternative: Alternative = alternative
        self.alpha = alpha
        self.floor = floor
        self.transform = transformation(temperature, sampler)
        check_floor(floor)
        self.totals = Totals()
        self.verdict  # noqa: B018, checks the settings

    def update(self, logits: Tensor, token: int) -> Detection:
        """Take in the next token and the ``logits [V]`` it was to be drawn from; return the verdict so far."""
        if logits.ndim != 1:
            raise ValueError(f"logits must have shape [V], of one step; got {tuple(logits.shape)}")
        self.totals.add(score_tokens(logits[None], torch.tensor([int(token)]), self.transform, self.floor))
        return self.verdict

    @property
    def verdict(self) -> Detection:
        """The verdict on what was taken in."""
        return decide(self.totals, alternative=self.alternative, alpha=self.alpha)
