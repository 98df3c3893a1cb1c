"""The decode loop, one for every engine: read the prompts, draw, stream, stop."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Literal

import torch

from hartley.decoding import Sampler
from hartley.decoding.states import State, join, take
from hartley.engines.protocol import Engine, Session, check_ids
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
    return _run(batch_of(engine), rows_of(engine, requests), cancel)


def rows_of(engine: Any, requests: Sequence[Request]) -> "list[Row]":
    """The requests as rows to be, each checked; raises what :func:`generate` does."""
    rows = [Row(engine, index, request) for index, request in enumerate(requests)]
    check = getattr(engine, "check", None)  # of one that runs its own decode loop
    if check is not None:
        for row in rows:
            check(row)
    return rows


def batch_of(engine: Any) -> "Batch":
    """An empty batch of this engine: its own kind, where it runs its own decode loop."""
    own = getattr(engine, "batch", None)
    return Batch(engine) if own is None else own()


def _run(batch: "Batch", rows: "list[Row]", cancel: Event | None) -> Iterator[Step]:
    if not rows:
        return
    try:
        batch.begin(rows)
        while batch.rows:
            if cancel is not None and cancel.is_set():
                yield from (row.cancelled() for row in batch.rows)
                return
            yield from batch.step()
            batch.advance()
    finally:
        batch.close()


class Batch:
    """Rows being continued together, which join and leave between steps: ``step, advance, step, advance, ...``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: list[Row] = []
        self.groups: dict[Sampler, list[Row]] = {}
        self.states: dict[Sampler, State] = {}
        self.session: Session | None = None

    def begin(self, rows: "Sequence[Row]") -> None:
        """Read the prompts of the first rows, together."""
        self.session = self.engine.start([row.prompt for row in rows], [row.room for row in rows])
        self._enter(rows)

    def add(self, row: "Row") -> Iterator[None]:
        """Read another row's prompt, a part at each turn, between two steps; at the end the row is in."""
        if self.session is None:
            self.session = self.engine.start([], [])
        yield from self.session.add(row.prompt, row.room)
        self._enter([row])

    def step(self) -> list[Step]:
        """Draw a token for every row."""
        assert self.session is not None, "the batch is empty"
        logits = self.session.logits()
        places = {row: place for place, row in enumerate(self.rows)}
        for sampler, group in self.groups.items():
            part = logits if len(group) == len(self.rows) else logits[[places[row] for row in group]]
            generators = [row.generator for row in group]
            draw, self.states[sampler] = sampler.step(part, self.states[sampler], generators)
            for i, row in enumerate(group):
                row.draw = draw.row(i)
        return [row.step() for row in self.rows]

    def advance(self) -> None:
        """Let go of the rows that have ended, and read what the others drew."""
        self.drop([row for row in self.rows if row.finish is not None])
        if self.rows:
            assert self.session is not None
            self.session.append([row.draw["token"] for row in self.rows])

    def drop(self, leaving: "Collection[Row]") -> None:
        """Let go of rows, wherever they stand."""
        stay = [place for place, row in enumerate(self.rows) if row not in leaving]
        if len(stay) == len(self.rows):
            return
        for sampler, group in list(self.groups.items()):
            left = [i for i, row in enumerate(group) if row not in leaving]
            if not left:
                del self.groups[sampler], self.states[sampler]
            elif len(left) < len(group):
                self.groups[sampler] = [group[i] for i in left]
                self.states[sampler] = take(self.states[sampler], left)
        self.rows = [self.rows[place] for place in stay]
        assert self.session is not None
        self.session.keep(stay)

    def close(self) -> None:
        """Let go of everything and give the memory back."""
        if self.session is not None:
            self.session.close()
        self.rows, self.groups, self.states, self.session = [], {}, {}, None

    def _enter(self, rows: "Sequence[Row]") -> None:
        new: dict[Sampler, list[Row]] = {}
        for row in rows:
            new.setdefault(row.request.sampler, []).append(row)
        for sampler, group in new.items():
            state = sampler.init(len(group))
            if sampler in self.groups:
                group, state = self.groups[sampler] + group, join([self.states[sampler], state])
            self.groups[sampler], self.states[sampler] = group, state
        self.rows += rows


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
