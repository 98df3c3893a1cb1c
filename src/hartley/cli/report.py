"""``hartley report``: anybody's log-probabilities as the terminal view and as a page."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hartley.report.readers import Reading


def report(
    file: Annotated[Path, typer.Argument(help="A provider's response (JSON, JSON lines or a stream) or a batch run.")],
    file2: Annotated[Path | None, typer.Argument(help="Another one, to stand beside it.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A text file the model should have written: shows its calibration.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a token, then the totals.")] = False,
    vocab_size: Annotated[
        list[int] | None,
        typer.Option(help="Tokens the model chooses from, for the upper bound of entropies; once, or once a file."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="smollm2, a Hugging Face folder or a GGUF file: its vocabulary size, and text for token ids."
        ),
    ] = None,
) -> None:
    """Show log-probabilities you already have: OpenAI, vLLM, llama.cpp server, hartley generate --json, hartley batch.

    Where a provider tells only the likeliest tokens, the entropy is an interval that holds whatever the others are; its
    upper end needs the vocabulary size. Entropies and surprisals are nats. With two files the first is the base of the
    differences.
    """
    from hartley.report.calibration import calibration
    from hartley.report.files import check_writable
    from hartley.report.readers import read
    from hartley.report.report_page import names_of

    if html is not None:
        check_writable("--html", html)
    text = None if reference is None else _reference(reference)
    files = [file] if file2 is None else [file, file2]
    sizes, stream = _sizes(vocab_size, model, len(files))
    readings = [read(one, vocab_size=size, stream=stream) for one, size in zip(files, sizes, strict=True)]
    named = dict(zip(names_of(readings), readings, strict=True))
    calibrations = {name: calibration(one, text) for name, one in named.items()} if text is not None else {}
    if html is not None:
        from hartley.report import write_atomic
        from hartley.report.report_page import report_page

        write_atomic(html, report_page(readings, calibrations=calibrations))
    if as_json:
        for line in _lines(named, calibrations):
            print(json.dumps(line, ensure_ascii=False, allow_nan=False))
        return
    from hartley.report import terminal

    out = terminal.output()
    out.print(terminal.report(named, calibrations, out))
    if html is not None:
        print(f"Page saved to {html}", file=sys.stderr)


def _reference(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--reference {path} is not UTF-8") from error
    except OSError as error:
        raise ValueError(f"--reference {path} cannot be read: {error.strerror}") from error


def _sizes(given: list[int] | None, model: str | None, files: int) -> tuple[list[int | None], Callable[[], Any] | None]:
    """The vocabulary size of each file, and what turns token ids into text."""
    given = given or []
    if len(given) > files:
        raise ValueError(f"--vocab-size is given {len(given)} times for {files} file{'s' * (files > 1)}")
    for size in given:
        if size < 1:
            raise ValueError(f"--vocab-size must be a whole number of at least 1; got {size}")
    sizes: list[int | None] = [*given, *[given[-1] if given else None] * (files - len(given))]
    if model is None:
        return sizes, None
    from hartley.models import TextStream, Tokenizer, load
    from hartley.models.checks import read_config, vocabulary_size

    directory = load(model).directory
    tokenizer = Tokenizer(directory)
    known = vocabulary_size(read_config(directory))
    return [known if size is None else size for size in sizes], lambda: TextStream(tokenizer)


def _lines(readings: "dict[str, Reading]", calibrations: dict[str, Any]) -> Any:
    """Token dicts, each file's totals, and, of two files, the differences."""
    from hartley.report.whole_run import ROWS, difference, run_totals, uncertain_spans

    found: list[dict[str, Any]] = []
    for name, reading in readings.items():
        place = {"file": name} if len(readings) > 1 else {}
        for text in reading.texts:
            named = place | ({"name": text.name} if len(reading.texts) > 1 else {})
            named |= {"part": "prompt"} if text.is_prompt else {}
            for token in text.tokens:
                yield named | token
        totals = run_totals(reading)
        found.append(totals)
        extra: dict[str, Any] = {
            "uncertain_spans": [
                {
                    "text": span.text,
                    "start": span.start,
                    "stop": span.stop,
                    "words": span.words,
                    "mean_surprisal": span.surprisal,
                    "mean_entropy_low": span.entropy and span.entropy.low,
                    "mean_entropy_high": span.entropy and span.entropy.high,
                }
                for span in uncertain_spans(reading)
            ]
        }
        if name in calibrations:
            one = calibrations[name]
            extra["calibration"] = one._asdict() | {"bins": [bin._asdict() for bin in one.bins]}
        yield totals | extra
    if len(found) == 2:
        both = {key: one for _, key in ROWS if (one := difference(found[0], found[1], key)) is not None}
        yield {
            "difference": {
                key: {"low": one.low if math.isfinite(one.low) else None, "high": one.high, "standard_error": one.error}
                for key, one in both.items()
            }
        }
