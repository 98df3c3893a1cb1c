"""Read a text under a model, in windows where it is longer than the model's context."""

from collections.abc import Iterator, Sequence

import torch

from hartley.detection.protocol import Reader, Transformation
from hartley.detection.scores import Scores, check_floor, empty, score_tokens, transformation

MOST_LOGITS = 1 << 27  # half a gigabyte in float32
SHORTEST = 256  # tokens: a window is not made shorter than this, or the context, for want of memory


def read(
    text: str | Sequence[int],
    model: Reader,
    *,
    prompt: str | Sequence[int] = "",
    temperature: float = 1.0,
    sampler: Transformation | None = None,
    floor: float | None = None,
    window: int | None = None,
) -> Scores:
    """Return the scores of a text, given as text or as token ids, after a ``prompt`` that is context and not judged.

    A text of more than ``window`` tokens is read in windows that overlap by half, and each token is judged once, by
    the first window that holds it: with at least half a window before it. What is scored is then the model that sees
    its text through these windows; it is a model like any other, chosen by position alone, so every guarantee holds
    for it as it stands. A writer who saw more of the text is, strictly, another one. By default a window is what the
    context holds and half a gigabyte of logits allow (see :func:`window_of`).

    Raises ``ValueError`` for a window outside 2 .. context, a token the model does not know, and what
    :func:`hartley.detection.score_from_logits` refuses.
    """
    before, ids = _ids(prompt, text, model)
    size = window_of(model, window)
    for id in (*before, *ids):
        if not 0 <= id < model.vocab_size:
            raise ValueError(f"text holds token {id}; tokens of {model.model_name} are 0 to {model.vocab_size - 1}")
    whole, transform = [*before, *ids], transformation(temperature, sampler)
    check_floor(floor)
    scores = empty()
    for start, first, stop in windows(len(whole), max(1, len(before)), size):
        logits = model.score(whole[start : stop - 1])[first - 1 - start :]
        scores += score_tokens(logits, torch.tensor(whole[first:stop]), transform, floor)
    return scores


def window_of(model: Reader, window: int | None = None) -> int:
    """How many tokens are read at once: ``window``, or what context and memory allow."""
    if window is None:
        return min(model.context_length, max(SHORTEST, MOST_LOGITS // model.vocab_size))
    if not 2 <= window <= model.context_length:
        raise ValueError(f"window must be in 2 .. {model.context_length}, the context; got {window}")
    return window


def windows(length: int, judged: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``length`` tokens into windows ``(start, first, stop)``: read from start, judge first up to before stop.

    Tokens ``judged`` and later are judged, each once; a window reads at most ``size`` tokens to predict the next.

    >>> list(windows(10, 1, 4))
    [(0, 1, 5), (2, 5, 7), (4, 7, 9), (6, 9, 10)]
    """
    start, first = 0, judged
    while first < length:
        stop = min(start + size + 1, length)
        if stop > first:
            yield start, first, stop
            first = stop
        start += size - size // 2


def _ids(prompt: str | Sequence[int], text: str | Sequence[int], model: Reader) -> tuple[list[int], list[int]]:
    before = _encoded(prompt, model)
    ids = _encoded(text, model)
    if before and isinstance(text, str):  # the mark of a text's beginning stands before the prompt
        marks = model.tokenizer.encode("")
        ids = ids[len(marks) :] if marks and ids[: len(marks)] == marks else ids
    return before, ids


def _encoded(text: str | Sequence[int], model: Reader) -> list[int]:
    if isinstance(text, str):
        return list(model.tokenizer.encode(text)) if text else []
    return [int(id) for id in text]
