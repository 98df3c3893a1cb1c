"""A run on a terminal: tokens coloured by surprisal as they come, then its totals and a strip chart of entropy."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from hartley.report.measures import MEASURES, Run, measured
from hartley.report.measures import Table as Measured
from hartley.report.pages import decimal, percent
from hartley.report.scale import DARK, EDGES, UNDERLINED, step_of, visible
from hartley.report.summary import Token

STYLES = ("", *(f"{fore} on {back}{' underline' * (step >= UNDERLINED)}" for step, (back, fore) in enumerate(DARK, 1)))
STYLES_16 = (
    "",
    "",
    "white on blue",
    "white on blue",
    "black on cyan",
    "black on green underline",
    "black on yellow underline",
)
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*%#"


class Stream:
    """Tokens written as they come: coloured, words kept whole, on a terminal; plain in a file or pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.styles = styles(console)
        self.column = 0
        self.word: list[tuple[str, str]] = []  # what was written since the last space

    def push(self, text: str, surprisal: float | None) -> None:
        """Write a token's text; ``surprisal`` is in nats."""
        if not self.console.is_terminal:
            self.console.file.write(text)
            self.console.file.flush()
            self.column = len(text) if text else self.column
            return
        for place, part in enumerate(visible(text).replace("\t", "    ").split("\n")):
            if place:
                self.end_line()
            self._write(part, self.styles[step_of(surprisal)])

    def end_line(self) -> None:
        """Start a new line."""
        self.console.print()
        self.column, self.word = 0, []

    def _write(self, part: str, style: str) -> None:
        if " " in part:
            self.word = []
        if self.column and self.column + cell_len(part) > self.console.width:
            # Broken here rather than by the terminal, which would paint the rest of the line too
            begun, size = self.word, sum(cell_len(piece) for piece, _ in self.word)
            movable = 0 < size < self.column and size + cell_len(part) <= self.console.width
            if movable and not self.console.is_dumb_terminal:
                self.console.control(Control((ControlType.CURSOR_BACKWARD, size), (ControlType.ERASE_IN_LINE, 0)))
            else:
                begun = []
            self.end_line()
            for piece in begun:
                self._print(*piece)
            part = part if begun else part.lstrip(" ")
        self._print(part, style)

    def _print(self, part: str, style: str) -> None:
        self.console.print(Text(part, style), end="", soft_wrap=True)
        self.column += cell_len(part)
        self.word.append((part.rpartition(" ")[2], style))


def styles(console: Console) -> tuple[str, ...]:
    """The style of each step, plainer where a terminal has only 16 colours."""
    return STYLES_16 if console.color_system == "standard" else STYLES


def legend(console: Console) -> Text:
    """What the colours stand for."""
    text = Text("surprisal in nats, from ")
    for edge, style in zip((0, *EDGES), styles(console), strict=True):
        text.append(f" {edge:g} ", style).append(" ")
    return text


def chart(values: Sequence[float | None], width: int, blocks: str = BLOCKS) -> str:
    """``values`` in one line of blocks from 0 to the largest, at most ``width``; neighbours are averaged to fit.

    >>> chart([0.0, 1.0, 2.0, 7.0], 10)
    '▁▂▃█'
    >>> chart([0.0, 2.0, 7.0, 7.0], 2)
    '▂█'
    """
    known = [value for value in values if value is not None]
    columns = min(width, len(known))
    if columns < 1:
        return ""
    edges = [len(known) * place // columns for place in range(columns + 1)]
    means = [sum(known[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
    top = max(means) or 1.0
    return "".join(blocks[min(len(blocks) - 1, int(mean / top * len(blocks)))] for mean in means)


def summary(found: Mapping[str, Any], tokens: Sequence[Token], console: Console) -> RenderableType:
    """The totals of a run, with ``tokens_per_second`` and what else the command knows, and the strip chart."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    both = "{}  {}"
    table.add_row(
        "entropy",
        both.format(
            decimal(found["mean_entropy"], "nats a token"), decimal(found["bits_per_byte_entropy"], "bits per byte")
        ),
    )
    table.add_row(
        "surprisal",
        both.format(decimal(found["mean_surprisal"], "nats a token"), decimal(found["bits_per_byte"], "bits per byte")),
    )
    table.add_row("varentropy", decimal(found["mean_varentropy"], "nats² a token"))
    if found["mean_kept"] is not None:
        mass = f", {percent(found['mean_mass'])} of the mass" if found["mean_mass"] is not None else ""
        low, high = found["min_kept"], found["max_kept"]
        kept = f"{low:,} tokens each time"
        if low != high:
            kept = f"{found['mean_kept']:,.1f} tokens on average ({low:,} to {high:,})"
        table.add_row("kept", kept + mass)
    run = [f"{found['tokens']:,} tokens"]
    if found.get("tokens_per_second") is not None:
        run.append(f"{found['tokens_per_second']:.1f} tokens/s")
    if found.get("seconds_to_first_token") is not None:
        run.append(f"first after {found['seconds_to_first_token']:.2f} s")
    table.add_row("length", ", ".join(run))
    known = [found.get(key) for key in ("model", "engine", "dtype")]
    made = " ".join(str(fact) for fact in known if fact)
    if found.get("seed") is not None:
        made += f", {found.get('sampler') or 'plain sampling'}, seed {found['seed']}"
    table.add_row("run", Text(made))
    entropies = [token.get("entropy") for token in tokens]
    line = chart(entropies, console.width - 14, ASCII_BLOCKS if console.options.ascii_only else BLOCKS)
    if not line:
        return table
    top = max(entropy for entropy in entropies if entropy is not None)
    axis = f"entropy of each token, 0 to {top:.2f} nats"
    if len(line) < len(tokens):
        axis = f"entropy, means of {len(tokens) / len(line):.1f} tokens, highest single one {top:.2f} nats"
    table.add_row("course", Text(line, no_wrap=True))
    table.add_row("", Text(axis, "dim"))
    return table


def comparison(runs: Sequence[Run], table: Measured, console: Console) -> RenderableType:
    """The texts of each sampler side by side, those of the first seed, and what all texts measure."""
    names = list(table)
    shown = Table(expand=True, show_lines=True)
    shown.add_column("", overflow="fold", style="dim", width=14)
    for name in names:
        shown.add_column(Text(name.replace(",", ", ")), ratio=1, overflow="fold")
    first = min(run["seed"] for run in runs)
    groups: dict[str, dict[str, Run]] = {}
    for run in runs:
        if run["seed"] == first:
            groups.setdefault(run["prompt"], {})[run["sampler"]] = run
    for prompt, found in groups.items():
        texts = [coloured(found[name]["tokens"], console) if name in found else "" for name in names]
        shown.add_row(Text(visible(prompt)), *texts)
    for column in MEASURES:
        numbers = [measured(*table[name][column.key]) for name in names]
        shown.add_row(Text(f"{column.title}, {column.unit}"), *numbers)
    return Group(
        legend(console), shown, Text(f"Texts of seed {first}; mean ± one standard error over the seeds", "dim")
    )


def coloured(tokens: Sequence[Token], console: Console) -> Text:
    """A whole run as one coloured text."""
    text, steps = Text(), styles(console)
    for token in tokens:
        text.append(visible(token["text"]), steps[step_of(token["surprisal"])])
    return text


def output() -> Console:
    """A console for what a command was asked for."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def messages() -> Console:
    """A console for everything that is not the output itself."""
    return Console(file=sys.stderr, highlight=False)
