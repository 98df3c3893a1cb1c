"""What one pass over a row of logits leaves: its logsumexp, entropy, varentropy and most probable tokens, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hartley.info.checks import check_logits
from hartley.info.kernels import kernels_for
from hartley.info.kernels.reference import Facts

Rule = Callable[["Head"], Tensor]

FIRST_LOOK = 128  # tokens: the 0.9 nucleus of a language model at temperature 1 is nearly always shorter
GROWTH = 8


@dataclass(frozen=True, eq=False)
class Head:
    """The most probable tokens of each row, with the exact statistics of the whole row.

    B rows, V vocabulary, K the longest list. Lists fall in probability, ties by id. Slots past ``known`` hold token 0
    at ``-inf``. Made by :meth:`of`, and changed only into new heads: :meth:`widen`, :meth:`temper`, :meth:`restrict`.

    >>> import torch
    >>> head = Head.of(torch.tensor([[0.0, 2.0, 1.0]]))
    >>> head.tokens
    tensor([[1, 2, 0]])
    >>> head.entropy  # nats
    tensor([0.8324])
    """

    logits: Tensor  # [B, V] float32 or float64: the model's own
    scale: Tensor  # [B] float64: one over the temperature of this distribution
    tokens: Tensor  # [B, K] int64
    log_probs: Tensor  # [B, K]: exact, whatever K is
    known: Tensor  # [B] int64: how many tokens of the row are listed
    complete: Tensor  # [B] bool: no token outside the list has any probability
    logsumexp: Tensor  # [B]: of ``logits * scale``, over the whole row
    entropy: Tensor  # [B] nats
    varentropy: Tensor  # [B] nats^2
    restricted: bool  # tokens were removed: the list is all there is
    index: Any  # what the kernels use to find more tokens
    _origin: Head | None = None

    @classmethod
    def of(cls, logits: Tensor, k: int = FIRST_LOOK) -> Head:
        """Look at the ``k`` most probable tokens of each row of ``logits [B, V]``.

        Half precision is read as float32. Raises ``ValueError`` for another shape, for ``k`` below 1, and for a row
        with NaN, +inf or nothing but -inf, which it names; ``TypeError`` for integers.
        """
        if logits.ndim != 2 or 0 in logits.shape:
            raise ValueError(
                f"logits must have shape [B, V] with at least one row and one token, got {tuple(logits.shape)}"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not logits.dtype.is_floating_point:
            raise TypeError(f"logits must be floating point, got {logits.dtype}")
        logits = logits.detach()
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        logits = logits.contiguous()
        rows, size = logits.shape
        kernels = kernels_for(logits)
        scale = torch.ones(rows, dtype=torch.float64, device=logits.device)
        passed = kernels.statistics(logits, scale)
        if not bool(passed.entropy.isfinite().all()):
            check_logits(logits)
        tokens, values, known = kernels.largest(logits, passed.index, torch.full_like(scale, k, dtype=torch.int64))
        return cls(
            logits,
            scale,
            tokens,
            values - passed.logsumexp[:, None],
            known,
            (known < k) | (known == size),
            passed.logsumexp,
            passed.entropy,
            passed.varentropy,
            False,
            passed.index,
        )

    @property
    def origin(self) -> Head:
        """The model's own distribution, at temperature 1 and with nothing removed."""
        return self if self._origin is None else self._origin

    @property
    def filled(self) -> Tensor:
        """Which slots hold a token, bool ``[B, K]``."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.known[:, None]

    @property
    def max_log_prob(self) -> Tensor:
        """Log-probability of the most probable token, nats ``[B, 1]``."""
        return self.log_probs[:, :1]

    @property
    def rest(self) -> Tensor:
        """Probability of the tokens that are not listed, ``[B]``, to rounding; 0 where the list is complete."""
        listed = self.log_probs.exp().sum(-1, dtype=torch.float64)
        return (1.0 - listed).clamp(min=0.0).masked_fill(self.complete, 0.0)

    def cumulative(self) -> Tensor:
        """Probability of the tokens up to and with each slot, float64 ``[B, K]``."""
        return self.log_probs.exp().cumsum(-1, dtype=torch.float64)

    def widen(self, rows: Tensor | None = None, k: int | None = None) -> Head:
        """List more tokens: ``k``, or eight times as many, in the given ``rows`` (bool ``[B]``; all by default).

        Rows that are complete stay as they are. Lists never shrink.
        """
        rows = ~self.complete if rows is None else rows & ~self.complete
        if not bool(rows.any()):
            return self
        size = self.logits.shape[1]
        chosen = rows.nonzero().squeeze(-1)
        wanted = self.known[chosen] * GROWTH if k is None else self.known[chosen].clamp(min=k)
        wanted = torch.where(wanted * 2 > size, size, wanted).clamp(max=size)
        every = chosen.numel() == rows.numel()
        logits = self.logits if every else self.logits[chosen]
        index = self.index if every or self.index is None else self.index[chosen.numpy()]
        tokens, values, known = kernels_for(logits).largest(logits, index, wanted)
        values = (values * self.scale[chosen, None] - self.logsumexp[chosen, None]).to(values.dtype)
        complete = (known < wanted) | (known == size)
        if every:
            return replace(self, tokens=tokens, log_probs=values, known=known, complete=complete)
        width = max(tokens.shape[1], self.tokens.shape[1])
        return replace(
            self,
            tokens=_fit(self.tokens, width, 0).index_copy(0, chosen, _fit(tokens, width, 0)),
            log_probs=_fit(self.log_probs, width, -torch.inf).index_copy(0, chosen, _fit(values, width, -torch.inf)),
            known=self.known.index_copy(0, chosen, known),
            complete=self.complete.index_copy(0, chosen, complete),
        )

    def temper(self, temperature: float | Tensor) -> Head:
        """Divide the log-probabilities by a temperature (positive, one value or ``[B]``) and renormalise."""
        inverse = 1.0 / torch.as_tensor(temperature, dtype=torch.float64, device=self.logits.device)
        scale = self.scale * inverse
        if self.restricted:
            log_probs = (self.log_probs * inverse.reshape(-1, 1)).to(self.log_probs.dtype)
            return replace(self._renormalised(log_probs, self.filled), scale=scale)
        passed = kernels_for(self.logits).statistics(self.logits, scale)
        log_probs = (self.log_probs + self.logsumexp[:, None]) * inverse.reshape(-1, 1) - passed.logsumexp[:, None]
        return replace(
            self,
            scale=scale,
            log_probs=log_probs.to(self.log_probs.dtype),
            logsumexp=passed.logsumexp,
            entropy=passed.entropy,
            varentropy=passed.varentropy,
            _origin=self.origin,
        )

    def truncate(self, rule: Rule) -> Head:
        """Keep what ``rule(head) -> bool [B, K]`` keeps, renormalised.

        A rule that keeps the last listed token of a row that is not complete has not seen enough: it is asked again
        with a wider head. Every rule must keep at least one token of each row.
        """
        head = self
        while True:
            mask = rule(head)
            last = mask.gather(-1, head.known[:, None] - 1).squeeze(-1)
            more = last & ~head.complete
            if not bool(more.any()):
                return head.restrict(mask)
            head = head.widen(more)

    def restrict(self, mask: Tensor) -> Head:
        """Keep the listed tokens where ``mask [B, K]`` is true, and no other token, renormalised."""
        return self._renormalised(self.log_probs, mask)

    def _renormalised(self, log_probs: Tensor, mask: Tensor) -> Head:
        kept = kernels_for(log_probs).restrict(self.tokens, log_probs, mask)
        return replace(
            self,
            tokens=kept.tokens,
            log_probs=kept.log_probs,
            known=kept.known,
            complete=torch.ones_like(self.complete),
            logsumexp=self.logsumexp + kept.log_mass,
            entropy=kept.entropy,
            varentropy=kept.varentropy,
            restricted=True,
            _origin=self.origin,
        )

    def draw(self, seeds: Tensor) -> tuple[Tensor, Facts]:
        """Draw one token a row, and say what is known of it.

        ``seeds [B]`` int64: the draw is a function of the distribution and the row's seed alone, and two truncations of
        one distribution give the same token whenever both keep it.
        """
        kernels = kernels_for(self.logits)
        own = self.origin.logsumexp
        if self.restricted:
            kept = (self.tokens, self.log_probs, self.known)
            token = kernels.race(*kept, seeds)
            return token, kernels.describe(self.logits, own, token, kept)
        token = kernels.race_all(self.logits, self.scale, self.index, seeds)
        facts = kernels.describe(self.logits, own, token, None)
        log_prob = (own - facts.surprisal) * self.scale - self.logsumexp
        return token, facts._replace(log_prob=log_prob.to(own.dtype))


def _fit(lists: Tensor, width: int, empty: float) -> Tensor:
    return torch.nn.functional.pad(lists, (0, width - lists.shape[1]), value=empty)
