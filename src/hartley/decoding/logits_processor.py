"""Any sampler here as a logits processor of Hugging Face transformers, its state and its record of draws included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hartley.decoding.draw import Draw
from hartley.decoding.sampler import Sampler, State, masked
from hartley.info.head import Head


def as_logits_processor(sampler: Sampler, eos_token_id: int | Sequence[int] | None = None) -> SamplerProcessor:
    """Make ``sampler`` usable in ``model.generate(logits_processor=[...])`` of transformers.

    Give ``generate`` ``do_sample=True``, ``top_k=0`` (its default of 50 would cut on top) and no other warper: custom
    processors run before transformers' temperature, so the temperature belongs into the sampler. ``eos_token_id`` is
    the model's (``model.generation_config.eos_token_id``): it tells drawn tokens from the padding of rows that have
    ended. Beam search and assisted decoding are refused with a ``ValueError``. Raises ``TypeError`` for what is no
    sampler.

    >>> from hartley.decoding import mirostat
    >>> processor = as_logits_processor(mirostat(tau=3.0))
    >>> scores = processor(torch.tensor([[5, 7]]), torch.zeros(1, 8))  # what generate does at the first step,
    >>> scores = processor(torch.tensor([[5, 7, 2]]), torch.zeros(1, 8))  # and at the second, after drawing token 2
    >>> processor.trace[0].token, processor.trace[0].surprisal  # nats
    (tensor([2]), tensor([2.0794]))
    """
    if not isinstance(sampler, Sampler):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"as_logits_processor takes a sampler, such as top_p(0.9); got {sampler!r}")
    return SamplerProcessor(sampler, eos_token_id)


class SamplerProcessor:
    """See :func:`as_logits_processor`. One object follows one call of ``generate`` at a time; a new prompt starts anew.

    A processor never sees the token it led to: it reads it at the next call, and only then records it and moves the
    sampler's state. So :attr:`trace` lacks the last token until :meth:`finish` is given what ``generate`` returned.
    """

    def __init__(self, sampler: Sampler, eos_token_id: int | Sequence[int] | None) -> None:
        self.sampler = sampler
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
        self._ends = torch.tensor(ends, dtype=torch.int64)
        self.reset()

    def reset(self) -> None:
        """Forget the sequences, and start new ones at the next call."""
        #: one Draw for each token drawn so far. A row that had ended holds token -1, rank and kept 0, NaN elsewhere.
        self.trace: list[Draw] = []
        self._seen: Tensor | None = None  # input_ids of the last call [B, T]
        self._head: Head | None = None  # what it left to draw from
        self._state: State = None
        self._start = 0  # length of the prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask ``scores [B, V]``, after recording the token that the last call led to."""
        if not self._again(input_ids):
            if self._goes_on(input_ids):
                self._record(input_ids)
            else:
                self._refuse_other_histories(input_ids)
                self.reset()
                self._start = input_ids.shape[1]
                self._state = self.sampler.init(input_ids.shape[0])
        self._seen = input_ids.clone()
        self._head = self.sampler.apply(Head.of(scores), self._state)
        return masked(scores, self._head)

    def finish(self, sequences: Any) -> list[Draw]:
        """Record the last token, from what ``generate`` returned (the ids or its output object), and return the trace.

        Raises ``ValueError`` if the sequences are not those that were followed.
        """
        ids: Tensor = getattr(sequences, "sequences", sequences)
        if self._goes_on(ids):
            self._record(ids)
            self._seen = ids.clone()
        elif not self._again(ids):
            raise ValueError(f"sequences of shape {tuple(ids.shape)} do not go on from the last call of the processor")
        return self.trace

    def _again(self, ids: Tensor) -> bool:
        return self._seen is not None and torch.equal(ids, self._seen)

    def _goes_on(self, ids: Tensor) -> bool:
        return self._seen is not None and ids.shape[1] > 0 and torch.equal(ids[:, :-1], self._seen)

    def _refuse_other_histories(self, ids: Tensor) -> None:
        """Beam search reorders the rows, assisted decoding takes tokens back: both leave the prompt as it was."""
        seen, start = self._seen, self._start
        if seen is None or ids.shape[0] != seen.shape[0] or not start < ids.shape[1] <= seen.shape[1] + 1:
            return
        if torch.equal(ids[:, :start], seen[:, :start]):
            raise ValueError(
                "input_ids changed behind the prompt: beam search and assisted decoding reorder or take back tokens, "
                "and a sampler's state cannot follow. Use num_beams=1 and no assistant. (For a new prompt that begins "
                "with the last one, call reset() first.)"
            )

    def _record(self, ids: Tensor) -> None:
        assert self._head is not None
        token = ids[:, -1]
        known = (token >= 0) & (token < self._head.logits.shape[1])
        draw = Draw.of(self._head, token.where(known, 0).to(self._head.logits.device))
        ended = ~known.to(draw.token.device) | (draw.log_prob == -torch.inf)  # padding: it could not have been drawn
        if self.trace:
            ended = ended | (self.trace[-1].token == -1)
        drawn_before = ids[:, self._start : -1]
        ended = ended | torch.isin(drawn_before, self._ends.to(ids.device)).any(-1).to(ended.device)
        self._state = _choose(ended, self._state, self.sampler.update(self._state, draw))
        self.trace.append(_without(draw, ended))


def _choose(rows: Tensor, old: State, new: State) -> State:
    """``old`` in the given rows, ``new`` elsewhere."""
    if isinstance(new, tuple):
        return tuple(_choose(rows, *pair) for pair in zip(old, new, strict=True))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not isinstance(new, Tensor):
        return new
    return torch.where(rows.to(new.device).reshape(-1, *[1] * (new.ndim - 1)), old, new)


def _without(draw: Draw, rows: Tensor) -> Draw:
    def blank(name: str, values: Tensor) -> Tensor:
        nothing = torch.nan if values.is_floating_point() else -1 if "token" in name else 0
        return values.masked_fill(rows.reshape(-1, *[1] * (values.ndim - 1)), nothing)

    return Draw(**{name: blank(name, values) for name, values in draw._asdict().items()})
