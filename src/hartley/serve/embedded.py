"""The model in this process, behind the interface."""

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import torch

from hartley.decoding import Sampler
from hartley.engines import Request
from hartley.engines.protocol import check_ids, parts_of
from hartley.info import Head
from hartley.info.plain import plain
from hartley.models.tokenizer import pieces
from hartley.serve.backend import Job, Prompt, Run
from hartley.serve.errors import busy
from hartley.serve.scheduler import Draining, Full, Scheduler
from hartley.serve.schemas import Totals

MOST_READ = 4096  # tokens of a text that is read: to judge one everybody waits
ROWS = 256  # of them looked at together


class Embedded:
    """An engine of :mod:`hartley.engines` and its scheduler; see :class:`hartley.serve.backend.Backend`."""

    def __init__(self, engine: Any, scheduler: Scheduler) -> None:
        self.engine, self.scheduler = engine, scheduler
        self.model = engine.model_name
        self.about = {
            "engine": engine.name,
            "dtype": engine.dtype,
            "vocab_size": engine.vocab_size,
            "context_length": engine.context_length,
            "chat": engine.tokenizer.template is not None,
            "score": engine.name != "vllm",  # which gives no logits
            "ends": sorted(engine.tokenizer.stop_ids),
        }
        self.piece = pieces(engine.tokenizer)
        self.draining = False

    async def start(self, job: Job) -> Run:
        """Begin to continue texts."""
        prompts = await asyncio.to_thread(self._ids, job)  # a long text takes a while, without holding others up
        requests = [
            Request(ids, job.sampler, job.max_tokens, job.seed + i, job.stop) for ids in prompts for i in range(job.n)
        ]
        try:
            return Run(prompts, self.scheduler.submit(requests))
        except Full as error:
            raise busy(str(error) or "the queue is full; try again", "queue_full", status=429) from error
        except Draining as error:
            raise busy("the server is ending; try again", "draining") from error

    async def pieces(self, tokens: Iterable[int]) -> Mapping[int, str]:
        """The text of each token alone."""
        return {token: self.piece(token) for token in tokens}

    async def score(self, text: Prompt, top: int) -> dict[str, Any]:
        """Read a text, every token after the ones before it."""
        ids = await asyncio.to_thread(self._read, text)
        rows = await self._call(read, self.engine, ids, top)
        decode = self.engine.tokenizer.decode
        return scored(rows, self.piece, decode(ids)[len(decode(ids[:1])) :])

    async def detect(
        self, text: Prompt, prompt: Prompt | None, sampler: Sampler | None, level: float
    ) -> dict[str, Any]:
        """Test whether the model wrote a text."""
        from hartley.detection import detect, explain

        ids = await asyncio.to_thread(self._read, text)
        if isinstance(prompt, str):
            tokenizer = self.engine.tokenizer
            encode = tokenizer.encode if tokenizer.template is None else tokenizer.chat
            prompt = await asyncio.to_thread(encode, prompt)
        if len(ids) + len(prompt or ()) > MOST_READ:
            raise ValueError(
                f"text and prompt have {len(ids) + len(prompt or ())} tokens, and {MOST_READ} are read here"
            )
        settings = {"prompt": prompt or [], "sampler": sampler, "alpha": level}
        found = await self._call(lambda: detect(text, self.engine, **settings))
        return found.to_dict() | {"meaning": explain(found, self.model)}

    async def ready(self) -> bool:
        """Whether new work is taken."""
        return not self.draining

    def load(self) -> tuple[int, int]:
        """Choices that run, and choices that wait."""
        return self.scheduler.running, self.scheduler.waiting

    async def drain(self, seconds: float) -> None:
        """Refuse new work, let what runs finish, and end what still runs after ``seconds``."""
        self.draining = True
        await self.scheduler.drain(seconds)

    def close(self) -> None:
        """Give everything back."""
        self.scheduler.close()

    async def _call(self, function: Any, *arguments: Any) -> Any:
        if self.draining:
            raise busy("the server is ending; try again", "draining")
        if not self.about["score"]:
            raise ValueError(f"engine {self.engine.name!r} gives no logits of a text; serve it with another one")
        try:
            return await asyncio.wrap_future(self.scheduler.call(function, *arguments))
        except Full as error:
            raise busy("the queue is full; try again", "queue_full", status=429) from error
        except Draining as error:
            raise busy("the server is ending; try again", "draining") from error

    def _ids(self, job: Job) -> list[list[int]]:
        tokenizer = self.engine.tokenizer
        if job.messages is not None:
            return [tokenizer.chat(job.messages)]
        return [tokenizer.encode(one) if isinstance(one, str) else list(one) for one in job.prompts]

    def _read(self, text: Prompt) -> list[int]:
        ids = self.engine.tokenizer.encode(text) if isinstance(text, str) else list(text)
        most = min(MOST_READ, self.engine.context_length)
        if len(ids) > most:
            raise ValueError(
                f"text has {len(ids)} tokens, and {most} are read here; use hartley detect or hartley report"
            )
        check_ids(self.engine, ids, "text")
        return ids


def read(engine: Any, ids: list[int], top: int) -> Generator[None, None, list[dict[str, Any]]]:
    """What the model makes of each token of a text, nats, and the ``top`` likeliest with their log-probabilities.

    A part of the text at each turn, and the rows at the end. The first token has no prediction, and its numbers are
    None.
    """
    rows: list[dict[str, Any]] = [
        {"token_id": ids[0], "surprisal": None, "entropy": None, "varentropy": None, "rank": None, "top": {}}
    ]
    for logits in parts_of(engine, ids[:-1]) if len(ids) > 1 else ():
        for part in logits.split(ROWS):
            tokens = torch.tensor(ids[len(rows) : len(rows) + len(part)])
            head = Head.of(part, max(top, 1))
            facts = head.facts(tokens)
            columns = (facts.surprisal, head.entropy, head.varentropy, facts.rank, head.tokens, head.log_probs)
            for token, row in zip(tokens.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True):
                surprisal, entropy, varentropy, rank, likeliest, log_probs = row
                likely = dict(zip(likeliest[:top], log_probs[:top], strict=True))
                rows.append(
                    {
                        "token_id": token,
                        "surprisal": surprisal,
                        "entropy": entropy,
                        "varentropy": varentropy,
                        "rank": rank,
                        "top": {one: value for one, value in likely.items() if value > -torch.inf},
                    }
                )
        yield
    return rows


def scored(rows: list[dict[str, Any]], piece: Callable[[int], str], predicted: str) -> dict[str, Any]:
    """The answer made of the rows of :func:`read`; ``predicted`` is the text after the first token."""
    from hartley.report.summary import totals

    names = ("surprisal", "entropy", "varentropy", "rank")
    found = totals([row | {"text": predicted if place == 0 else ""} for place, row in enumerate(rows)])
    return {
        "tokens": {
            "token_ids": [row["token_id"] for row in rows],
            "texts": [piece(row["token_id"]) for row in rows],
            **{name: [plain(row[name]) for row in rows] for name in names},
            "top": [
                [{"token_id": token, "text": piece(token), "log_prob": value} for token, value in row["top"].items()]
                for row in rows
            ],
        },
        "totals": {name: plain(found[name]) for name in Totals.__annotations__},
    }
