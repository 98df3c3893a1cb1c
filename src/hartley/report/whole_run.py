"""What a whole file comes to: its totals, the difference between two files, and where the model was least sure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hartley.report.intervals import Bounds, ends, is_interval, mean_bounds, written
from hartley.report.measures import measured
from hartley.report.readers import Reading
from hartley.report.summary import Token, bits_per_byte, mean_and_error, text_of, totals

NO_SIZE = (
    "The vocabulary size is not known, so entropy is bounded from below only; --vocab-size or --model gives the upper "
    "bound"
)


def run_totals(reading: Reading) -> dict[str, Any]:
    """Totals of a file's counted texts: as :func:`hartley.report.totals`, with standard errors and intervals.

    Where the entropy of any token is an interval, ``mean_entropy`` and ``bits_per_byte_entropy`` are None, and their
    ``_low`` and ``_high`` are the interval (``_high`` None: not limited). A standard error is over the tokens, taken as
    independent.
    """
    tokens = reading.tokens
    whole = "".join(text.text for text in reading.counted)
    found = totals(tokens)
    found["bytes"] = len(whole.encode("utf-8", "surrogatepass"))
    found["mean_surprisal_error"] = mean_and_error(token["surprisal"] for token in tokens)[1]
    found["mean_entropy_error"] = None
    told = [token for token in tokens if token["surprisal"] is not None]
    if told:
        nats = math.fsum(token["surprisal"] for token in told)
        found["bits_per_byte"] = bits_per_byte(nats, whole if len(told) == len(tokens) else text_of(told))
    if is_interval(tokens):
        found["mean_entropy"] = found["bits_per_byte_entropy"] = None
        mean = mean_bounds(tokens) or Bounds(0.0, None)
        found["mean_entropy_low"], found["mean_entropy_high"] = mean
    elif found["mean_entropy"] is not None:
        found["mean_entropy_error"] = mean_and_error(token.get("entropy") for token in tokens)[1]
        known = [token["entropy"] for token in tokens if token.get("entropy") is not None]
        found["bits_per_byte_entropy"] = bits_per_byte(math.fsum(known), whole) if len(known) == len(tokens) else None
    notes = list(reading.notes)
    if found.get("mean_entropy_low") is not None and found["mean_entropy_high"] is None:
        notes.append(NO_SIZE)
    if len(reading.counted) < len(reading.texts):
        notes.append("Totals and figures are of what was generated; the scored prompt stands apart")
    return found | {
        "file": reading.source,
        "format": reading.format,
        "model": reading.model,
        "texts": len(reading.counted),
        "vocab_size": reading.vocab_size,
        "notes": notes,
    }


class Difference(NamedTuple):
    """The second file's mean less the first's: a number with its standard error, or an interval."""

    low: float
    high: float | None
    error: float | None
    exact: bool


def difference(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> Difference | None:
    """How ``key`` (of :func:`run_totals`) of the second file differs; None where either has none.

    The two files' tokens are taken as independent. For entropies that are intervals it is the interval of what their
    difference can be, open where either is not limited.
    """
    if first.get(key) is not None and second.get(key) is not None:
        errors = first.get(f"{key}_error"), second.get(f"{key}_error")
        error = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
        value = second[key] - first[key]
        return Difference(value, value, error, True)
    one, two = _interval(first, key), _interval(second, key)
    if one is None or two is None:
        return None
    low = -math.inf if one.high is None else two.low - one.high
    return Difference(low, None if two.high is None else two.high - one.low, None, False)


def _interval(found: Mapping[str, Any], key: str) -> Bounds | None:
    if found.get(key) is not None:
        return Bounds(found[key], found[key])
    if found.get(f"{key}_low") is not None:
        return Bounds(found[f"{key}_low"], found[f"{key}_high"])
    return None


class Span(NamedTuple):
    """A stretch of a text: its place (tokens counted from 0), words, and mean entropy and surprisal in nats."""

    text: int
    start: int
    stop: int
    words: str
    entropy: Bounds | None
    exact: bool
    surprisal: float | None


def uncertain_spans(reading: Reading, most: int = 10, length: int = 12) -> list[Span]:
    """The stretches of ``length`` tokens of the highest mean entropy, none over another, the highest first.

    Where entropies are intervals their lower ends decide, which are sure; where there are none, surprisals do.
    """
    windows: list[tuple[float, int, int, int]] = []
    for place, text in enumerate(reading.counted):
        scores = [_score(token) for token in text.tokens]
        size = min(length, len(scores))
        total = math.fsum(scores[:size])
        for start in range(len(scores) - size + 1):
            if start:
                total += scores[start + size - 1] - scores[start - 1]
            windows.append((total / max(size, 1), place, start, start + size))
    windows.sort(key=lambda one: (-one[0], one[1], one[2]))
    taken: list[tuple[float, int, int, int]] = []
    free: dict[int, set[int]] = {}
    for one in windows:
        used = free.setdefault(one[1], set())
        if len(taken) == most:
            break
        if one[2] in used or one[3] - 1 in used:  # spans are equally long within a text
            continue
        used.update(range(one[2], one[3]))
        taken.append(one)
    return [_span(reading, place, start, stop) for _, place, start, stop in taken if stop > start]


def _score(token: Token) -> float:
    bounds = ends(token)
    return bounds.low if bounds is not None else token["surprisal"] or 0.0


def _span(reading: Reading, place: int, start: int, stop: int) -> Span:
    tokens = reading.counted[place].tokens[start:stop]
    surprisal = mean_and_error(token["surprisal"] for token in tokens)[0]
    return Span(place, start, stop, text_of(tokens), mean_bounds(tokens), not is_interval(tokens), surprisal)


def uncertain_tokens(reading: Reading, most: int = 50) -> list[tuple[int, int]]:
    """The tokens of the highest entropy as (text, token), counted from 0, the highest first; see `uncertain_spans`."""
    import heapq

    places = ((place, number) for place, text in enumerate(reading.counted) for number in range(len(text.tokens)))
    return heapq.nlargest(most, places, key=lambda one: _score(reading.counted[one[0]].tokens[one[1]]))


ROWS = (
    ("entropy, nats a token", "mean_entropy"),
    ("surprisal, nats a token", "mean_surprisal"),
    ("surprisal, bits per byte", "bits_per_byte"),
    ("varentropy, nats² a token", "mean_varentropy"),
    ("kept, tokens", "mean_kept"),
    ("tokens", "tokens"),
    ("texts", "texts"),
)


def compared(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The totals of two files and the second less the first, as rows of text."""
    lines: list[tuple[str, list[str]]] = []
    for words, key in ROWS:
        values = [total_written(one, key) for one in found]
        if all(value == "–" for value in values):
            continue
        lines.append((words, [*values, _difference_written(difference(found[0], found[1], key), key)]))
    return lines


