"""``hartley compare``: several samplers on the same prompts and seeds, side by side."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hartley.cli.running import INTERRUPTED, ctrl_c, ids_of, open_model, sampler_of, token_of


def compare(
    sampler: Annotated[list[str], typer.Option(help="A sampler's text form, repeated; '' is plain sampling.")],
    prompt: Annotated[list[str], typer.Option(help="A prompt; may be repeated.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; errors are over them.")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The first of them.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Tokens to draw at most in each text.")] = 64,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    engine: Annotated[str, typer.Option(help="auto, onnx, transformers or llama.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="As for generate. [default: the engine's]")] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put prompts in the model's chat template. [default: if it has one]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the measures and every token as one JSON object.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write compare.json, .html, .png and .svg to this folder, made if need be.")
    ] = None,
) -> None:
    """Compare samplers on the same prompts and seeds: texts, surprisal, entropy, diversity and repetition.

    Surprisal and entropy are the model's own, at temperature 1 and before any sampler. 3-grams are of tokens:
    distinct-3 over all prompts together, repeated ones within each text. Ctrl-C keeps and saves what was drawn.
    """
    if html is not None:
        from hartley.report.files import check_writable

        check_writable("--html", html)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for one in prompt:
        if not one.strip():
            raise ValueError(f"--prompt is empty, got {one!r}; give some text")

    samplers = [sampler_of(text) for text in sampler]
    names = [str(one) or "plain sampling" for one in samplers]
    for kind, given in (("--sampler", names), ("--prompt", prompt)):
        for place, one in enumerate(given):
            if one in given[:place]:
                raise ValueError(f"{kind} {one!r} is given twice")

    opened = open_model(model, engine, dtype)
    ids = [ids_of(opened, one, chat)[0] for one in prompt]

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hartley.engines import Request
    from hartley.engines import generate as run
    from hartley.models.tokenizer import pieces
    from hartley.report import measures, terminal

    piece = pieces(opened.tokenizer)
    runs: list[dict[str, Any]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("texts"),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with ctrl_c() as pressed:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("drawing", total=len(samplers) * len(prompt) * seeds)
            for place in range(seeds):
                for text, tokens_in in zip(prompt, ids, strict=True):
                    group = [
                        {"sampler": name, "prompt": text, "seed": seed + place, "finish": None, "tokens": []}
                        for name in names
                    ]
                    runs.extend(group)
                    requests = [Request(tokens_in, one, max_tokens, seed + place) for one in samplers]
                    for step in run(opened, requests, cancel=pressed):
                        _take(group[step.index], step, piece)
                        if step.finish is not None:
                            progress.advance(task)
                    if pressed.is_set():
                        break
                if pressed.is_set():
                    break
        note = None
        whole = len(samplers) * len(prompt) * seeds
        if any(one["finish"] in (None, "cancelled") for one in runs) or len(runs) < whole:
            finished = sum(one["finish"] in ("stop", "length") for one in runs)
            note = f"Stopped by Ctrl-C after {finished} of {whole} texts; the last ones are cut short"
        runs = [one for one in runs if one["tokens"]]
        table = measures.measure(runs)
        settings = {
            "model": opened.model_name,
            "engine": f"{opened.name}, {opened.dtype}",
            "seeds": f"{seed} to {seed + seeds - 1}" if seeds > 1 else seed,
            "most tokens": max_tokens,
        }
        saved = _save(runs, table, settings, note, html, out)
        if as_json:
            print(json.dumps(_report(runs, table, settings, note), ensure_ascii=False))
        elif runs:
            shown = terminal.output()
            shown.print(terminal.comparison(runs, table, shown))
            shown.print(measures.finding(table), style="bold", markup=False)
        where = f", saved to {', '.join(map(str, saved))}" if saved else ""
        if note:
            print(f"hartley: {note}{where or '; nothing was saved: give --out or --html'}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
        if saved and not as_json:
            print(f"Report{where}", file=sys.stderr)


def _take(run: dict[str, Any], step: Any, piece: Any) -> None:
    run["finish"] = step.finish
    if step.draw is not None:
        run["tokens"].append(token_of(step, piece))
    elif run["tokens"]:
        run["tokens"][-1]["text"] += step.text


def _report(runs: Sequence[dict[str, Any]], table: Any, settings: dict[str, Any], note: str | None) -> dict[str, Any]:
    from hartley.report.measures import MEASURES
    from hartley.report.summary import text_of

    return {
        "settings": settings,
        "note": note,
        "units": {column.key: column.unit for column in MEASURES},
        "measures": {
            name: {key: {"mean": mean, "standard_error": error} for key, (mean, error) in line.items()}
            for name, line in table.items()
        },
        "runs": [
            {
                **run,
                "text": text_of(run["tokens"]),
                "tokens": [{key: value for key, value in token.items() if key != "top"} for token in run["tokens"]],
            }
            for run in runs
        ],
    }


def _save(
    runs: Sequence[dict[str, Any]],
    table: Any,
    settings: dict[str, Any],
    note: str | None,
    html: Path | None,
    out: Path | None,
) -> list[Path]:
    """Write what was asked for; the folder, or the page, or both."""
    if (html is None and out is None) or not runs:
        return []
    from hartley.report import compare_page, measures, write_atomic

    svg = measures.figure(table, "svg")
    page = compare_page(runs, table, figure=svg, finding=measures.finding(table), settings=settings, note=note)
    if html is not None:
        write_atomic(html, page)
    if out is not None:
        write_atomic(out / "compare.json", json.dumps(_report(runs, table, settings, note), ensure_ascii=False) + "\n")
        write_atomic(out / "compare.html", page)
        write_atomic(out / "compare.svg", svg)
        write_atomic(out / "compare.png", measures.figure(table, "png"))
    return [path for path in (html, out) if path is not None]
