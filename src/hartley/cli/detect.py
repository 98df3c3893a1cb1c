"""``hartley detect``: did this model write these texts, or which of two did?"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hartley.cli.running import INTERRUPTED, ctrl_c, ids_of, open_model, sampler_of

LARGEST = 16 << 20  # bytes of a text: some four million tokens
ONE_TEST = ("sampler", "floor", "prompt", "chat", "method", "alternative", "alpha", "calibration", "calibrate")


def detect(
    files: Annotated[list[str], typer.Argument(help="Text files in UTF-8; '-' reads standard input.")],
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    against: Annotated[
        str | None, typer.Option(help="Another model: say which of the two gives each text more likelihood a byte.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, onnx or transformers.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="As for generate. [default: the engine's]")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="How the text is supposed to have been drawn. [default: plain sampling]")
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(help="Probability of a token that the sampler removes. [default: 0, it rejects]"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the texts answer or go on from; not judged.")] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put the prompt in the model's chat template. [default: if it has one]"),
    ] = None,
    method: Annotated[
        Literal["evalue", "calibrated", "zscore"] | None,
        typer.Option(help="[default: evalue, or calibrated with --calibration]"),
    ] = None,
    alternative: Annotated[
        Literal["two-sided", "greater", "less"] | None,
        typer.Option(help="greater: more surprising than its own; less: more predictable. [default: two-sided]"),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Largest chance of rejecting wrongly. [default: 0.05]")] = None,
    calibration: Annotated[Path | None, typer.Option(help="A file that --calibrate wrote.")] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Judge nothing: write a calibration from these texts to this file.")
    ] = None,
    kind: Annotated[str, typer.Option(help="With --calibrate: who wrote these texts.")] = "human",
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once. [default: what context and memory allow]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test whether a model wrote each text, by its log-perplexity less the model's mean entropy along it.

    "Rejected" comes up with a chance of at most alpha for a text that the model wrote, drawn as --sampler says after
    --prompt. It does not mean that a person wrote it. Long texts are read in windows that overlap by half, and each
    token is judged once. A last line feed is not read. Ctrl-C shows what was judged.
    """
    given = locals()
    if against is not None and (asked := [name for name in ONE_TEST if given[name] is not None]):
        named = ", ".join(f"--{name}" for name in asked)
        raise ValueError(f"--against compares the models as they are; {named} cannot be used with it")
    if calibrate is not None:
        if asked := [name for name in ("method", "alternative", "alpha", "calibration") if given[name] is not None]:
            raise ValueError(f"--calibrate judges nothing; {', '.join(f'--{name}' for name in asked)} has no meaning")
        from hartley.report.files import check_writable

        check_writable("--calibrate", calibrate)
    if chat is not None and prompt is None:
        raise ValueError("--chat and --no-chat are about the prompt; give --prompt")
    texts = [(name, read_text(name)) for name in files]
    chosen = sampler_of(sampler) if sampler else None

    from hartley.detection import Calibration

    known = None if calibration is None else Calibration.load(calibration)
    method = method or ("evalue" if known is None else "calibrated")
    opened = open_model(model, engine, dtype)
    if against is not None:
        _compare(texts, opened, open_model(against, engine, dtype), window, as_json)
        return
    before = ids_of(opened, prompt, chat)[0] if prompt is not None else []
    reading = {"prompt": before, "sampler": chosen, "floor": floor, "window": window}
    settings = {
        "model": opened.model_name,
        "engine": opened.name,
        "dtype": opened.dtype,
        "sampler": str(chosen or ""),
        "prompt": prompt,
    }
    if calibrate is not None:
        _calibrate(texts, opened, calibrate, kind, reading, settings, as_json)
        return

    from hartley.detection import detect as test
    from hartley.detection import explain

    judging = {"method": method, "alternative": alternative or "two-sided", "alpha": 0.05 if alpha is None else alpha}
    _check(judging, known)
    found, stopped = _each(texts, lambda text: test(text, opened, **reading, **judging, calibration=known))
    sentences = [explain(one, opened.model_name, known and known.kind) for _, one in found]
    if as_json:
        lines = [
            {"file": name, **one.to_dict(), "meaning": said} for (name, one), said in zip(found, sentences, strict=True)
        ]
        print(json.dumps({**settings, "texts": lines, "note": stopped}, ensure_ascii=False))
    else:
        _show_verdicts(found, sentences, judging, settings)
    _end(stopped)


def read_text(name: str) -> str:
    """The text of a file without its last line feed; ``ValueError`` if it is empty, too long or no UTF-8."""
    shown = "standard input" if name == "-" else name
    if name != "-" and Path(name).is_dir():
        raise ValueError(f"{shown} is a folder; give text files")
    if name == "-":
        content = sys.stdin.buffer.read(LARGEST + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{shown} is longer than {LARGEST >> 20} MiB; cut it into several texts")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}") from None
    if not text.strip():
        raise ValueError(f"{shown} is empty; there is nothing to judge")
    return text


