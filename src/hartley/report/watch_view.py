"""A training run on a terminal: a line for each column that matters, what it is, alarms, and the forecast."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from hartley.report.scale import visible
from hartley.report.terminal import ASCII_BLOCKS, BLOCKS, chart, means
from hartley.report.watch import ROLES, State, Watched, note_of_temperature, shown

MOST = 6  # columns of a role
FROM_ZERO = ("entropy", "length")  # roles whose course is drawn from 0


def watch_view(state: State, console: Console, live: bool = False) -> RenderableType:
    """The whole run as it stands."""
    logs = state.logs
    step = "no step yet" if logs.last_step is None else f"step {logs.last_step:,}"
    files = f"{len(logs.files)} file{'s' * (len(logs.files) != 1)}"
    head = [visible(str(logs.path)), step, files, *(["watching: Ctrl-C ends"] if live else [])]
    parts: list[RenderableType] = [Text("  ".join(head), "bold"), ""]
    for alarm in state.alarms:  # first: the end of a long view is cut off while it is live
        parts.append(Text(f"! {visible(alarm.name)}: {alarm.words}", "bold red"))
    parts += [""] * bool(state.alarms)
    every = [one for role in ROLES for one in state.of(role)[:MOST]]
    widths = (
        max((len(visible(one.name)) for one in every), default=0),
        max((len(_ends(one)) for one in every), default=0),
    )
    for role, words in ROLES.items():
        if found := state.of(role):
            parts += [Text(words, "bold"), *_lines(found[:MOST], role, state, console, widths)]
            if len(found) > MOST:
                parts.append(Text(f"... and {len(found) - MOST} more, which --html and --json show", "dim"))
            parts.append("")
    if not every:
        parts += [Text("No column that is known has a number yet.", "dim"), ""]
    parts.append(Text(forecast_words(state)))
    if unknown := state.unknown:
        names = ", ".join(f"{visible(one.name)}{_last(one)}" for one in unknown)
        parts.append(Text(f"Unknown columns (what they are cannot be told): {names}", "dim"))
    notes = [note for note in (note_of_temperature(logs), *logs.notes) if note]
    parts += [Text(f"Note: {visible(note)}", "dim") for note in notes]
    return Group(*parts)


def forecast_words(state: State) -> str:
    """The forecast in one sentence, or why there is none."""
    found = state.forecast
    if found is None:
        return f"No forecast: {state.without}."
    holds = "it holds as long as the run goes on as it did"
    if found.last > found.high:
        holds = "the score is above that already, so the law does not describe this run"
    return (
        f"Forecast: with all entropy spent {found.score} would reach {found.ceiling:.3g} (95% interval {found.low:.3g} "
        f"to {found.high:.3g}); it is {found.last:.3g} now. From R = b - a exp(H) on {len(found.pairs)} steps with "
        f"{found.entropy}; {holds}."
    )


def _ends(one: Watched) -> str:
    values = one.series.values
    return f"{shown(values[0])} → {shown(values[-1])} {one.unit}".rstrip()


def _lines(
    found: Sequence[Watched], role: str, state: State, console: Console, widths: tuple[int, int]
) -> Iterator[RenderableType]:
    """A column in two lines: its name, course and ends; and what it is. ``widths`` are those of names and ends."""
    room = max(8, min(60, console.width - sum(widths) - 4))
    blocks = ASCII_BLOCKS if console.options.ascii_only else BLOCKS
    for one in found:
        values = one.series.values
        low = min(0.0, *values) if role in FROM_ZERO else min(values)
        reach = max(means(values, room)) - low
        line = chart([value - low for value in values], room, blocks, reach or 1.0)
        yield Text.assemble(visible(one.name).ljust(widths[0]), "  ", (line.ljust(room), "cyan"), "  ", _ends(one))
        target = f"; the target is {state.target:g}" if role == "entropy" and state.target is not None else ""
        says = Text(f"{one.says}{target}", "dim")
        yield Padding(says, (0, 0, 0, 2)) if console.is_terminal else Text("  ").append(says)  # which would cut it


def _last(one: Watched) -> str:
    values = one.series.values
    return f" {shown(values[-1])}" if values else ""
