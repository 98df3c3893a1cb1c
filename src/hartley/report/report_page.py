"""One or two files of log-probabilities as a page: totals, strips, figures, the least sure spans, and the text.

A short text shows everything about each of its tokens. A long one has the lightest markup a token can have, in chunks
that a browser lays out when they come into view, and lists its least sure tokens apart.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from hartley.report import figures
from hartley.report.calibration import Calibration
from hartley.report.intervals import ends, entropy_written, is_interval, mean_bounds, written
from hartley.report.pages import Cell, Token, cell, decimal, render, rows
from hartley.report.readers import Reading, Text
from hartley.report.scale import quoted, step_of, visible
from hartley.report.strips import Strip, strip
from hartley.report.summary import mean_and_error
from hartley.report.tokens_page import note_of
from hartley.report.whole_run import (
    Span,
    compared,
    run_totals,
    span_facts,
    total_written,
    uncertain_spans,
    uncertain_tokens,
)

DETAILED = 2_000  # tokens that can have all their details on one page
COLUMNS = 600  # of a strip, when the tokens are more than that many times two
CHUNK = 250  # tokens a browser lays out together
MOST = 200_000  # tokens whose text is put on a page


class Chunk(NamedTuple):
    """Some tokens of a long text, ready to show."""

    id: str
    markup: Markup
    cut: bool  # ends where the text has no line feed


class Passage(NamedTuple):
    """A text ready to show: with all details (``cells``) or as chunks."""

    name: str
    facts: str
    is_prompt: bool
    prompt: str | None
    whole: str | None
    prefix: str
    cells: list[Cell]
    chunks: list[Chunk]


def report_page(
    readings: Sequence[Reading], *, calibrations: Mapping[str, Calibration] | None = None, title: str | None = None
) -> str:
    """The HTML page of one file, or of two side by side; self-contained, without scripts.

    ``calibrations`` are by the names that :func:`names_of` gives the files.
    """
    names = names_of(readings)
    found = [run_totals(reading) for reading in readings]
    shown = sum(len(text.tokens) for reading in readings for text in reading.texts)
    detailed = shown <= DETAILED
    notes = [note for one in found for note in one["notes"]]
    if shown > MOST:
        notes.append(f"The text of the first {MOST:,} of {shown:,} tokens is shown; totals and figures are of all")
    room = MOST
    sections: list[dict[str, Any]] = []
    places: list[list[_Places]] = []
    for file, (name, reading) in enumerate(zip(names, readings, strict=True)):
        passages: list[Passage] = []
        places.append([])
        counted = [id(text) for text in reading.counted]
        for number, text in enumerate(reading.texts):
            if room <= 0:
                break
            passage = _passage(text, f"f{file}t{number}n", detailed, room)
            room -= len(text.tokens)
            passages.append(passage)
            if id(text) in counted:
                places[file].append(_Places(passage))
        sections.append({"name": name, "passages": passages})
    by_name = dict(zip(names, readings, strict=True))
    charts = [
        ("How many tokens have what entropy", figures.entropy_histogram(by_name)),
        ("Entropy by position in the text", figures.entropy_by_position(by_name)),
        ("Reliability of the first choice", figures.reliability_figure(calibrations) if calibrations else None),
    ]
    least: dict[str, Any] = {}
    if not detailed:
        least = {
            name: [_least(reading, *place, places[file]) for place in uncertain_tokens(reading)]
            for file, (name, reading) in enumerate(by_name.items())
        }
    return render(
        "report.html.jinja",
        title=title or " and ".join(names),
        note=None,
        notes=list(dict.fromkeys(notes)),
        files=len(readings),
        detailed=detailed,
        figures=_figures(found[0], readings[0]) if len(readings) == 1 else [],
        heads=[*names, "difference"],
        table=compared(found) if len(readings) == 2 else [],
        strips=_strips(by_name, places),
        charts=[(words, base64.b64encode(svg).decode()) for words, svg in charts if svg is not None],
        findings=[f"{name}: {one.finding}" for name, one in (calibrations or {}).items()],
        spans={
            name: [_span(span, places[file]) for span in uncertain_spans(reading)]
            for file, (name, reading) in enumerate(by_name.items())
        },
        least=least,
        sections=sections,
        settings=rows(_settings(names, readings)),
    )


def names_of(readings: Sequence[Reading]) -> list[str]:
    """A name for each file: the last part of its path, or all of it where these are alike."""
    short = [visible(reading.source.rstrip("/").rpartition("/")[2]) for reading in readings]
    if len(set(short)) == len(short):
        return short
    return [f"{number}. {visible(reading.source)}" for number, reading in enumerate(readings, 1)]


def _figures(found: Mapping[str, Any], reading: Reading) -> list[tuple[str, str, list[str]]]:
    entropy = total_written(found, "mean_entropy")
    per_byte = found["bits_per_byte_entropy"]
    lines = [
        ("entropy", entropy, ["nats a token", "" if per_byte is None else f"{per_byte:.3f} bits per byte"]),
        (
            "surprisal",
            total_written(found, "mean_surprisal"),
            ["nats a token", "" if found["bits_per_byte"] is None else f"{found['bits_per_byte']:.3f} bits per byte"],
        ),
        ("varentropy", decimal(found["mean_varentropy"]), ["nats² a token"]),
        ("kept", decimal(found["mean_kept"], digits=1), ["tokens on average"]),
        ("length", f"{found['tokens']:,}", ["tokens", "" if found["texts"] == 1 else f"in {found['texts']:,} texts"]),
    ]
    return [(name, value, [one for one in under if one]) for name, value, under in lines if value != "–"]


def _settings(names: Sequence[str], readings: Sequence[Reading]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, reading in zip(names, readings, strict=True):
        facts = [reading.format, reading.model]
        facts.append(None if reading.vocab_size is None else f"vocabulary of {reading.vocab_size:,} tokens")
        found[name] = ", ".join(fact for fact in facts if fact)
    return found


class _Places:
    """Where on the page a token of a passage stands."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.starts = [int(chunk.id.rpartition("c")[2]) for chunk in passage.chunks]

    def of(self, number: int) -> str:
        """The anchor of the token ``number``, counted from 0."""
        if self.passage.cells:
            return f"{self.passage.prefix}{number + 1}"
        from bisect import bisect_right

        return self.passage.chunks[max(bisect_right(self.starts, number) - 1, 0)].id if self.starts else ""


