"""The decode loop, one for every engine: read the prompts, draw, stream, stop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Literal

import torch

from hartley.decoding import Sampler
from hartley.decoding.states import take
from hartley.engines.protocol import Engine, check_ids
from hartley.models.tokenizer import TextStream

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A text to continue.

    ``prompt`` is text or token ids (a chat: ``tokenizer.chat(...)``); ``stop`` are strings that end the text where
    they appear in it, and are not part of it. The same ``seed`` gives the same text whatever else is in the batch.
    """

    prompt: str | Sequence[int]
    sampler: Sampler
    max_tokens: int = 128
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One drawn token of one request.

    ``text`` is what became certain with it: a character comes with its last byte, and what may be the beginning of a
    stop string waits. The texts of a request, joined, are its answer. ``draw`` has the numbers of
    :class:`hartley.decoding.Draw` for this row. ``finish`` is None while the request goes on, then "stop" (an
    end-of-text token, which is drawn and counted but has no text, or a stop string), "length" (``max_tokens``, or the
    context is full) or "cancelled" (a last step without token and draw, for the text that was held back).
    """

    index: int  #: which request
    position: int  #: which of its tokens, from 0
    token: int | None
    text: str
    draw: dict[str, Any] | None
    finish: Finish | None


def generate(engine: Engine, requests: Sequence[Request], *, cancel: Event | None = None) -> Iterator[Step]:
    """Continue every request and yield a :class:`Step` for each token as it is drawn.

    Each turn yields one step of every request still going, in order. Closing the iterator ends the work and frees
    its memory; setting ``cancel`` does so too, with a last step for every request still going. When a prompt and
    ``max_tokens`` together are longer than the context, the text ends where the context does.

    Raises ``ValueError``, before anything is run, for an empty prompt, a prompt that leaves no room in the context,
    an unknown token, ``max_tokens`` below 1 or an empty stop string, naming the request.
    """
    own = getattr(engine, "generate", None)  # one that runs its own decode loop
    return _run(engine, rows_of(engine, requests), cancel) if own is None else own(requests, cancel)


def rows_of(engine: Any, requests: Sequence[Request]) -> "list[Row]":
    """The requests as rows under way, each checked; raises what :func:`generate` does."""
    return [Row(engine, index, request) for index, request in enumerate(requests)]


def _run(engine: Engine, rows: "list[Row]", cancel: Event | None) -> Iterator[Step]:
    if not rows:
        return
    groups: dict[Sampler, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.request.sampler, []).append(row)
    states = {sampler: sampler.init(len(group)) for sampler, group in groups.items()}
    session = engine.start([row.prompt for row in rows], [row.room for row in rows])
    try:
        while True:
            if cancel is not None and cancel.is_set():
                yield from (row.cancelled() for row in rows)
                return
            logits = session.logits()
            places = {row.index: place for place, row in enumerate(rows)}
            for sampler, group in groups.items():
                at = [places[row.index] for row in group]
                part = logits if len(group) == len(rows) else logits[at]
                draw, states[sampler] = sampler.step(part, states[sampler], [row.generator for row in group])
                for i, row in enumerate(group):
                    row.draw = draw.row(i)
            for row in rows:
                yield row.step()
            going = [place for place, row in enumerate(rows) if row.finish is None]
            if not going:
                return
            if len(going) < len(rows):
                for sampler, group in list(groups.items()):
                    left = [i for i, row in enumerate(group) if row.finish is None]
                    if left:
                        groups[sampler], states[sampler] = [group[i] for i in left], take(states[sampler], left)
                    else:
                        del groups[sampler], states[sampler]
                rows = [rows[place] for place in going]
                session.keep(going)
            session.append([row.draw["token"] for row in rows])
    finally:
        session.close()


class Row:
    """A request under way."""

    def __init__(self, engine: Engine, index: int, request: Request) -> None:
        what = f"the prompt of request {index}"
        self.prompt = _ids(engine, request.prompt)
        check_ids(engine, self.prompt, what)
        if len(self.prompt) == engine.context_length:
            raise ValueError(f"{what} fills the context of {engine.context_length} tokens; nothing can follow")
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {request.max_tokens} in request {index}")
        if isinstance(request.stop, str) or not all(request.stop):
            raise ValueError(f"stop must be a tuple of strings, none empty, got {request.stop!r} in request {index}")
        self.index = index
        self.request = request
        self.room = min(request.max_tokens, engine.context_length - len(self.prompt))
        self.generator = torch.Generator().manual_seed(request.seed)
        self.stop_ids = engine.tokenizer.stop_ids
        self.stream = TextStream(engine.tokenizer, self.prompt)
        self.held = ""  # text that may be the beginning of a stop string
        self.position = 0
        self.draw: dict[str, Any] = {}
        self.finish: Finish | None = None
        self.cut = False  # a stop string was met: the text ends before it

    def step(self) -> Step:
        """Take in the token that was drawn."""
        token = self.draw["token"]
        text = ""
        if token in self.stop_ids:
            self.finish = "stop"
        else:
            text = self._release(self.held + self.stream.push(token))
        if self.finish is None and self.position + 1 == self.room:
            self.finish = "length"
        if self.finish is not None:
            text += self._rest()
        step = Step(self.index, self.position, token, text, self.draw, self.finish)
        self.position += 1
        return step

    def cancelled(self) -> Step:
        """End here, with the text that was held back."""
        return Step(self.index, self.position, None, self._rest(), None, "cancelled")

    def _release(self, text: str) -> str:
        before = self._before_stop(text)
        if before is not None:
            self.finish, self.cut = "stop", True
            return before
        hold = max((_overlap(text, stop) for stop in self.request.stop), default=0)
        self.held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def _rest(self) -> str:
        if self.cut:
            return ""
        text = self.held + self.stream.flush()
        before = self._before_stop(text)
        return text if before is None else before

    def _before_stop(self, text: str) -> str | None:
        found = [at for stop in self.request.stop if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else None


def _ids(engine: Engine, prompt: str | Sequence[int]) -> list[int]:
    if isinstance(prompt, str):
        return engine.tokenizer.encode(prompt) if prompt else []
    return [int(id) for id in prompt]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` begin ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
