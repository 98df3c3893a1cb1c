"""Readers of log-probabilities, one module a format; a file is recognised by its structure and never guessed at."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hartley.report.intervals import put_bounds
from hartley.report.readers import llama_cpp, openai, own
from hartley.report.readers.documents import documents
from hartley.report.readers.reading import Reading, Streamed, Text, spelled

FORMATS = (
    "OpenAI chat (choices[].logprobs.content), OpenAI completions (choices[].logprobs.tokens), both with what vLLM "
    "adds (prompt_logprobs, hartley), streamed or not; llama.cpp server (completion_probabilities); "
    "hartley generate --json; the folder of hartley batch"
)

__all__ = ["FORMATS", "Reading", "Text", "read"]


def read(path: str | Path, *, vocab_size: int | None = None, stream: Callable[[], Streamed] | None = None) -> Reading:
    """Read log-probabilities from a file, or from the folder of ``hartley batch``.

    Where only some log-probabilities of a step are known, its token gets ``entropy_low`` and ``entropy_high`` in nats
    (:func:`hartley.info.entropy_bounds`); ``vocab_size``, the number of tokens the model chooses from, limits it from
    above, and without it ``entropy_high`` is None. ``stream`` makes a :class:`hartley.models.TextStream`, by which
    token ids become text where they are all there is.

    Raises ``FileNotFoundError``; ``ValueError`` naming the file and the line or the token for what is empty, not UTF-8,
    not JSON, of no known format, without log-probabilities, or no log-probability (NaN, above 0).
    """
    if vocab_size is not None:
        from hartley.info.checks import check_count

        check_count("vocab_size", vocab_size)
    collecting = gc.isenabled()
    gc.disable()  # nothing here is in a cycle, and going over millions of numbers again and again takes a minute
    try:
        return _read(Path(path), vocab_size, stream)
    finally:
        if collecting:
            gc.enable()


def _read(path: Path, vocab_size: int | None, stream: Callable[[], Streamed] | None) -> Reading:
    if path.is_dir():
        if not own.is_run(path):
            raise ValueError(f"{path} is a folder without texts/ and tokens/; known formats: {FORMATS}")
        found = own.read_run(path)
    else:
        if not path.exists():
            raise FileNotFoundError(f"there is no file at {path}")
        found = _recognise(str(path), documents(path))
    texts = [spelled(text, stream()) for text in found.texts] if stream is not None else found.texts
    for text in texts:
        try:
            put_bounds(text.tokens, text.known, vocab_size)
        except ValueError as error:
            name = f"{text.name}, " if len(texts) > 1 else ""
            raise ValueError(f"{path}: {name}{error}") from error
    model = found.model.rpartition("/")[2] if found.model and found.model.startswith("/") else found.model
    return Reading(found.source, found.format, texts, model, [*found.notes, *_missing(found)], vocab_size)


def _missing(found: Reading) -> list[str]:
    missing = sum(token["surprisal"] is None for token in found.tokens)
    if not missing:
        return []
    return [
        f"{missing:,} of {len(found.tokens):,} tokens have no log-probability (the first of a text, or reported only "
        "as very unlikely); the mean surprisal is of the others"
    ]


def _recognise(source: str, found: list[Any]) -> Reading:
    for matches, reader in (
        (openai.matches, openai.read),
        (llama_cpp.matches, llama_cpp.read),
        (own.is_line, own.read_lines),
    ):
        known = [one for one in found if matches(one)]
        if known and len(known) == len(found):
            return reader(source, known)
        if known:
            place = next(number for number, one in enumerate(found, 1) if not matches(one))
            raise ValueError(
                f"{source}: object {place} of {len(found)} is not of the format of the others"
                f"{_error_in(found[place - 1])}"
            )
    raise ValueError(f"{source} is of no known format{_error_in(found[0])}; known are: {FORMATS}")


def _error_in(found: Any) -> str:
    """What a provider's own error message says, if that is what the file holds."""
    error = found.get("error") if isinstance(found, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f" (it says: {message[:200]!r})" if isinstance(message, str) else ""