def _passage(text: Text, prefix: str, detailed: bool, room: int) -> Passage:
    cells = [cell(token, number) for number, token in enumerate(text.tokens, 1)] if detailed else []
    chunks = [] if detailed else list(_chunks(text.tokens[:room], prefix))
    facts = [f"{len(text.tokens):,} tokens"]
    if (mean := mean_bounds(text.tokens)) is not None:
        interval = is_interval(text.tokens)
        facts.append(f"entropy {written(mean, 'nats') if interval else f'{mean.low:.2f} nats'}")
    if (surprisal := mean_and_error(token["surprisal"] for token in text.tokens)[0]) is not None:
        facts.append(f"surprisal {surprisal:.2f} nats")
    prompt = None if text.prompt is None else visible(text.prompt)
    whole = None if text.whole is None else visible(text.whole)
    return Passage(visible(text.name), ", ".join(facts), text.is_prompt, prompt, whole, prefix, cells, chunks)


def _chunks(tokens: Sequence[Token], prefix: str) -> Iterator[Chunk]:
    """Cut at a line feed where there is one soon."""
    start, parts = 0, []
    for number, token in enumerate(tokens):
        parts.append(_light(token))
        size = number + 1 - start
        feed = token["text"].endswith("\n")
        if (size >= CHUNK and feed) or size >= 2 * CHUNK:
            yield Chunk(f"{prefix}c{start}", Markup("".join(parts)), not feed)
            start, parts = number + 1, []
    if parts:
        yield Chunk(f"{prefix}c{start}", Markup("".join(parts)), False)


def _light(token: Token) -> str:
    """A token as one element, its numbers in the tip that a pointer brings up."""
    step, text = step_of(token["surprisal"]), token["text"]
    shown = escape(visible(text)) if text else Markup('<i class="nil"></i>')
    surprisal = "–" if token["surprisal"] is None else f"{token['surprisal']:.2f}"
    return f'<span class="s{step}" title="{surprisal} of {entropy_written(token, unit="")}">{shown}</span>'


