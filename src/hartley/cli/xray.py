"""``hartley xray``: examine a network, or two, and write the page and the numbers."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hartley.report.xray.findings import Progress

DEFAULT = "smollm2"


def xray(
    model: Annotated[str, typer.Argument(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = DEFAULT,
    data: Annotated[
        Path | None,
        typer.Option(help="Text to read: a text file, or Parquet, JSONL or CSV with a column prompt."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write xray.html and xray.json to this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    layers: Annotated[
        str | None, typer.Option(help="Only these: 0,4-7, or with --loader module names such as encoder.*")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens of a text at most, 256 if not given; memory and time grow with its square."),
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Minutes to take at most, about.")] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two models, or folders of earlier reports: what changed from the first to the second."),
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION, your code that returns (torch module, batches of its inputs)."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to work on; local starts one.")] = None,
) -> None:
    """Examine a model: what its layers encode, its heads, which tensors to tune, how sparse it is, where it is unsure.

    One pass over the text; every number has a standard error over groups of texts. Ctrl-C ends the reading and reports
    what was read; the same input gives the same numbers.
    """
    from hartley.cli.running import ctrl_c
    from hartley.report.xray.examine import examine

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for option, given in (("--data", data), ("--context", context), ("--ray", ray)):
        if loader is not None and given is not None:
            raise ValueError(f"--loader gives its own batches: leave out {option}")

    def report(name: str, share: float, stop: threading.Event, progress: "Progress") -> Any:
        done = _earlier(name) if compare is not None else None
        return done or examine(
            name, data=data, loader=loader, layers=layers, context=context, dtype=dtype, ray=ray, stop=stop,
            progress=progress, budget=None if budget is None else budget * share,
        )  # fmt: skip

    with ctrl_c() as pressed, _progress() as progress:
        if compare is None:
            name = loader if loader is not None and model == DEFAULT else model
            found = report(name, 1.0, pressed, progress)
        else:
            from hartley.report.xray.compare import compare as compared

            found = compared(*(report(name, 0.5, pressed, progress) for name in compare))
    if out is not None:
        _write(found, out)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return
    from hartley.report.terminal import output
    from hartley.report.xray.terminal import comparison_view, xray_view

    console = output()
    console.print(xray_view(found, console) if compare is None else comparison_view(found))


def _earlier(name: str) -> Any:
    """An earlier report in the folder or file ``name``; None for anything else."""
    path = Path(name)
    path = path / "xray.json" if path.is_dir() else path
    if path.suffix != ".json" or not path.is_file():
        return None
    from hartley.models.checks import read_json

    return read_json(path)


def _write(found: Any, out: Path) -> None:
    from hartley.report import write_atomic
    from hartley.report.xray.page import comparison_page, xray_page

    page = xray_page(found) if "layers" in found and "a" not in found else comparison_page(found)
    write_atomic(out / "xray.html", page)
    write_atomic(out / "xray.json", json.dumps(found, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    print(f"Report saved to {out / 'xray.html'} and xray.json", file=sys.stderr)


@contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
