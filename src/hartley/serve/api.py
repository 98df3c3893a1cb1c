"""The routes under ``/v1``: OpenAI's, and two of our own."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from sse_starlette.sse import EventSourceResponse
from starlette.requests import ClientDisconnect

from hartley.decoding import Sampler
from hartley.decoding.text import joined, known_settings, parse_request
from hartley.engines import Step
from hartley.serve import schemas
from hartley.serve.answers import Form, choice, log_prob, tokens_of, usage
from hartley.serve.backend import Backend, Job, Run
from hartley.serve.errors import Refusal, busy, fault
from hartley.serve.logs import log
from hartley.serve.metrics import Metrics

STALLED = 60  # seconds after which a client that does not read its stream is given up

# What a client sends for "nothing special": a sampler of its own would refuse company that changes nothing
NEUTRAL = {"temperature": 1, "top_p": 1}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Faulty, "description": said}
    for status, said in {
        400: "What is asked cannot be done: the message says what.",
        401: "The key is missing or wrong.",
        404: "There is no such model.",
        408: "The body arrived too slowly.",
        413: "The body is too long.",
        415: "The body is not said to be JSON.",
        422: "The body is not what the schema allows: `param` is the field.",
        429: "The queue is full; `Retry-After` says when to come again.",
        500: "The server failed.",
        503: "The server is ending, or time ran out.",
    }.items()
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Some of the errors, for a route's description."""
    return {status: ERRORS[status] for status in statuses}


@dataclass(frozen=True)
class Serving:
    """What the routes work with."""

    backend: Backend
    metrics: Metrics
    max_tokens: int  #: that a request may ask for
    seconds: float  #: of wall time that a request may take
    log_prompts: bool
    card: dict[str, Any]  #: the model, as clients are told of it


class JsonRequest(Request):
    """A request whose body is JSON, or refused."""

    async def json(self) -> Any:
        """The body; NaN and infinities come through, for the schema to refuse by the field's name."""
        if not hasattr(self, "_json"):
            try:
                self._json = from_json(await self.body())
            except ValueError as error:
                raise Refusal(422, f"body: not JSON: {error}", param="body", code="invalid_json") from None
        return self._json