def _check(judging: dict[str, Any], calibration: Any) -> None:
    """What is wrong with the settings is told before the first text is read."""
    from hartley.detection import decide
    from hartley.detection.scores import empty

    decide(empty(), **judging, calibration=calibration)


def _each(texts: list[tuple[str, str]], judge: Callable[[str], Any]) -> tuple[list[tuple[str, Any]], str | None]:
    """Judge the texts one by one, with a bar where somebody watches, until the end or Ctrl-C."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("texts"), TimeRemainingColumn())
    found: list[tuple[str, Any]] = []
    hidden = not console.is_terminal
    with ctrl_c() as pressed, Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("reading", total=len(texts))
        for name, text in texts:
            if pressed.is_set():
                break
            try:
                found.append((name, judge(text)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            bar.advance(task)
    left = len(texts) - len(found)
    return found, f"Stopped by Ctrl-C after {len(found)} of {len(texts)} texts" if left else None


def _calibrate(
    texts: list[tuple[str, str]],
    model: Any,
    path: Path,
    kind: str,
    reading: dict[str, Any],
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    from hartley.detection import Calibration, read
    from hartley.report.files import write_atomic

    found, stopped = _each(texts, lambda text: read(text, model, **reading))
    _end(f"{stopped}; no calibration was written" if stopped else None)
    for name, scores in found:
        if scores.n_tokens == 0:
            raise ValueError(f"{name} has no token with a prediction; leave it out")
    made = Calibration(
        kind,
        settings["model"],
        settings["sampler"],
        tuple(scores.statistic for _, scores in found),
        tuple(scores.n_tokens for _, scores in found),
    )
    write_atomic(path, made.to_json())
    lengths = f"{min(made.lengths)} to {max(made.lengths)} tokens"
    if as_json:
        print(made.to_json(), end="")
    print(f"Calibration of {len(found)} {kind} texts of {lengths} saved to {path}", file=sys.stderr)


def _compare(texts: list[tuple[str, str]], one: Any, other: Any, window: int | None, as_json: bool) -> None:
    from hartley.detection import attribute, explain_attribution

    names = [one.model_name, other.model_name]
    if names[0] == names[1]:
        names = [f"{names[0]} (--model)", f"{names[1]} (--against)"]
    models = dict(zip(names, (one, other), strict=True))
    found, stopped = _each(texts, lambda text: attribute(text, models, window=window))
    sentences = [explain_attribution(result) for _, result in found]
    if as_json:
        lines = [
            {"file": name, **result.to_dict(), "meaning": said}
            for (name, result), said in zip(found, sentences, strict=True)
        ]
        print(json.dumps({"models": names, "texts": lines, "note": stopped}, ensure_ascii=False))
    else:
        rows = [
            [name, result.writer or "–", *(_number(result.readings[model].nats_per_byte) for model in names)]
            for name, result in found
        ]
        _show(["text", "likelier under", *(f"{name}\nnats a byte" for name in names)], rows, found, sentences)
    _end(stopped)


def _show_verdicts(
    found: list[tuple[str, Any]], sentences: list[str], judging: dict[str, Any], settings: dict[str, Any]
) -> None:
    numbers = ["T\n(nats)", "enough\n(nats)", "log-ppl\n(nats)", "entropy\n(nats)", "p-value", "tokens"]
    heads = ["text", "verdict", *numbers]
    rows = [
        [
            name,
            one.decision,
            f"{one.statistic:+.3f}",
            "–" if math.isnan(one.sufficient) else _number(one.sufficient),
            _number(one.log_perplexity),
            _number(one.mean_entropy),
            f"{one.p_value:.3g}",
            f"{one.n_tokens:,}",
        ]
        for name, one in found
    ]
    alpha = judging["alpha"]
    how = f"{judging['method']}, {judging['alternative']}, level {alpha:g} for each text; {settings['model']} "
    how += f"({settings['engine']}, {settings['dtype']}), {settings['sampler'] or 'plain sampling'}"
    how += "; nats are a token's"
    if len(found) > 1:
        how += f"; up to {alpha * len(found):.2g} of {len(found)} such texts are rejected wrongly on average"
    _show(heads, rows, found, sentences, how)


def _show(
    heads: list[str], rows: list[list[str]], found: list[tuple[str, Any]], sentences: list[str], note: str = ""
) -> None:
    from rich.table import Table
    from rich.text import Text

    from hartley.report.terminal import output

    out = output()
    table = Table()
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="left" if place < 2 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)
    for (name, _), said in zip(found, sentences, strict=True):
        out.print(Text.assemble((name, "bold"), ": ", said))
    if note:
        out.print(Text(note, "dim"))


def _number(value: float) -> str:
    return f"{value:.3f}"


def _end(stopped: str | None) -> None:
    if stopped:
        print(f"hartley: {stopped}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
