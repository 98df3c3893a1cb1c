"""``hartley query``: what a batch run says, in SQL."""

import csv
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN = 50  # rows of a table on a terminal; --csv and --json give all


def query(
    run: Annotated[Path, typer.Argument(help="The folder of a run of hartley batch.")],
    sql: Annotated[
        str | None, typer.Argument(help="One SELECT, or the name of a view; without it the views are listed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each row.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a line of names.")] = False,
) -> None:
    """Ask a batch run in SQL: the tables texts and tokens, and views for what is asked most.

    The run is opened in DuckDB, which can read its files and nothing else, and write nothing. Entropies are in nats.
    """
    if as_json and as_csv:
        raise ValueError("--json and --csv are both given; choose one")
    from hartley.report.query import VIEWS, opened

    with opened(run) as found:
        if sql is None:
            columns, rows = ["view", "what it shows"], [(name, view.about) for name, view in VIEWS.items()]
            _print(columns, [*_tables(found), *rows], as_json, as_csv)
        else:
            answer = found.ask(sql)
            _print(answer.columns, answer, as_json, as_csv)


def _tables(found: Any) -> list[tuple[str, str]]:
    return [
        (name, f"a row for each {what}: {', '.join(found.ask(name).columns)}")
        for name, what in (("texts", "prompt"), ("tokens", "token"))
    ]


def _print(columns: list[str], rows: Any, as_json: bool, as_csv: bool) -> None:
    from hartley.info.plain import plain

    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(columns, map(plain, row), strict=True)), ensure_ascii=False))
    elif as_csv:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows(rows)
    else:
        _table(columns, iter(rows))


def _table(columns: list[str], rows: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from hartley.report.terminal import output

    table = Table()
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    for row in islice(rows, SHOWN):
        table.add_row(*(Text(_cell(value)) for value in row))
    output().print(table)
    if more := sum(1 for _ in rows):
        print(f"hartley: {more:,} more rows; --csv and --json print all", file=sys.stderr)


def _cell(value: Any) -> str:
    from hartley.report.scale import visible

    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