class JsonRoute(APIRoute):
    """A route that takes nothing but JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler behind a look at the content type."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                message = f"Content-Type must be application/json, got {kind!r:.100}"
                raise Refusal(415, message, param="Content-Type", code="unsupported_media_type")
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def routes(max_tokens: int, **settings: Any) -> APIRouter:
    """The router of ``/v1``, whose schemas have ``max_tokens`` as a bound."""
    router = APIRouter(prefix="/v1", route_class=JsonRoute, **settings)
    Completion, Chat = schemas.bounded(max_tokens)

    @router.get("/models", response_model=schemas.Models, responses=documented(400, 401, 500))
    async def models(request: Request) -> Response:
        """List the served model, with what a client has to know to ask of it."""
        return JSONResponse({"object": "list", "data": [_serving(request).card]})

    @router.get("/models/{model:path}", response_model=schemas.Model, responses=documented(400, 401, 404, 422, 500))
    async def model(model: schemas.Name, request: Request) -> Response:
        """The served model by its name."""
        serving = _serving(request)
        _check_model(serving, model)
        return JSONResponse(serving.card)

    @router.post("/completions", response_model=schemas.Completion, responses=ERRORS | _events("CompletionChunk"))
    async def completions(asked: Completion, request: Request) -> Response:  # pyright: ignore[reportInvalidTypeForm]
        """Continue a text, or several."""
        return await _generate(request, asked, "text", asked.logprobs)

    @router.post("/chat/completions", response_model=schemas.Chat, responses=ERRORS | _events("ChatChunk"))
    async def chat(asked: Chat, request: Request) -> Response:  # pyright: ignore[reportInvalidTypeForm]
        """Answer a conversation."""
        if asked.top_logprobs is not None and not asked.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        return await _generate(request, asked, "chat", (asked.top_logprobs or 0) if asked.logprobs else None)

    @router.post("/score", response_model=schemas.Score, responses=ERRORS)
    async def score(asked: schemas.ScoreRequest, request: Request) -> Response:
        """Every token of a text: what the model made of it after the ones before."""
        serving = _serving(request)
        _check_model(serving, asked.model)
        found = await _read(request, serving.backend.score(asked.text, asked.top))
        return JSONResponse({"model": serving.backend.model, **found})

    @router.post("/detect", response_model=schemas.Verdict, responses=ERRORS)
    async def detect(asked: schemas.DetectRequest, request: Request) -> Response:
        """Test whether the model wrote a text."""
        serving = _serving(request)
        _check_model(serving, asked.model)
        sampler = _parsed(asked.sampler) if asked.sampler else None
        found = await _read(request, serving.backend.detect(asked.text, asked.prompt, sampler, asked.level))
        about = {name: serving.backend.about[name] for name in ("engine", "dtype")}
        said = {"model": serving.backend.model, **about, "sampler": str(sampler or ""), "prompt": asked.prompt}
        return JSONResponse(said | found)

    return router


def _serving(request: Request) -> Serving:
    return request.app.state.serving


def _events(chunk: str) -> dict[int | str, dict[str, Any]]:
    """The other form of a status of 200: a stream of events, each with a chunk or an error, and one for the end."""
    shapes = [{"$ref": f"#/components/schemas/{name}"} for name in (chunk, "Faulty")]
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": shapes}}
    event = {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}}
    content = {"text/event-stream": {"itemSchema": event}}
    return {200: {"description": "The whole answer, or with `stream` its events.", "content": content}}


def card(backend: Backend, max_tokens: int) -> dict[str, Any]:
    """The model, as :class:`hartley.serve.schemas.Model`."""
    about = backend.about | {"max_tokens": max_tokens, "samplers": schemas.samplers()}
    created = int(time.time())
    return {"id": backend.model, "object": "model", "created": created, "owned_by": "hartley", "hartley": about}


def _check_model(serving: Serving, name: str | None) -> None:
    if name not in (None, serving.backend.model):
        message = f"model {name!r:.220} is not served here; {serving.backend.model!r} is"
        raise Refusal(404, message, param="model", code="model_not_found")


def _parsed(text: str) -> Sampler:
    try:
        return parse_request(text)
    except (ValueError, TypeError) as error:
        raise Refusal(400, str(error), param="sampler", code="invalid_sampler") from None


def _sampler(asked: schemas.Settings) -> Sampler:
    given = {key: value for key in known_settings() if (value := getattr(asked, key, None)) is not None}
    if asked.sampler is not None and given:
        message = f"sampler and {', '.join(given)} are both given; write everything in sampler, in the order you mean"
        raise Refusal(400, message, param="sampler", code="invalid_sampler")
    if asked.sampler is not None:
        return _parsed(asked.sampler)
    return _parsed(joined({key: value for key, value in given.items() if NEUTRAL.get(key) != value}))


def _job(asked: Any, form: Form, most: int) -> Job:
    prompts, messages = [], None
    if form.kind == "chat":
        messages = [{"role": one.role, "content": _content(one.content)} for one in asked.messages]
        limits = {asked.max_tokens, asked.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Refusal(400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens")
        max_tokens = limits.pop() if limits else most
    else:
        max_tokens = asked.max_tokens or min(16, most)
        one = isinstance(asked.prompt, str) or isinstance(asked.prompt[0], int)
        prompts = [asked.prompt] if one else asked.prompt
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    return Job(prompts, messages, _sampler(asked), max_tokens, asked.n or 1, seed, stop, form.numbers)


def _content(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


async def _generate(request: Request, asked: Any, kind: Any, logprobs: int | None) -> Response:
    serving, began = _serving(request), asyncio.get_running_loop().time()
    _check_model(serving, asked.model)
    form = Form(kind, logprobs, asked.entropy, asked.return_token_ids)
    job = _job(asked, form, serving.max_tokens)
    notes: dict[str, Any] = request.scope["hartley"]
    notes["tokens"] = 0
    if serving.log_prompts:
        notes["prompt"] = job.messages or job.prompts
    try:
        run = await serving.backend.start(job)
    except ValueError as error:
        raise Refusal(400, str(error), param="messages" if kind == "chat" else "prompt") from None
    answering = Answering(serving, job, form, run, notes, began)
    if asked.stream:
        options = asked.stream_options
        return Events(answering, with_usage=options is not None and options.include_usage)
    return JSONResponse(await _unless_gone(request, answering.whole()))


class Answering:
    """One generation being answered."""

    def __init__(self, serving: Serving, job: Job, form: Form, run: Run, notes: dict[str, Any], began: float) -> None:
        self.serving, self.job, self.form, self.run, self.notes, self.began = serving, job, form, run, notes, began
        self.count = len(run.prompts) * job.n
        self.drawn = 0
        serving.metrics.read(run.prompts)
        self.head = {
            "id": f"{'cmpl' if form.kind == 'text' else 'chatcmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": serving.backend.model,
            "seed": job.seed,
            "sampler": str(job.sampler),
        }

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        taken: list[list[Step]] = [[] for _ in range(self.count)]
        try:
            async for step in self._steps():
                taken[step.index].append(step if self.form.numbers else replace(step, draw=None))  # much less to hold
        finally:
            self.run.steps.cancel()
        pieces = await self._pieces([step for steps in taken for step in steps])
        choices = [choice(self.form, i, steps, pieces, prompt=self._prompt(i)) for i, steps in enumerate(taken)]
        kind = "text_completion" if self.form.kind == "text" else "chat.completion"
        return self.head | {"object": kind, "choices": choices, "usage": usage(self.run.prompts, self.drawn)}

    async def chunks(self, with_usage: bool) -> AsyncIterator[dict[str, Any]]:
        """The answer token by token; what goes wrong on the way is its last chunk."""
        kind = "text_completion" if self.form.kind == "text" else "chat.completion.chunk"
        head = self.head | {"object": kind} | ({"usage": None} if with_usage else {})
        offsets = [0] * self.count
        try:
            async for step in self._steps():
                index = step.index
                prompt = self._prompt(index) if step.position == 0 else None
                made = choice(
                    self.form, index, [step], await self._pieces([step]), prompt=prompt, offset=offsets[index]
                )
                offsets[index] += len(step.text)
                yield head | {"choices": [made]}
            if with_usage:
                yield head | {"choices": [], "usage": usage(self.run.prompts, self.drawn)}
        except Refusal as error:
            self.notes["ended"] = error.code
            yield fault(error.status_code, str(error.detail), error.param, error.code)
        except Exception:
            log.exception("a stream failed")
            self.notes["ended"] = "failed"
            yield fault(500, "the server failed; its log says where")

    async def _steps(self) -> AsyncIterator[Step]:
        """The steps, counted, until all choices have ended; a refusal where they do not get there."""
        metrics, steps = self.serving.metrics, aiter(self.run.steps)
        surprisals: list[list[float | None]] = [[] for _ in range(self.count)]
        going = self.count
        while going:
            try:
                async with asyncio.timeout_at(self.began + self.serving.seconds):
                    step = await anext(steps, None)
            except TimeoutError:
                message = f"the answer took more than {self.serving.seconds:g} s; ask for fewer tokens"
                headers = {"Retry-After": "60", "X-Should-Retry": "false"}  # the same would happen again
                raise Refusal(503, message, code="timeout", headers=headers) from None
            if step is None or step.finish == "cancelled":
                raise busy("the server is ending; ask again", "draining")
            if step.token is not None:
                if self.drawn == 0:
                    metrics.first.observe(asyncio.get_running_loop().time() - self.began)
                self.drawn += 1
                self.notes["tokens"] = self.drawn
                metrics.drawn(step)
                surprisals[step.index].append(log_prob(step))
            if step.finish is not None:
                going -= 1
                metrics.ended(self.job.sampler, [-value for value in surprisals[step.index] if value is not None])
            yield step

    async def _pieces(self, steps: list[Step]) -> Any:
        tokens = tokens_of(steps, self.form)
        return await self.serving.backend.pieces(tokens) if tokens else {}

    def _prompt(self, index: int) -> Any:
        return self.run.prompts[index // self.job.n] if self.form.token_ids else None


class Events(EventSourceResponse):
    """An answer as server-sent events; whatever ends it, its work ends too."""

    def __init__(self, answering: Answering, *, with_usage: bool) -> None:
        self.answering = answering
        super().__init__(_lines(answering.chunks(with_usage)), sep="\n", send_timeout=STALLED)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send; a client that went away before the first event never starts the iterator that would clean up."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answering.run.steps.cancel()


async def _lines(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The events, and the one that says that the answer is whole; an error is the last one instead."""
    chunk: dict[str, Any] = {}
    async for chunk in chunks:
        yield b"data: " + json.dumps(chunk, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
    if "error" not in chunk:
        yield b"data: [DONE]\n\n"


async def _read(request: Request, reading: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """What was read of a text, within the time a request may take."""
    serving = _serving(request)

    async def read() -> dict[str, Any]:
        try:
            async with asyncio.timeout(serving.seconds):
                return await reading
        except TimeoutError:
            raise busy(f"reading took more than {serving.seconds:g} s", "timeout", seconds=60) from None
        except ValueError as error:
            raise Refusal(400, str(error), param="text") from None

    return await _unless_gone(request, read())


async def _unless_gone(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """The result of some work, which ends with the client that waits for it."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, leaving):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one
