"""What a reader returns, and how a token dict is made of a provider's log-probabilities."""

import codecs
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from hartley.report.intervals import Known
from hartley.report.readers.numbers import shown

SHOWN = 8  # alternatives kept of a step, as many as Hartley's own runs have
TIE = 1e-6  # log-probabilities of one token, told twice in single precision, agree to this


@dataclass(frozen=True)
class Text:
    """One generated text, or a scored prompt: its tokens as in :mod:`hartley.report`."""

    name: str
    tokens: list[dict[str, Any]]
    prompt: str | None = None
    whole: str | None = None  #: the text, where the tokens do not spell it
    finish: str | None = None
    is_prompt: bool = False
    known: list[Known | None] = field(default_factory=list)  #: what bounds the entropy of each token, where not told

    @property
    def text(self) -> str:
        """The text itself."""
        return self.whole if self.whole is not None else "".join(token["text"] for token in self.tokens)


@dataclass(frozen=True)
class Reading:
    """A file that was read: entropies stand in its tokens as numbers where told, else as ``entropy_low`` and ``_high``.

    ``notes`` say what a reader of the numbers has to know.
    """

    source: str
    format: str
    texts: list[Text]
    model: str | None = None
    notes: list[str] = field(default_factory=list)
    vocab_size: int | None = None

    @property
    def counted(self) -> list[Text]:
        """The texts that totals and figures are of: what was generated, or the scored prompts where nothing was."""
        return [text for text in self.texts if not text.is_prompt] or self.texts

    @property
    def tokens(self) -> list[dict[str, Any]]:
        """The tokens of the counted texts, one after the other."""
        return [token for text in self.counted for token in text.tokens]


class Listed(NamedTuple):
    """A token that a provider names with its log-probability (nats; -inf where it only says "very unlikely")."""

    text: str
    log_prob: float
    token_id: int | None = None
    raw: bytes | None = None

    def same(self, other: "Listed") -> bool:
        """Whether both are one token: by id, or spelled alike and as probable (not all providers give ids)."""
        if self.token_id is not None and other.token_id is not None:
            return self.token_id == other.token_id
        return self.text == other.text and abs(self.log_prob - other.log_prob) <= TIE

    @property
    def unspelled(self) -> bool:
        """Whether other tokens can look the same: half a character, or nothing."""
        return self.token_id is None and (not self.text or "\ufffd" in self.text)


def check_list(listed: Sequence[Listed], drawn: Listed, where: str) -> None:
    """Refuse alternatives that are named twice or out of order; the drawn token may stand anywhere among them."""
    others = [one for one in listed if not one.same(drawn)]
    for place, (before, after) in enumerate(itertools.pairwise(others), 1):
        if after.log_prob > before.log_prob + TIE:
            raise ValueError(
                f"{where}: top log-probabilities must fall from the most probable; got {shown(before.log_prob)} before "
                f"{shown(after.log_prob)} (places {place} and {place + 1}, the drawn token left out)"
            )
    seen: set[tuple[Any, ...]] = set()
    for one in listed:
        key = (one.token_id,) if one.token_id is not None else (one.text, one.raw, one.log_prob)
        if key in seen and not one.unspelled:
            raise ValueError(f"{where}: {one.text!r} is listed twice among the top log-probabilities")
        seen.add(key)


def known_of(listed: Sequence[Listed], drawn: Listed | None, *, exact: bool, whole: bool = True) -> Known:
    """What the log-probabilities of a step say for certain.

    ``exact``: the list is the N most probable tokens, and nothing else. Otherwise the drawn token may have been added
    to it, and where it is the least of the list nothing says that no other token comes between. ``whole``: no token is
    missing from the list; where one may be, those not listed can be of any probability.
    """
    told = drawn if drawn is not None and drawn.log_prob > -math.inf else None
    place = next((place for place, one in enumerate(listed) if told is not None and one.same(told)), None)
    others = [one.log_prob for at, one in enumerate(listed) if at != place and one.log_prob > -math.inf]
    inside = place is not None
    if told is None:
        return Known(others, whole)
    if not whole or not (others or (exact and inside)):
        return Known([*others, told.log_prob], False)
    if (exact and inside) or told.log_prob >= min(others):
        return Known([*others, told.log_prob], True)
    return Known(others, True, told.log_prob)


def token_of(position: int, text: str, drawn: Listed, listed: Iterable[Listed], **told: Any) -> dict[str, Any]:
    """A token dict; ``told`` are numbers that the provider gives itself (None where it does not)."""
    ranked = sorted((one for one in listed if one.log_prob > -math.inf), key=lambda one: -one.log_prob)
    token: dict[str, Any] = {
        "position": position,
        "token_id": drawn.token_id,
        "text": text,
        "piece": drawn.text,
        "surprisal": -drawn.log_prob + 0.0 if drawn.log_prob > -math.inf else None,
        "top": [{"token_id": one.token_id, "text": one.text, "log_prob": one.log_prob} for one in ranked[:SHOWN]],
    }
    token.update(told)
    return token


class Step(NamedTuple):
    """A token as a format tells it, before it is known which others its text depends on."""

    drawn: Listed
    listed: list[Listed]
    exact: bool = False
    whole: bool = True
    told: Mapping[str, Any] = {}


def text_of_steps(name: str, steps: Sequence[Step], *, skip: int = 0, **facts: Any) -> Text:
    """A text of its steps; a character whose bytes are spread over tokens appears with its last one.

    ``skip`` are positions before the first step.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens: list[dict[str, Any]] = []
    known: list[Known | None] = []
    for position, step in enumerate(steps, skip):
        raw = step.drawn.raw
        pending = decoder.getstate()[0]
        if raw is None:
            piece = (decoder.decode(b"", final=True) if pending else "") + step.drawn.text
            decoder.reset()
        else:
            piece = decoder.decode(raw)
        tokens.append(token_of(position, piece, step.drawn, step.listed, **step.told))
        told = step.told.get("entropy") is not None
        empty = step.drawn.log_prob == -math.inf and not step.listed
        known.append(None if told or empty else known_of(step.listed, step.drawn, exact=step.exact, whole=step.whole))
    if tokens and (rest := decoder.decode(b"", final=True)):
        tokens[-1]["text"] += rest
    return Text(name, tokens, known=known, **facts)


class Streamed(Protocol):
    """Text as its tokens arrive; :class:`hartley.models.TextStream` is one."""

    def push(self, id: int) -> str:
        """Take one more token and return the text that is certain now."""
        ...

    def flush(self) -> str:
        """Return what was held back."""
        ...


def spelled(text: Text, stream: Streamed) -> Text:
    """The text with its tokens' ids turned to text, if ids are all that it shows of them."""
    if not all(token["token_id"] is not None and token["text"] == f"⟨{token['token_id']}⟩" for token in text.tokens):
        return text
    tokens = [{**token, "text": stream.push(token["token_id"])} for token in text.tokens]
    for token in tokens:
        token["piece"] = token["text"] or token["piece"]
    if tokens:
        tokens[-1]["text"] += stream.flush()
    return replace(text, tokens=tokens, whole=None)
