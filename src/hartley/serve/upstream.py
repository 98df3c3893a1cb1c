"""A vLLM with Hartley's plug-in, behind our interface: its own scheduler and GPUs, our samplers, numbers and page.

Prompts are turned into token ids by its tokenizer first, so that everything is a completion of token ids, cut at the
context as everywhere else. Its stream carries our columns with each choice; from them the same steps are made that
the decode loop in this process gives.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from hartley.decoding import Sampler
from hartley.engines import Step
from hartley.serve.backend import Job, Prompt, Run
from hartley.serve.errors import Refusal, busy

TOGETHER = 32  # questions asked at the same time about the texts of tokens
AHEAD = 256  # steps that may wait for a slow client before the upstream waits too
FINISHES = {"stop": "stop", "length": "length"}


class Upstream:
    """A server of vLLM; see :class:`hartley.serve.backend.Backend`. Texts cannot be read there: it gives no logits."""

    def __init__(self, client: httpx.AsyncClient, model: str, context_length: int) -> None:
        self.client, self.model, self.context_length = client, model, context_length
        self.about = {
            "engine": "vllm",
            "dtype": None,
            "vocab_size": None,
            "context_length": context_length,
            "chat": True,
            "score": False,
            "ends": None,
        }
        self.known: dict[int, str] = {}
        self.asking = asyncio.Semaphore(TOGETHER)
        self.going: set[UpstreamSteps] = set()
        self.draining = False

    @classmethod
    def connect(cls, url: str, key: str | None = None) -> "Upstream":
        """Ask the server at ``url`` for its model.

        Raises ``ValueError`` for an address that is none, ``OSError`` where no vLLM answers.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"upstream must be an address such as http://localhost:8000, got {url!r}")
        base = url.rstrip("/").removesuffix("/v1")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every question otherwise
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            with httpx.Client(base_url=base, headers=headers, timeout=10) as client:
                answer = client.get("/v1/models")
                answer.raise_for_status()
                model = answer.json()["data"][0]
                name, length = str(model["id"]), int(model["max_model_len"])
        except httpx.HTTPError as error:
            raise OSError(f"{base} does not answer: {error or type(error).__name__}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise OSError(f"{base} answers, but not as a vLLM does: /v1/models has no max_model_len") from error
        patience, many = httpx.Timeout(10, read=None, pool=None), httpx.Limits(max_connections=None)
        return cls(httpx.AsyncClient(base_url=base, headers=headers, timeout=patience, limits=many), name, length)

    async def start(self, job: Job) -> Run:
        """Begin to continue texts."""
        if self.draining:
            raise busy("the server is ending; try again", "draining")
        prompts = [await self._ids(prompt) for prompt in job.prompts]
        if job.messages is not None:
            prompts = [(await self._ask("/tokenize", messages=list(job.messages)))["tokens"]]
        for place, ids in enumerate(prompts):
            if not 0 < len(ids) < self.context_length:
                raise ValueError(
                    f"the prompt of request {place} has {len(ids)} tokens; it needs at least one, and less than the "
                    f"{self.context_length} of the context of {self.model}"
                )
        room = min(job.max_tokens, self.context_length - max(map(len, prompts)))
        body = {
            "model": self.model,
            "prompt": prompts,
            "max_tokens": room,
            "n": job.n,
            "seed": job.seed,
            "stop": list(job.stop),
            "stream": True,
            "return_token_ids": True,
            # What vLLM would do after our sampler, and its defaults may come from the model's own files
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "vllm_xargs": {"hartley": str(job.sampler), "entropy": "all" if job.numbers else True},
        }
        request = self.client.build_request("POST", "/v1/completions", json=body)
        answer = await self._send(request)
        if answer.status_code != 200:
            await answer.aread()
            _refuse(answer)
        steps = UpstreamSteps(self, answer, len(prompts) * job.n)
        await asyncio.sleep(0)  # its task runs now, and so cleans up whatever comes
        return Run(prompts, steps)

    async def pieces(self, tokens: Iterable[int]) -> Mapping[int, str]:
        """The text of each token alone, asked for once."""

        async def learn(token: int) -> None:
            async with self.asking:
                self.known[token] = str((await self._ask("/detokenize", tokens=[token]))["prompt"])

        missing = [token for token in tokens if token not in self.known]
        await asyncio.gather(*map(learn, missing))
        return self.known

    async def score(self, text: Prompt, top: int) -> NoReturn:
        """Not here."""
        raise ValueError("vLLM gives no logits of a text; serve the model with another engine to score one")

    async def detect(self, text: Prompt, prompt: Prompt | None, sampler: Sampler | None, level: float) -> NoReturn:
        """Not here."""
        raise ValueError("vLLM gives no logits of a text; serve the model with another engine to judge one")

    async def ready(self) -> bool:
        """Whether new work is taken: here, and there."""
        try:
            return not self.draining and (await self.client.get("/health", timeout=5)).status_code == 200
        except httpx.HTTPError:
            return False

    def load(self) -> tuple[int, int]:
        """Choices under way; which of them wait is vLLM's to know."""
        return sum(steps.left for steps in self.going), 0

    async def drain(self, seconds: float) -> None:
        """Refuse new work, let what runs finish, and end what still runs after ``seconds``."""
        self.draining = True
        end = asyncio.get_running_loop().time() + seconds
        while self.going and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        for steps in list(self.going):
            steps.cancel()

    def close(self) -> None:
        """Nothing is held: connections end with the process."""

    async def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return (await self._ask("/tokenize", prompt=prompt))["tokens"]
        return list(prompt)

    async def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        request = self.client.build_request("POST", path, json={"model": self.model, **body})
        answer = await self._send(request)
        await answer.aread()
        if answer.status_code != 200:
            _refuse(answer)
        return answer.json()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self.client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise busy("the server behind this one does not answer", "upstream", seconds=5) from error


class UpstreamSteps:
    """The stream of vLLM as steps; a task reads it, whose end closes the connection, which ends the work there."""

    def __init__(self, upstream: Upstream, answer: httpx.Response, count: int) -> None:
        self.upstream, self.answer = upstream, answer
        self.positions = [0] * count
        self.open = set(range(count))
        self.queue: asyncio.Queue[Step | Exception | None] = asyncio.Queue(AHEAD)
        upstream.going.add(self)
        self.task = asyncio.create_task(self._pump())

    @property
    def left(self) -> int:
        """How many choices go on."""
        return len(self.open)

    def cancel(self) -> None:
        """End the work there; who still reads gets a last step for every choice that was going on."""
        self.task.cancel()

    async def __aiter__(self) -> AsyncIterator[Step]:
        """The steps of every choice, as they come."""
        while (one := await self.queue.get()) is not None:
            if isinstance(one, Exception):
                raise one
            yield one

    async def _pump(self) -> None:
        try:
            await self._read()
        except asyncio.CancelledError:
            last = [Step(i, self.positions[i], None, "", None, "cancelled") for i in sorted(self.open)]
            while self.queue.qsize() > AHEAD - len(last) - 1:  # who reads so slowly does not get all of it
                self.queue.get_nowait()
            for step in (*last, None):
                self.queue.put_nowait(step)
        finally:
            self.upstream.going.discard(self)
            await self.answer.aclose()

    async def _read(self) -> None:
        last: Exception | None = None
        try:
            async for line in self.answer.aiter_lines():
                if line.startswith("data: {"):
                    for step in self._steps(json.loads(line.removeprefix("data: "))):
                        await self.queue.put(step)
        except httpx.HTTPError:
            pass  # what is still open then has broken off
        except Exception as error:
            last = error
        if self.open and last is None:
            last = busy("the server behind this one broke off", "upstream", seconds=5)
        await self.queue.put(last)

    def _steps(self, event: Mapping[str, Any]) -> Iterable[Step]:
        """The steps of one event: one for each token that has come, with the text on the last of them."""
        if "error" in event:
            raise busy(f"the server behind this one failed: {_message(event)}", "upstream", seconds=5)
        for choice in event.get("choices", ()):
            index, tokens = choice["index"], choice.get("token_ids") or []
            columns = choice.get("hartley")
            if tokens and columns is None:
                raise busy("the server behind this one runs without Hartley's plug-in", "upstream", seconds=60)
            finish = choice.get("finish_reason")
            finish = None if finish is None else FINISHES.get(finish, "cancelled")
            if finish is not None:
                self.open.discard(index)
            yield from self._made(index, tokens, columns or {}, choice["text"], finish)

    def _made(
        self, index: int, tokens: Sequence[int], columns: Mapping[str, list[Any]], text: str, finish: Any
    ) -> Iterable[Step]:
        for place, token in enumerate(tokens):
            last = place == len(tokens) - 1
            draw = {"token": token} | {name: values[place] for name, values in columns.items()}
            position = self.positions[index]
            self.positions[index] += 1
            yield Step(index, position, token, text if last else "", draw, finish if last else None)
        if not tokens and (text or finish):
            yield Step(index, self.positions[index], None, text, None, finish)


def _refuse(answer: httpx.Response) -> NoReturn:
    """Hand on what vLLM refuses; what is wrong between it and us is not the client's to mend."""
    try:
        said = _message(answer.json())
    except (ValueError, TypeError, AttributeError):
        said = f"status {answer.status_code}"
    if answer.status_code in (400, 422):
        raise ValueError(said)
    if answer.status_code == 429:
        raise Refusal(429, said, code="queue_full", headers={"Retry-After": answer.headers.get("Retry-After", "1")})
    raise busy(f"the server behind this one refuses: {said}", "upstream", seconds=5)


def _message(body: Mapping[str, Any]) -> str:
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
