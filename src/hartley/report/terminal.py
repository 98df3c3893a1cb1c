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

from hartley.report.calibration import Calibration
from hartley.report.intervals import Bounds, ends, written
from hartley.report.measures import MEASURES, Run, measured
from hartley.report.measures import Table as Measured
from hartley.report.pages import decimal, percent
from hartley.report.readers import Reading
from hartley.report.scale import DARK, EDGES, UNDERLINED, quoted, step_of, visible
from hartley.report.summary import Token
from hartley.report.whole_run import compared, run_totals, span_facts, uncertain_spans

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
MOST = 1_000  # tokens of a file whose text is printed
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


def chart(values: Sequence[float | None], width: int, blocks: str = BLOCKS, top: float = 0.0) -> str:
    """``values`` in one line of blocks from 0 to the largest mean, or to ``top`` if that is more, at most ``width``.

    Neighbours are averaged to fit.

    >>> chart([0.0, 1.0, 2.0, 7.0], 10)
    '▁▂▃█'
    >>> chart([0.0, 2.0, 7.0, 7.0], 2)
    '▂█'
    """
    columns = means([value for value in values if value is not None], width)
    if not columns:
        return ""
    top = max(top, *columns) or 1.0
    return "".join(blocks[min(len(blocks) - 1, int(mean / top * len(blocks)))] for mean in columns)


def means(values: Sequence[float], width: int) -> list[float]:
    """``values`` averaged with their neighbours to be at most ``width``."""
    columns = min(width, len(values))
    edges = [len(values) * place // columns for place in range(columns + 1)] if columns > 0 else []
    return [sum(values[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]


def summary(found: Mapping[str, Any], tokens: Sequence[Token], console: Console) -> RenderableType:
    """The totals of a run, with ``tokens_per_second`` and what else the command knows, and the strip chart."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    both = "{}  {}"
    entropy = both.format(
        decimal(found["mean_entropy"], "nats a token"), decimal(found["bits_per_byte_entropy"], "bits per byte")
    )
    bounded = found.get("mean_entropy_low") is not None
    if bounded:
        entropy = written(Bounds(found["mean_entropy_low"], found["mean_entropy_high"]), "nats a token", digits=3)
    table.add_row("entropy", entropy)
    table.add_row(
        "surprisal",
        both.format(decimal(found["mean_surprisal"], "nats a token"), decimal(found["bits_per_byte"], "bits per byte")),
    )
    if found["mean_varentropy"] is not None or not bounded:
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
    known = [found.get(key) for key in ("format", "model", "engine", "dtype")]
    made = " ".join(str(fact) for fact in known if fact)
    if found.get("seed") is not None:
        made += f", {found.get('sampler') or 'plain sampling'}, seed {found['seed']}"
    table.add_row("run", Text(visible(made)))
    if bounded:
        _bounded_course(table, tokens, console)
        return table
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


def _bounded_course(table: Table, tokens: Sequence[Token], console: Console) -> None:
    """The strip charts of the lower and the upper ends, on one scale."""
    bounds = [one for token in tokens if (one := ends(token)) is not None]
    blocks = ASCII_BLOCKS if console.options.ascii_only else BLOCKS
    width = max(1, console.width - 14)
    highs = [one.high for one in bounds if one.high is not None]
    limited = len(highs) == len(bounds)
    top = max(means(highs, width)) if limited else 0.0
    if limited:
        table.add_row("at most", Text(chart(highs, width, blocks), no_wrap=True))
    table.add_row("at least", Text(chart([one.low for one in bounds], width, blocks, top), no_wrap=True))
    many = f"in means of {len(bounds) / width:.1f} tokens" if len(bounds) > width else "of each token"
    reach = max(highs) if limited else max(one.low for one in bounds)
    table.add_row("", Text(f"entropy {many}, highest single bound {reach:.2f} nats", "dim"))


def report(
    readings: Mapping[str, Reading], calibrations: Mapping[str, Calibration], console: Console
) -> RenderableType:
    """One or two files: their texts where they are short, their totals, where the model was least sure."""
    parts: list[RenderableType] = [legend(console)]
    totals = {name: run_totals(reading) for name, reading in readings.items()}
    notes = dict.fromkeys(note for found in totals.values() for note in found["notes"])
    for name, reading in readings.items():
        parts += ["", Text(name, "bold")]
        room = MOST
        for text in reading.texts:
            head = text.tokens[:room]
            room -= len(head)
            if len(reading.texts) > 1 and head:
                parts.append(Text(visible(text.name), "dim"))
            if head:
                parts.append(coloured(head, console))
        left = sum(len(text.tokens) for text in reading.texts) - MOST
        if left > 0:
            parts.append(Text(f"... and {left:,} more tokens, which --html shows", "dim"))
        parts += ["", summary(totals[name], reading.tokens, console), "", Text("Most uncertain spans")]
        for number, span in enumerate(uncertain_spans(reading, 5), 1):
            parts.append(
                Text.assemble(f"{number}. {quoted(span.words)}  ", (span_facts(span, len(reading.counted) > 1), "dim"))
            )
        if name in calibrations:
            parts += ["", Text(calibrations[name].finding)]
    if len(readings) == 2:
        table = Table("", *readings, "difference")
        for words, values in compared(list(totals.values())):
            table.add_row(words, *values)
        parts += ["", table, Text("Mean ± one standard error over the tokens, taken as independent", "dim")]
    parts += [Text(f"Note: {visible(note)}", "dim") for note in notes]
    return Group(*parts)


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