def _strips(readings: Mapping[str, Reading], places: Sequence[Sequence[_Places]]) -> list[tuple[str, Strip]]:
    laid = [_columns(reading) for reading in readings.values()]
    known = [value for columns in laid for value in (*columns.low, *columns.high, *columns.dots) if value is not None]
    reach = max(known, default=0.0)
    made: list[tuple[str, Strip]] = []
    for file, (name, reading) in enumerate(readings.items()):
        columns = laid[file]
        words = "Entropy before each token" if columns.width == 1 else f"Entropy, means of {columns.width} tokens"
        title = f"{name}: {words[0].lower()}{words[1:]}" if len(readings) > 1 else words
        drawn = strip(title, "nats", columns.low, columns.notes, columns.dots, highs=columns.high, reach=reach)
        if drawn is None:  # no entropies: surprisal alone
            words = words.replace("Entropy before each", "Surprisal of each").replace("Entropy,", "Surprisal,")
            title = f"{name}: {words[0].lower()}{words[1:]}" if len(readings) > 1 else words
            drawn = strip(title, "nats", columns.surprisal, columns.notes, reach=reach)
        if drawn is not None:
            links = [places[file][text].of(number) if text < len(places[file]) else "" for text, number in columns.at]
            made.append(("", drawn._replace(links=links, tokens=len(reading.tokens))))
        kept = [token.get("kept") for token in reading.tokens]
        if columns.width == 1 and any(kept):
            found = strip(f"{name}: tokens kept" if len(readings) > 1 else "Tokens kept", "tokens, logarithmic",
                          kept, columns.notes, log=True)  # fmt: skip
            if found is not None and drawn is not None:
                made.append(("", found._replace(links=made[-1][1].links)))
    return made


class _Columns(NamedTuple):
    low: list[float | None]
    high: list[float | None]
    dots: list[float | None]
    surprisal: list[float | None]
    notes: list[str]
    at: list[tuple[int, int]]  # the text and the token where a column begins
    width: int


def _columns(reading: Reading) -> _Columns:
    tokens = reading.tokens
    at = [(place, number) for place, text in enumerate(reading.counted) for number in range(len(text.tokens))]
    surprisals = [token["surprisal"] for token in tokens]
    if len(tokens) <= 2 * COLUMNS:
        bounds = [ends(token) for token in tokens]
        low = [None if one is None else one.low for one in bounds]
        high = [None if one is None else one.high for one in bounds] if is_interval(tokens) else []
        notes = [note_of(number, token) for number, token in enumerate(tokens, 1)]
        return _Columns(low, high, surprisals, surprisals, notes, at, 1)
    width = -(-len(tokens) // COLUMNS)
    low, high, means, notes = [], [], [], []
    for start in range(0, len(tokens), width):
        part = tokens[start : start + width]
        mean = mean_bounds(part)
        low.append(None if mean is None else mean.low)
        high.append(None if mean is None else mean.high)
        means.append(mean_and_error(token["surprisal"] for token in part)[0])
        facts = [f"tokens {start + 1:,} to {start + len(part):,}"]
        if mean is not None:
            facts.append(f"entropy {written(mean) if is_interval(part) else f'{mean.low:.2f}'} nats")
        if means[-1] is not None:
            facts.append(f"surprisal {means[-1]:.2f} nats")
        notes.append(", ".join(facts))
    return _Columns(low, high if is_interval(tokens) else [], [], means, notes, at[::width], width)


def _span(span: Span, places: Sequence[_Places]) -> tuple[str, str, str]:
    link = places[span.text].of(span.start) if span.text < len(places) else ""
    return quoted(span.words), link, span_facts(span, len(places) > 1)


def _least(reading: Reading, text: int, number: int, places: Sequence[_Places]) -> tuple[Cell, str, str]:
    token = reading.counted[text].tokens[number]
    shown = cell(token, number + 1)
    facts = ", ".join(f"{name} {value}" for name, value in shown.facts if name in ("surprisal", "entropy"))
    where = f"text {text + 1}, " if len(reading.counted) > 1 else ""
    return shown, places[text].of(number) if text < len(places) else "", f"{where}token {number + 1:,}, {facts}"