def total_written(found: Mapping[str, Any], key: str) -> str:
    """A total of :func:`run_totals` as text."""
    value = found.get(key)
    if isinstance(value, int):
        return f"{value:,}"
    if value is not None:
        return measured(value, found.get(f"{key}_error"))
    if found.get(f"{key}_low") is not None:
        return written(Bounds(found[f"{key}_low"], found[f"{key}_high"]), digits=3)
    return "–"


def _difference_written(found: Difference | None, key: str) -> str:
    if found is None:
        return "–"
    if key in ("tokens", "texts"):
        return f"{found.low:+,.0f}" if found.low else "0"
    if found.exact:
        text = measured(found.low, found.error)
        return text if text.startswith("-") else f"+{text}"
    if found.low == -math.inf and found.high is None:
        return "not bounded"
    low = "no lower limit" if found.low == -math.inf else f"{found.low:+.3f}"
    return f"{low} to {'no upper limit' if found.high is None else f'{found.high:+.3f}'}"


def span_facts(span: Span, several: bool = False) -> str:
    """Where a span stands and its means, as text."""
    where = f"text {span.text + 1}, " if several else ""
    facts = [f"{where}tokens {span.start + 1:,} to {span.stop:,}"]
    if span.entropy is not None:
        value = f"{span.entropy.low:.2f} nats" if span.exact else written(span.entropy, "nats")
        facts.append(f"entropy {value} a token")
    if span.surprisal is not None:
        facts.append(f"surprisal {span.surprisal:.2f} nats a token")
    return ", ".join(facts)
