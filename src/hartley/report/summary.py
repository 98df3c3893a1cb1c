"""Totals of a run and the measures that texts are compared by: plain functions of token dicts or token ids."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

Token = Mapping[str, Any]


def text_of(tokens: Iterable[Token]) -> str:
    """The text of a run."""
    return "".join(token["text"] for token in tokens)


def bits_per_byte(nats: float, text: str) -> float | None:
    """Information in ``nats`` over a ``text``, as bits for each of its UTF-8 bytes; None for an empty text.

    Unlike nats per token this does not depend on how a text is cut into tokens.

    >>> bits_per_byte(16 * math.log(2), "four")
    4.0
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    return nats / math.log(2) / size if size else None


def totals(tokens: Sequence[Token]) -> dict[str, Any]:
    """Means of a run: nats for each token (varentropy nats^2), bits for each byte of its text.

    ``bits_per_byte`` is of the surprisals: the length of this text in a code made for the model.
    ``bits_per_byte_entropy`` is of the entropies: the length that was to be expected. A mean is over the tokens that
    have the number, None where none has.

    >>> totals([{"text": "ab", "surprisal": 1.0, "entropy": 2.0, "kept": 3}])["mean_entropy"]
    2.0
    """
    text = text_of(tokens)
    surprisals, entropies = _numbers(tokens, "surprisal"), _numbers(tokens, "entropy")
    kept = _numbers(tokens, "kept")
    return {
        "tokens": len(tokens),
        "bytes": len(text.encode("utf-8", "surrogatepass")),
        "mean_entropy": _mean(entropies),
        "mean_varentropy": _mean(_numbers(tokens, "varentropy")),
        "mean_surprisal": _mean(surprisals),
        "bits_per_byte": bits_per_byte(math.fsum(surprisals), text) if surprisals else None,
        "bits_per_byte_entropy": bits_per_byte(math.fsum(entropies), text) if entropies else None,
        "mean_kept": _mean(kept),
        "min_kept": min(kept, default=None),
        "max_kept": max(kept, default=None),
        "mean_mass": _mean(_numbers(tokens, "mass")),
    }


def distinct_n(texts: Iterable[Sequence[Hashable]], n: int = 3) -> float | None:
    """Share of the n-grams of several token sequences that differ from one another; None where there are none.

    >>> distinct_n([[1, 2, 3, 4], [1, 2, 3, 5]])  # 123 twice, 234, 235
    0.75

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repeated_ngrams(tokens: Sequence[Hashable], n: int = 3) -> float | None:
    """Share of the n-grams of one token sequence that stood earlier in it; None where there are none.

    >>> repeated_ngrams([1, 2, 3, 1, 2, 3, 1])  # 123, 231, 312, and then 123, 231 again
    0.4

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", equation 7.
    """
    grams = _ngrams(tokens, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else None


def mean_and_error(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None values do not count, and one value has no error.

    >>> mean_and_error([1.0, 3.0])
    (2.0, 1.0)
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2:
        return _mean(numbers), None
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return mean, math.sqrt(variance / len(numbers))


def _ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _numbers(tokens: Iterable[Token], key: str) -> list[float]:
    return [token[key] for token in tokens if token.get(key) is not None]


def _mean(numbers: Sequence[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None
