"""``hartley watch``: a training run from its logs, live, as a page or as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hartley.report.watch import State


def watch(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one of its logs.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page to this file, anew whenever something has come.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show the run as it is now, and end.")] = False,
    target: Annotated[
        float | None, typer.Option(help="An entropy (nats a token) the run should keep: drawn, with an alarm below it.")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the files.")] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a value (step, name, value), then what the run says.")
    ] = False,
) -> None:
    """Watch the logs of TRL, verl or transformers: TensorBoard, trainer_state.json, JSON lines, Parquet.

    Says which entropy each column really is, rings when one collapses or preference training goes too far, and
    forecasts the score that is left in the entropy. Logs are read as they grow; in a pipe, and with --json, once.
    Event files need the extra hartley[watch].
    """
    from hartley.report.files import check_writable
    from hartley.training.logs import RunLogs

    if html is not None:
        check_writable("--html", html)
    if target is not None and not target >= 0:
        raise ValueError(f"--target must be at least 0 nats; got {target}")
    if not 0.1 <= every <= 3600:
        raise ValueError(f"--every must be 0.1 to 3600 seconds; got {every}")
    logs = RunLogs(run)

    from hartley.report.terminal import output
    from hartley.report.watch import json_lines, state_of
    from hartley.report.watch_view import watch_view

    state = state_of(logs, target)
    _save(state, html)
    if as_json:
        for line in json_lines(state):
            print(json.dumps(line, ensure_ascii=False, allow_nan=False))
        return
    out = output()
    if once or not out.is_terminal:
        out.print(watch_view(state, out))
        if html is not None:
            print(f"Page saved to {html}", file=sys.stderr)
        return
    from rich.live import Live

    with Live(watch_view(state, out, live=True), console=out, auto_refresh=False, vertical_overflow="ellipsis") as live:
        try:
            while True:
                time.sleep(every)
                if logs.look():
                    state = state_of(logs, target)
                    _save(state, html)
                live.update(watch_view(state, out, live=True), refresh=True)
        except KeyboardInterrupt:
            live.update(watch_view(state, out), refresh=True)


def _save(state: "State", html: Path | None) -> None:
    if html is not None:
        from hartley.report import write_atomic
        from hartley.report.watch_page import watch_page

        write_atomic(html, watch_page(state))
