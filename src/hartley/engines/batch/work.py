"""The work itself: prompts in, answers out, the same whoever does it and in whatever order."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol

from hartley.decoding import Sampler, parse
from hartley.engines.batch.prompts import Prompt
from hartley.engines.loop import Request, generate
from hartley.engines.protocol import Engine

TOGETHER = 8  # requests at once, unless the engine plans its own batches
PLANS = ("vllm",)
KEPT = ("surprisal", "entropy", "varentropy", "rank", "kept", "mass")  # of a Draw


@dataclass(frozen=True)
class Job:
    """What to do with every prompt, and in which engine; a plain record that travels to other machines."""

    prompts: str  #: a path or an fsspec URL
    model: str = "smollm2"
    engine: str = "auto"
    dtype: str | None = None
    sampler: str = ""  #: its text form
    max_tokens: int = 128
    seed: int = 0
    chat: bool | None = None  #: None is the model's template if it has one
    stop: tuple[str, ...] = ()
    adaptive: str | None = None  #: file of a difficulty probe, which sets temperature and share of max_tokens
    shard: int = 64  #: prompts in a file, which is what a kill can cost
    together: int | None = None  #: requests run at once; results do not depend on it

    def __post_init__(self) -> None:
        for name in ("max_tokens", "shard", "together"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if not all(self.stop):
            raise ValueError(f"stop must be strings, none empty, got {self.stop!r}")
        self.parsed()
        if self.adaptive is not None and "temperature" in self.sampler:
            raise ValueError(f"adaptive sets each prompt's temperature; leave it out of the sampler {self.sampler!r}")

    def open(self) -> Engine:
        """Its engine, opened."""
        from hartley.engines import open_engine

        engine = "transformers" if self.adaptive is not None and self.engine == "auto" else self.engine
        return open_engine(self.model, engine, self.dtype)

    def parsed(self, temperature: float | None = None) -> Sampler:
        """The sampler, after a ``temperature`` if one is given.

        Raises ``ValueError`` for one that has a value per row, since prompts are many.
        """
        if "[" in self.sampler:
            raise ValueError(f"sampler {self.sampler!r} has a value for each row of a batch; give one number")
        parts = ([] if temperature is None else [f"temperature={temperature}"]) + [self.sampler] * bool(self.sampler)
        return parse(",".join(parts))

    def settings(self) -> dict[str, Any]:
        """What makes two runs the same run; ``together`` does not."""
        folder = Path(self.model).expanduser()
        return {
            "model": os.fspath(folder.absolute()) if folder.exists() else self.model,
            "sampler": str(self.parsed()),
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": list(self.stop),
            "adaptive": self.adaptive and hashlib.sha256(Path(self.adaptive).read_bytes()).hexdigest(),
            "shard": self.shard,
        }


class Store(Protocol):
    """Where answers are kept, shard by shard: :class:`hartley.report.run_folder.RunFolder`."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold it against another driver."""
        ...

    def check(self, settings: Mapping[str, Any]) -> None:
        """``ValueError`` if it was begun with other settings."""
        ...

    def begin(self, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record what a run is held to, and what its reader may want to know."""
        ...

    def clean(self) -> None:
        """Remove what a killed run left half done."""
        ...

    def done(self) -> set[int]:
        """The shards that are there, whole."""
        ...

    def has(self, shard: int) -> bool:
        """Whether the shard is there, whole."""
        ...

    def write(self, shard: int, answers: Sequence[Mapping[str, Any]]) -> None:
        """Keep all of it or nothing."""
        ...


class Shard(NamedTuple):
    """What came of a shard."""

    prompts: int
    tokens: int
    errors: int
    error: str | None  #: the first one

    @classmethod
    def of(cls, answers: Sequence[Mapping[str, Any]]) -> "Shard":
        """The numbers of a shard's answers."""
        errors = [f"{one['id']}: {one['error']}" for one in answers if one["error"] is not None]
        return cls(len(answers), sum(len(one["tokens"]) for one in answers), len(errors), next(iter(errors), None))


def facts(engine: Engine, job: Job) -> dict[str, Any]:
    """What only an open engine knows, and a run is held to; ``ValueError`` if it cannot do the job at all."""
    if job.adaptive is not None:
        _strategies(engine, job, [])
    templated = getattr(engine.tokenizer, "template", None) is not None
    return {
        "model_name": engine.model_name,
        "engine": engine.name,
        "dtype": engine.dtype,
        "vocab_size": engine.vocab_size,
        "context_length": engine.context_length,
        "chat": templated if job.chat is None else job.chat,
    }


def seed_of(seed: int, id: str) -> int:
    """The seed of one prompt, in [0, 2**63): it depends on its id and the run's seed alone.

    >>> seed_of(1, "a") == seed_of(1, "a"), seed_of(1, "a") == seed_of(2, "a"), seed_of(1, "a") == seed_of(1, "b")
    (True, False, False)
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest(), "little") >> 1


def answer(
    engine: Engine,
    job: Job,
    prompts: Sequence[Prompt],
    *,
    cancel: Event | None = None,
    drawn: Callable[[int, int], None] = lambda prompts, tokens: None,
) -> list[dict[str, Any]] | None:
    """Answer every prompt, in their order; None if ``cancel`` was set before the end.

    An answer has ``id, prompt, text, finish_reason, error, seed, strategy, tokens``. A prompt that cannot be answered
    (none, empty, longer than the context) gets the finish reason "error" and says why, and the others go on without
    it. ``drawn`` is told of answers as they end: how many, and their tokens.
    """
    chat = facts(engine, job)["chat"]
    answers = [_begun(job, prompt) for prompt in prompts]
    requests: list[tuple[dict[str, Any], Request]] = []
    plans = {} if job.adaptive is None else _plans(engine, job, answers)
    for one in answers:
        try:
            requests.append((one, _request(engine, job, one, chat, plans.get(one["id"]))))
        except ValueError as error:
            _refuse(one, error)
            drawn(1, 0)
    together = job.together or (len(requests) if engine.name in PLANS else TOGETHER)
    for at in range(0, len(requests), together or 1):
        if not _draw(engine, requests[at : at + together], cancel, drawn):
            return None
    return answers


def _begun(job: Job, prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "prompt": prompt.text,
        "text": "",
        "finish_reason": None,
        "error": None,
        "seed": seed_of(job.seed, prompt.id),
        "strategy": None,
        "tokens": [],
    }


def _request(engine: Engine, job: Job, answer: dict[str, Any], chat: bool, plan: Any) -> Request:
    """How a prompt is put to the engine; ``plan`` is its strategy, if it has one."""
    prompt, sampler, most = answer["prompt"], job.parsed(), job.max_tokens
    if prompt is None or not prompt.strip():
        raise ValueError("the prompt is empty")
    if isinstance(plan, ValueError):
        raise plan
    if plan is not None:
        answer["strategy"] = plan.strategy
        prompt, sampler, most = plan.prompt, job.parsed(plan.temperature), plan.max_tokens
    tokenizer: Any = engine.tokenizer
    ids = tokenizer.chat(prompt) if chat else tokenizer.encode(prompt)
    return Request(ids, sampler, most, answer["seed"], job.stop)


def _plans(engine: Engine, job: Job, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The strategy of each prompt by its id, or why it has none."""
    asked = [one for one in answers if one["prompt"] and one["prompt"].strip()]
    try:
        return dict(zip((one["id"] for one in asked), _strategies(engine, job, asked), strict=True))
    except ValueError as error:
        if len(asked) == 1:
            return {asked[0]["id"]: error}
        return {id: plan for one in asked for id, plan in _plans(engine, job, [one]).items()}


def _strategies(engine: Engine, job: Job, answers: Sequence[dict[str, Any]]) -> list[Any]:
    from hartley.engines.adaptive import plan

    texts = [one["prompt"] for one in answers]
    return plan(engine, texts, job.adaptive or "", max_tokens=job.max_tokens, chat=job.chat)


def _draw(
    engine: Engine,
    requests: Sequence[tuple[dict[str, Any], Request]],
    cancel: Event | None,
    drawn: Callable[[int, int], None],
) -> bool:
    """Answer these together, or one by one where the engine refuses them together; False if cancelled."""
    for one, _ in requests:
        one.update(text="", finish_reason=None, tokens=[])
    try:
        for step in generate(engine, [request for _, request in requests], cancel=cancel):
            if step.finish == "cancelled":
                return False
            one = requests[step.index][0]
            one["text"] += step.text
            if step.draw is not None:
                known = {key: step.draw.get(key) for key in KEPT}
                one["tokens"].append({"position": step.position, "token_id": step.token, "text": step.text, **known})
            if step.finish is not None:
                one["finish_reason"] = step.finish
                drawn(1, len(one["tokens"]))
    except ValueError as error:
        if len(requests) == 1:
            one = requests[0][0]
            one.update(text="", tokens=[])
            _refuse(one, error)
            drawn(1, 0)
            return True
        return all(_draw(engine, [request], cancel, drawn) for request in requests)
    return True


def _refuse(answer: dict[str, Any], error: ValueError) -> None:
    answer.update(
        finish_reason="error",
        error=str(error).replace("the prompt of request 0", "the prompt").replace("prompt 0", "the prompt"),
    )
