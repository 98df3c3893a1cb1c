"""``hartley batch``: every prompt of a file through a model, with the entropy of every token kept."""

import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hartley.cli.running import INTERRUPTED, ctrl_c

ADDRESS = re.compile(r"auto|local|ray://.+|[^/\\\s]+:\d+")  # of a Ray cluster


class Batch(TyperCommand):
    """A command whose ``--ray`` may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what follows ``--ray`` is its value only if it looks like an address."""
        following = [*args[1:], ""]
        given = [
            "--ray=local" if one == "--ray" and not ADDRESS.fullmatch(after) else one
            for one, after in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, given)


def batch(
    prompts: Annotated[
        str,
        typer.Argument(help="A Parquet, JSONL or CSV file, or its URL, with a column prompt and, if you like, id."),
    ],
    out: Annotated[str, typer.Option(help="The run's folder: a new one, or one to go on with.")],
    engine: Annotated[str, typer.Option(help="auto, onnx, transformers, llama or vllm.")] = "auto",
    sampler: Annotated[
        str, typer.Option(help="Samplers in the order they are applied: temperature=1.5,top_h=0.4.", show_default=False)
    ] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens to draw at most for each prompt.")] = 128,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same texts. [default: drawn and recorded]"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Prompts run at once; changes no text. [default: the engine's]")
    ] = None,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    dtype: Annotated[str | None, typer.Option(help="As for generate. [default: the engine's]")] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put prompts in the model's chat template. [default: if it has one]"),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End a text before this string; may be repeated.")] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            metavar="PROBE",
            help="File of a difficulty probe (hartley probe), which sets each prompt's temperature and its share of "
            "--max-tokens. The engine is transformers.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="Run on a Ray cluster; without an address on one started here and ended after."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Engines on the Ray cluster. [default: one for each node]")
    ] = None,
    shard: Annotated[int, typer.Option(min=1, max=2**16, help="Prompts in a file: what a kill can cost.")] = 64,
) -> None:
    """Continue every prompt of a file and keep the texts and, for every token, how sure the model was.

    OUT/texts/*.parquet has a row for each prompt, OUT/tokens/*.parquet one for each token, OUT/run.json the settings;
    hartley query looks into them. Entropies are the model's own, in nats, at temperature 1 and before any sampler. A
    run that was killed or stopped goes on when the same command is given again.
    """
    if workers is not None and ray is None:
        raise ValueError("--workers is for --ray; without it there is one engine")
    from hartley.engines.batch import Job, run
    from hartley.report.run_folder import RunFolder

    folder = RunFolder(out)
    before = folder.settings() or {}
    job = Job(
        prompts=prompts,
        model=model,
        engine=engine,
        dtype=dtype,
        sampler=sampler,
        max_tokens=max_tokens,
        seed=before.get("seed", secrets.randbelow(2**32)) if seed is None else seed,
        chat=chat,
        stop=tuple(stop or ()),
        adaptive=adaptive,
        shard=shard,
        together=batch_size,
    )
    with _bar() as bar, ctrl_c() if ray is None else nullcontext() as pressed:
        outcome = run(
            job, folder, ray=ray, workers=workers, record=_versions(), cancel=pressed, begun=bar.begun, drawn=bar.drawn
        )
    _say(outcome, folder.path)


class _Bar:
    """Prompts done, tokens a second and the time that is left."""

    def __init__(self, progress: Any) -> None:
        self.progress = progress
        self.task = progress.add_task("opening", total=None, speed="", left="")
        self.prompts = self.tokens = 0

    def begun(self, outcome: Any) -> None:
        """Work begins."""
        self.start = time.perf_counter()
        self.rest = outcome.rows - outcome.before
        self.progress.update(self.task, description="drawing", total=outcome.rows, completed=outcome.before)

    def drawn(self, prompts: int, tokens: int) -> None:
        """Answers have ended."""
        self.prompts += prompts
        self.tokens += tokens
        seconds = time.perf_counter() - self.start
        left = seconds / self.prompts * max(0, self.rest - self.prompts)
        self.progress.update(
            self.task, advance=prompts, speed=f"{self.tokens / seconds:,.1f} tokens/s", left=f"{_hours(left)} left"
        )


@contextmanager
def _bar() -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("prompts"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bar(progress)


def _hours(seconds: float) -> str:
    """A span of time, as 1:02:03.

    >>> _hours(3723.4), _hours(9)
    ('1:02:03', '0:00:09')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _say(outcome: Any, path: Path) -> None:
    """What became of it, on standard error."""
    if outcome.prompts or outcome.missing:
        speed = f", {outcome.tokens / outcome.seconds:,.1f} tokens/s" if outcome.prompts else ""
        parts = [f"{outcome.prompts:,} prompts answered, {outcome.tokens:,} tokens{speed}"]
    else:
        parts = ["nothing was left to do"]
    parts.append(f"{outcome.rows - outcome.missing:,} of {outcome.rows:,} are in {path}")
    print(f"hartley: {'; '.join(parts)}", file=sys.stderr)
    if outcome.errors:
        failed = "1 prompt" if outcome.errors == 1 else f"{outcome.errors:,} prompts"
        print(
            f"hartley: {failed} could not be answered (the first, {outcome.error}); hartley query {path} errors",
            file=sys.stderr,
        )
    if outcome.cancelled:
        print("hartley: stopped by Ctrl-C; give the same command again to go on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _versions() -> dict[str, Any]:
    from hartley.cli.env import PACKAGES, version_of

    names = (*PACKAGES, "llama-cpp-python", "vllm", "ray", "pyarrow")
    return {"versions": {name: found for name in names if (found := version_of(name)) is not None}}
