"""``hartley probe``: learn from a model's own samples which questions are hard for it."""

import csv
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from hartley.cli.running import INTERRUPTED, ctrl_c, open_model

COLUMNS = ("question", "answer")


def probe(
    questions: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file with columns question, answer.")],
    out: Annotated[Path, typer.Option(help="Write the probe to this .safetensors file.")],
    samples: Annotated[int, typer.Option(min=1, max=1000, help="How often each question is answered.")] = 10,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to draw at most in each answer.")] = 256,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: float32]")] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put questions in the model's chat template. [default: if it has one]"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Accuracy from which a question may be normal.")] = 0.8,
    gamma: Annotated[float, typer.Option(help="Accuracy under which a question is hard.")] = 0.3,
    beta: Annotated[
        float | None, typer.Option(help="Entropy, nats, up to which it may be normal. [default: the median]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the first sample.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a probe that tells easy, normal and hard questions apart before they are answered.

    The model answers each question several times at temperature 1; accuracy and entropy label it; the probe learns the
    label from the model's hidden state. A numeric answer is right if the last number of the text equals it, any other
    if the text or its last line is the answer. The engine is transformers, which gives hidden states. Ctrl-C makes the
    probe of the questions answered so far.
    """
    from hartley.report.files import check_writable

    check_writable("--out", out)
    rows = read_questions(questions)

    from hartley.decoding import label_difficulty

    label_difficulty(1.0, 0.0, alpha, math.inf if beta is None else beta, gamma)  # refuses thresholds that are none
    opened = open_model(model, "transformers", dtype)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hartley.engines.adaptive import Measured, final_hidden, identity, measure

    who = identity(opened, chat)
    hidden = final_hidden(opened, [question for question, _ in rows], chat)
    measured: list[Measured] = []
    began = time.perf_counter()
    columns = (
        TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TextColumn("questions, {task.fields[speed]:.0f} "
        "tokens/s"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(file=sys.stderr)
    with (
        ctrl_c() as pressed,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("", total=len(rows), speed=0.0)
        for place, (question, answer) in enumerate(rows):
            first = seed + place * samples
            how = {"samples": samples, "max_tokens": max_tokens, "seed": first, "chat": chat, "cancel": pressed}
            found = measure(opened, question, answer, **how)
            if found is None:
                break
            measured.append(found)
            speed = sum(one.tokens for one in measured) / (time.perf_counter() - began)
            progress.update(task, advance=1, speed=speed)
    stopped = len(measured) < len(rows)
    if stopped and not measured:
        print("hartley: Stopped by Ctrl-C before the first question was answered; nothing was saved", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    facts = _learn(hidden[: len(measured)], measured, who, alpha, beta, gamma, out)
    facts |= {"samples": samples, "max_tokens": max_tokens, "seed": seed, "out": str(out)}
    facts["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(facts, ensure_ascii=False) if as_json else _shown(facts))
    if stopped:
        note = f"Stopped by Ctrl-C after {len(measured)} of {len(rows)} questions, saved to {out}"
        print(f"hartley: {note}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def read_questions(path: Path) -> list[tuple[str, str]]:
    """Questions and answers of a JSONL, CSV or Parquet file; ``ValueError`` naming what is wrong with it and where."""
    kinds = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"QUESTIONS must end in {', '.join(kinds)}; got {path}")
    try:
        found = read(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    rows: list[tuple[str, str]] = []
    for where, row in found:
        for column in COLUMNS:
            if column not in row:
                have = ", ".join(map(repr, row)) or "none"
                raise ValueError(f"{path}, {where} has no column {column!r}; its columns are {have}")
            if isinstance(row[column], bool) or not isinstance(row[column], str | int | float):
                raise ValueError(f"{path}, {where}: {column} must be text or a number; got {row[column]!r}")
            if not str(row[column]).strip():
                raise ValueError(f"{path}, {where}: {column} is empty")
        rows.append((str(row["question"]), str(row["answer"])))
    if len(rows) < 2:
        raise ValueError(f"{path} must hold at least two questions, to learn from; it holds {len(rows)}")
    return rows


def _jsonl(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} must be a JSON object; got {type(row).__name__}")
        found.append((f"line {number}", row))
    return found


def _csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            return [(f"line {reader.line_num}", row) for row in reader]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}") from error


def _parquet(path: Path) -> list[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        file = parquet.ParquetFile(path)
        table = file.read(columns=[name for name in file.schema_arrow.names if name in COLUMNS])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not readable Parquet: {error}") from error
    return [(f"row {number}", row) for number, row in enumerate(table.to_pylist())]


def _learn(
    hidden: Any, measured: Any, who: Any, alpha: float, beta: float | None, gamma: float, out: Path
) -> dict[str, Any]:
    """Label, fit, cross-validate and save; what there is to say of it."""
    import numpy as np

    from hartley.decoding import DifficultyProbe, fit_thresholds, label_difficulty
    from hartley.decoding.difficulty import DIFFICULTIES

    accuracy = np.array([one.accuracy for one in measured])
    entropy = np.array([one.entropy for one in measured])
    thresholds = fit_thresholds(accuracy, entropy, alpha, gamma)
    if beta is not None:
        thresholds = thresholds._replace(beta=beta)
    labels = np.asarray(label_difficulty(accuracy, entropy, *thresholds))
    found = DifficultyProbe().fit(hidden, labels, model_id=who.model_id, template_hash=who.template_hash)
    counts = Counter(labels.tolist())
    facts: dict[str, Any] = {
        "model": who.model_id,
        "questions": len(labels),
        "labels": {name: counts[name] for name in DIFFICULTIES},
        "thresholds": thresholds._asdict(),
        "model_accuracy": float(accuracy.mean()),
        "entropy": float(np.nanmean(entropy)),
        "tokens": sum(one.tokens for one in measured),
        "cross_validated": None,
    }
    if len(labels) > 1:
        right = found.calibrate(hidden, labels)
        facts["cross_validated"] = {
            "accuracy": float(right.mean()),
            "standard_error": float(right.std() / len(right) ** 0.5),
            "commonest_label": max(counts.values()) / len(labels),
        }
    found.save(out)
    return facts


def _shown(facts: dict[str, Any]) -> str:
    labels = ", ".join(f"{count} {name}" for name, count in facts["labels"].items())
    limits = facts["thresholds"]
    lines = [
        f"{facts['questions']} questions, {facts['samples']} samples each: {facts['model_accuracy']:.1%} right, "
        f"{facts['entropy']:.3f} nats a token",
        f"labels: {labels}",
        f"thresholds: normal from accuracy {limits['alpha']:g} with entropy up to {limits['beta']:.3f} nats, "
        f"hard under accuracy {limits['gamma']:g}",
    ]
    if (checked := facts["cross_validated"]) is not None:
        lines.append(
            f"cross-validated accuracy of the probe: {checked['accuracy']:.3f} ± {checked['standard_error']:.3f} "
            f"(always the commonest label: {checked['commonest_label']:.3f})"
        )
    return "\n".join([*lines, f"saved to {facts['out']}, {facts['seconds']:.0f} s"])
