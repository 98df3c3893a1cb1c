"""What one pass over a row of logits leaves: its logsumexp, entropy, varentropy and most probable tokens, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hartley.info.checks import check_logits, row_name
from hartley.info.kernels import kernels_for
from hartley.info.kernels.reference import Facts, Kept, KeptSet

Mask = Callable[["Head"], Tensor]
Guess = int | Tensor | Callable[["Head"], int | Tensor]

FIRST_LOOK = 128  # tokens: the 0.9 nucleus of a language model at temperature 1 is nearly always shorter
GROWTH = 2


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
    logsumexp: Tensor  # [B] float64: of ``logits * scale``, over the tokens that are left
    entropy: Tensor  # [B] nats
    varentropy: Tensor  # [B] nats^2
    restricted: bool  # tokens were removed: the list is all there is
    start: Tensor  # [B] int64: place of the first listed token in the model's order, from 0; -1 if the list has gaps
    index: Any  # what the kernels use to find more tokens
    _kernels: ModuleType
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
        scale = torch.ones(logits.shape[0], dtype=torch.float64, device=logits.device)
        kernels = kernels_for(logits)
        passed, listed = kernels.look(logits, scale, k)
        if not passed.sound:
            check_logits(logits)
        return cls(
            logits,
            scale,
            listed.tokens,
            listed.log_probs,
            listed.known,
            listed.complete,
            passed.logsumexp,
            passed.entropy,
            passed.varentropy,
            False,
            torch.zeros_like(listed.known),
            passed.index,
            kernels,
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

    def widen(self, rows: Tensor | None = None, k: int | Tensor | None = None) -> Head:
        """List more tokens: ``k`` (one number or ``[B]``), or twice as many.

        Only in ``rows`` (bool ``[B]``), if given: there the list grows even where ``k`` is too small. Rows that are
        complete stay as they are. Lists never shrink.
        """
        wanted = self.known * GROWTH
        if k is not None:
            deeper = torch.as_tensor(k).to(self.known).expand_as(self.known)
            wanted = torch.where(deeper > self.known, deeper, self.known if rows is None else wanted)
        rows = (wanted > self.known if rows is None else rows) & ~self.complete
        return self._listed(rows, "largest", wanted)

    def above(self, level: Tensor) -> Head:
        """Keep the tokens with a log-probability of at least ``level [B, 1]`` nats, and always the most probable one.

        Looks exactly as deep as that: no list is longer than it has to be.
        """

        def reach(head: Head) -> Tensor:
            mask = head.log_probs >= level
            mask[:, 0] = True
            return mask

        kept = self._kept(reach(self))
        if kept.short is None:
            return self._replaced(kept)
        head = self._listed(kept.short, "above", level.squeeze(-1))
        return head.restrict(reach(head))

    def depth(self, mass: float | Tensor, level: Tensor | None = None) -> Tensor:
        """About how many tokens, most probable first, are needed: a guess for :meth:`keep`.

        For those that hold a ``mass`` in (0, 1]: the most probable ones, or those nearest to ``level [B]`` nats.
        """
        level = self.log_probs[:, 0] if level is None else level
        listed = self.log_probs, self.known
        return self._kernels.depth(self.logits, self.index, self.scale, self.logsumexp, level, self._each(mass), listed)

    def _listed(self, rows: Tensor, how: str, wanted: Tensor) -> Head:
        """This head with other lists in some rows, made by a kernel."""
        if not bool(rows.any()):
            return self
        chosen = None if bool(rows.all()) else rows.nonzero().squeeze(-1)
        make = getattr(self._kernels, how)
        listed = make(self.logits, self.index, wanted, self.scale, self.logsumexp, chosen)
        if chosen is None:
            return self._with(**listed._asdict())
        width = max(listed.tokens.shape[1], self.tokens.shape[1])
        fill = {"tokens": 0, "log_probs": -torch.inf}
        merged: dict[str, Tensor] = {}
        for name, new in listed._asdict().items():
            old = getattr(self, name)
            if name in fill:
                old, new = _fit(old, width, fill[name]), _fit(new, width, fill[name])
            merged[name] = old.index_copy(0, chosen, new)
        return self._with(**merged)

    def _with(self, **changed: Any) -> Head:
        """This head with other values in some fields (``dataclasses.replace`` takes five times as long)."""
        head: Head = object.__new__(Head)
        head.__dict__.update(self.__dict__, **changed)
        return head

    def _each(self, value: float | Tensor) -> Tensor:
        """One value, or one per row, as float64 ``[B]``."""
        return torch.as_tensor(value, dtype=torch.float64, device=self.logits.device).expand(self.known.shape)

    def nucleus(self, mass: float | Tensor) -> Tensor:
        """Mask, for :meth:`keep`, of the most probable tokens up to and with the one that brings them to ``mass``."""
        return self._kernels.nucleus(self.log_probs, self.known, self._each(mass))

    def nearest(self, level: Tensor, mass: float | Tensor) -> Tensor:
        """Mask, for :meth:`keep`, of the tokens nearest to ``level [B]`` nats that hold a ``mass``, with ties."""
        return self._kernels.nearest(self.log_probs, self.known, level, self._each(mass))

    def deviation(self) -> Tensor:
        """Population standard deviation of the log-probabilities of all tokens that are left, nats ``[B]``."""
        if self.restricted:
            return self._kernels.deviation(self.log_probs)
        return (self._kernels.deviation(self.logits) * self.scale).to(self.log_probs.dtype)

    def temper(self, temperature: float | Tensor) -> Head:
        """Divide the log-probabilities by a temperature (positive, one value or ``[B]``) and renormalise."""
        inverse = 1.0 / torch.as_tensor(temperature, dtype=torch.float64, device=self.logits.device)
        scale = self.scale * inverse
        if self.restricted:
            log_probs = (self.log_probs * inverse.reshape(-1, 1)).to(self.log_probs.dtype)
            tempered = self._with(scale=scale, log_probs=log_probs, logsumexp=self.logsumexp * inverse)
            return tempered.restrict(self.filled)
        passed = self._kernels.statistics(self.logits, scale)
        values = self.logits.gather(-1, self.tokens).masked_fill(~self.filled, -torch.inf)
        log_probs = values * scale[:, None] - passed.logsumexp[:, None]
        return self._with(
            scale=scale,
            log_probs=log_probs.to(self.log_probs.dtype),
            logsumexp=passed.logsumexp,
            entropy=passed.entropy,
            varentropy=passed.varentropy,
            _origin=self.origin,
        )

    def keep(self, mask: Mask, k: Guess | None = None) -> Head:
        """Keep what ``mask(head) -> bool [B, K]`` says, renormalised.

        A mask that keeps the last listed token of a row that is not complete has not seen enough and is asked again
        with a wider head, at first of the ``k`` tokens that are guessed to be enough (a number, ``[B]``, or a function
        of the head that gives them). It must keep at least one token of each row.
        """
        head = self
        while (kept := head._kept(mask(head))).short is not None:
            head = head.widen(kept.short, k(head) if callable(k) else k)
            k = None
        return head._replaced(kept)

    def restrict(self, mask: Tensor) -> Head:
        """Keep the listed tokens where ``mask [B, K]`` is true, and no other token, renormalised."""
        return self._replaced(self._kept(mask))

    def _kept(self, mask: Tensor) -> Kept:
        return self._kernels.restrict(self.tokens, self.log_probs, mask, self.known, self.start, self.complete)

    def _replaced(self, kept: Kept) -> Head:
        if kept.least == 0:
            raise ValueError(f"a rule must keep at least one token; none is left{row_name(kept.known == 0)}")
        return self._with(
            tokens=kept.tokens,
            log_probs=kept.log_probs,
            known=kept.known,
            complete=kept.known > 0,
            logsumexp=self.logsumexp + kept.log_mass,
            entropy=kept.entropy,
            varentropy=kept.varentropy,
            restricted=True,
            start=kept.start,
            _origin=self.origin,
        )

    def draw(self, seeds: Tensor) -> Tensor:
        """Draw one token a row, int64 ``[B]``.

        ``seeds [B]`` int64: the draw is a function of the distribution and the row's seed alone, and two truncations of
        one distribution give the same token whenever both keep it.
        """
        if self.restricted:
            return self._kernels.race(self.tokens, self.log_probs, self.known, seeds)
        return self._kernels.race_all(self.logits, self.scale, self.index, seeds)

    def facts(self, token: Tensor) -> Facts:
        """What is known of one token a row, int64 ``[B]``, drawn or given; ``log_prob`` is -inf for a removed one.

        Raises ``ValueError`` for a token that is not one of the vocabulary: kernels check no bounds.
        """
        low, high = (int(end) for end in token.aminmax())
        if low < 0 or high >= self.logits.shape[1]:
            raise ValueError(f"token must be in 0 .. {self.logits.shape[1] - 1}; got {low if low < 0 else high}")
        own = self.origin.logsumexp
        if self.restricted:
            log_mass = self.logsumexp - own
            if self.scale is not self.origin.scale:  # it is that of another temperature
                log_mass = torch.full_like(own, torch.nan)
            kept = KeptSet(self.tokens, self.log_probs, self.known, self.start, log_mass)
            return self._kernels.describe(self.logits, self.index, own, token, kept)
        facts = self._kernels.describe(self.logits, self.index, own, token, None)
        value = self.logits.gather(-1, token[:, None]).squeeze(-1)
        return facts._replace(log_prob=(value * self.scale - self.logsumexp).to(value.dtype))


def _fit(lists: Tensor, width: int, empty: float) -> Tensor:
    return torch.nn.functional.pad(lists, (0, width - lists.shape[1]), value=empty)
