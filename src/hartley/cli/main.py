"""The ``hartley`` command. Nothing heavy is imported before a command needs it."""

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

import hartley
from hartley.cli.batch import Batch, batch
from hartley.cli.compare import compare
from hartley.cli.detect import detect
from hartley.cli.env import env
from hartley.cli.generate import generate
from hartley.cli.papers import papers, reproduce
from hartley.cli.probe import probe
from hartley.cli.query import query
from hartley.cli.report import report
from hartley.cli.serve import serve
from hartley.cli.watch import watch
from hartley.cli.xray import xray


class Commands(TyperGroup):
    """Commands whose errors are one line, with the traceback only where ``HARTLEY_DEBUG=1`` asks for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with the input or the machine ends it with status 2."""
        try:
            return super().invoke(ctx)
        except (ValueError, ImportError, OSError) as error:
            if isinstance(error, BrokenPipeError) or os.environ.get("HARTLEY_DEBUG") == "1":
                raise
            print(f"hartley: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"hartley {hartley.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
    ),
) -> None:
    """Measure, steer and spend the entropy of real models."""


for command in (generate, compare, serve, query, report, watch, xray, detect, probe, papers, reproduce, env):
    app.command()(command)
app.command(cls=Batch)(batch)


def main() -> None:
    """Run the command line."""
    # The threads of torch, numba and llama.cpp (two OpenMP runtimes) wait for one another by spinning, by default for
    # milliseconds, on cores that the others need. Read once, when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "300")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model writes any character; not every terminal has it
    app(prog_name="hartley")
