"""From the steps of the decode loop to OpenAI's choices and chunks, with our columns beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hartley.decoding.draw import likeliest
from hartley.engines import Step
from hartley.info.plain import plain

NUMBERS = ("surprisal", "entropy", "varentropy", "rank", "kept", "mass", "drawn_entropy", "drawn_varentropy")
TOP = 8  # alternatives of a token among our columns
HOLE = "\ufffd"

Pieces = Mapping[int, str]


@dataclass(frozen=True)
class Form:
    """How a request wants its choices."""

    kind: Literal["text", "chat"]
    logprobs: int | None  #: how many alternatives OpenAI's log-probabilities come with; None for no log-probabilities
    entropy: bool
    token_ids: bool

    @property
    def numbers(self) -> bool:
        """Whether the alternatives of a token are looked at."""
        return self.entropy or self.logprobs is not None


def tokens_of(steps: Iterable[Step], form: Form) -> set[int]:
    """Every token whose text these steps need."""
    if not form.numbers:
        return set()
    most = max(form.logprobs or 0, TOP if form.entropy else 0)
    found: set[int] = set()
    for step in steps:
        if step.token is not None:
            found.add(step.token)
            found.update(token for token, _ in likeliest(numbers(step), most))
    return found


def choice(
    form: Form,
    index: int,
    steps: Sequence[Step],
    pieces: Pieces,
    *,
    prompt: Sequence[int] | None = None,
    offset: int | None = None,
) -> dict[str, Any]:
    """One choice made of all of its steps, or a part of it made of some, as :mod:`hartley.serve.schemas` has it.

    ``prompt`` is given where its token ids are wanted. ``offset`` is given for a part: how many characters of the
    choice came before it.
    """
    text = "".join(step.text for step in steps)
    drawn = [step for step in steps if step.token is not None]
    logprobs = None
    if form.logprobs is not None:
        say = chat_logprobs if form.kind == "chat" else completion_logprobs
        logprobs = say(drawn, pieces, form.logprobs, offset or 0)
    made: dict[str, Any] = {"index": index}
    if form.kind == "text":
        made["text"] = text
    elif offset is None:
        made["message"] = {"role": "assistant", "content": text}
    else:
        made["delta"] = ({"role": "assistant"} if steps[0].position == 0 else {}) | {"content": text}
    made |= {"logprobs": logprobs, "finish_reason": steps[-1].finish}
    if form.entropy:
        made["hartley"] = columns(drawn, pieces)
    if prompt is not None:
        made["prompt_token_ids"] = list(prompt)
    if form.token_ids:
        made["token_ids"] = [step.token for step in drawn]
    return made


def columns(steps: Sequence[Step], pieces: Pieces) -> dict[str, list[Any]]:
    """Our numbers, one entry for each token: nats, varentropies nats^2, None where one is not finite."""
    return {
        "token_ids": [step.token for step in steps],
        "texts": [pieces[step.token] for step in steps if step.token is not None],
        **{name: [plain(numbers(step)[name]) for step in steps] for name in NUMBERS},
        "top": [
            [
                {"token_id": token, "text": pieces[token], "log_prob": value}
                for token, value in likeliest(numbers(step), TOP)
            ]
            for step in steps
        ],
    }


def completion_logprobs(steps: Sequence[Step], pieces: Pieces, most: int, offset: int) -> dict[str, Any]:
    """OpenAI's columns: a token's log-probability is the model's own, and it is among its alternatives."""
    found: dict[str, Any] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [] if most else None,
        "text_offset": [],
    }
    for step in steps:
        piece, value = pieces[step.token or 0], log_prob(step)
        found["tokens"].append(piece)
        found["token_logprobs"].append(value)
        found["text_offset"].append(offset)
        if most:
            top: dict[str, float | None] = {}
            for token, other in likeliest(numbers(step), most):
                top.setdefault(pieces[token], other)  # of two tokens that look alike, the likelier
            found["top_logprobs"].append(top | ({} if piece in top else {piece: value}))
        offset += len(step.text)
    return found


def chat_logprobs(steps: Sequence[Step], pieces: Pieces, most: int, offset: int) -> dict[str, Any]:
    """OpenAI's list; the ``bytes`` of a token that is no whole characters are not known."""
    return {
        "content": [
            _logprob(pieces[step.token or 0], log_prob(step))
            | {"top_logprobs": [_logprob(pieces[token], value) for token, value in likeliest(numbers(step), most)]}
            for step in steps
        ]
    }


def _logprob(piece: str, value: float | None) -> dict[str, Any]:
    return {"token": piece, "logprob": value, "bytes": None if HOLE in piece else list(piece.encode())}


def log_prob(step: Step) -> float | None:
    """Of the drawn token under the model at temperature 1, nats."""
    value = plain(numbers(step)["surprisal"])
    return None if value is None else -value


def numbers(step: Step) -> dict[str, Any]:
    """What is known of the drawn token."""
    return step.draw or {}


def usage(prompts: Sequence[Sequence[int]], drawn: int) -> dict[str, int]:
    """Tokens of a request: those of its prompts, each counted once, and those that were drawn."""
    read = sum(map(len, prompts))
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
