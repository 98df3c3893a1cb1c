"""Which of these models wrote this text? The one that is least surprised by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hartley.detection.protocol import Reader
from hartley.detection.reading import read
from hartley.info.plain import plain

SAME = 1e-6  # nats a byte: closer than float32 logits can tell


@dataclass(frozen=True)
class Reading:
    """What one model makes of the text."""

    nats: float  #: total surprisal of the tokens that have a prediction
    n_tokens: int
    n_bytes: int  #: of UTF-8 that those tokens spell
    nats_per_byte: float  #: NaN where nothing was read


@dataclass(frozen=True)
class Attribution:
    """The candidates, least surprised first, and which of them the text is attributed to.

    ``writer`` is None for a tie, or where nothing can be read. **Guarantee**, only where the two best candidates read
    the same tokens: the likelihood ratio exp(``nats``) is an E-value against the runner-up. Had the runner-up written
    the text, it would reach 1/alpha with probability at most alpha; ``p_value`` is its inverse, else None. That one of
    the candidates wrote the text is assumed, never shown.
    """

    writer: str | None
    margin: float  #: nats a byte by which the best is ahead of the runner-up
    nats: float | None  #: log-likelihood ratio of the two; None where they do not read the same tokens
    p_value: float | None
    readings: dict[str, Reading]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it: NaN becomes None."""
        return plain(asdict(self))


def attribute(text: str, models: Mapping[str, Reader], *, window: int | None = None) -> Attribution:
    """Attribute a text to the one of several ``models``, by name, that gives it the largest likelihood per byte.

    Models need not share a tokenizer: what is compared is the total log-likelihood of the tokens divided by the bytes
    they spell. Each model's first token has no prediction, and its bytes are not counted for that model, so candidates
    with other tokenizers are compared on texts that differ by a token. Likelihoods are those of the models as they are,
    at temperature 1.

    Raises ``ValueError`` for fewer than two models.

    Source: Radvand et al. 2025, test 2.
    """
    if len(models) < 2:
        raise ValueError(f"models must hold at least two candidates; got {len(models)}")
    readings: dict[str, Reading] = {}
    tokens: dict[str, list[int]] = {}
    for name, model in models.items():
        ids = list(model.tokenizer.encode(text)) if text else []
        scores = read(ids, model, window=window)
        nats, size = float(scores.surprisal.sum()), _bytes_after_first(text, ids, model)
        judged = scores.n_tokens > 0 and size > 0
        readings[name] = Reading(nats, scores.n_tokens, size, nats / size if judged else math.nan)
        tokens[name] = ids
    order = sorted(readings, key=lambda name: _last(readings[name].nats_per_byte))
    best, second = order[:2]
    margin = readings[second].nats_per_byte - readings[best].nats_per_byte
    same = tokens[best] == tokens[second] and readings[best].n_tokens > 0
    ahead = readings[second].nats - readings[best].nats if same else None
    return Attribution(
        best if margin > SAME else None,
        margin,
        ahead,
        None if ahead is None else math.exp(-max(ahead, 0.0)),
        {name: readings[name] for name in order},
    )


def _bytes_after_first(text: str, ids: list[int], model: Reader) -> int:
    """Bytes of the text without those of its first token, unless that is a mark that spells nothing."""
    first = model.tokenizer.decode(ids[:1]) if ids else ""
    return len(text.encode()) - (len(first.encode()) if text.startswith(first) else 0)


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value
