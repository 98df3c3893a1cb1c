"""What stands behind the interface: something that lists a model, continues texts and reads them."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hartley.decoding import Sampler
from hartley.engines import Step

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Job:
    """A checked request: either ``prompts``, or ``messages`` of a chat.

    Choice ``i`` of prompt ``p`` has the index ``p * n + i`` and is drawn with ``seed + i``. ``numbers`` asks for what
    only some clients want of each token: alternatives, and what is known of the distribution drawn from.
    """

    prompts: Sequence[Prompt]
    messages: Sequence[Mapping[str, str]] | None
    sampler: Sampler
    max_tokens: int
    n: int
    seed: int
    stop: tuple[str, ...]
    numbers: bool


class Steps(Protocol):
    """The steps of every choice, as they come."""

    def __aiter__(self) -> AsyncIterator[Step]:
        """Steps of :class:`hartley.engines.Step`; ``index`` is the choice's."""
        ...

    def cancel(self) -> None:
        """End the work; safe to call at any time."""
        ...


@dataclass(frozen=True)
class Run:
    """A job under way: the token ids of its prompts, and its steps."""

    prompts: Sequence[Sequence[int]]
    steps: Steps


class Backend(Protocol):
    """A model that is served.

    Errors: ``ValueError`` for what cannot be asked of this model (status 400), :class:`hartley.serve.errors.Refusal`
    for what cannot be done now.
    """

    model: str  #: its name
    about: dict[str, Any]  #: :class:`hartley.serve.schemas.About` without what the interface adds

    async def start(self, job: Job) -> Run:
        """Begin to continue texts."""
        ...

    async def pieces(self, tokens: Iterable[int]) -> Mapping[int, str]:
        """The text of each token alone."""
        ...

    async def score(self, text: Prompt, top: int) -> dict[str, Any]:
        """:class:`hartley.serve.schemas.Score` without the model's name."""
        ...

    async def detect(
        self, text: Prompt, prompt: Prompt | None, sampler: Sampler | None, level: float
    ) -> dict[str, Any]:
        """:class:`hartley.serve.schemas.Verdict` without the model and what was asked."""
        ...

    async def ready(self) -> bool:
        """Whether new work is taken."""
        ...

    def load(self) -> tuple[int, int]:
        """Choices that run, and choices that wait."""
        ...

    async def drain(self, seconds: float) -> None:
        """Refuse new work, let what runs finish, and end what still runs after ``seconds``."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
