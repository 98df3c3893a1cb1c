"""The rendering on a terminal, and what is left of it in a pipe."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hartley.report import measures, totals
from hartley.report.terminal import BLOCKS, Stream, chart, comparison, legend, summary


def terminal(width=20, color="truecolor"):
    return Console(file=io.StringIO(), force_terminal=True, color_system=color, width=width, legacy_windows=False)


def plain(width=80):
    return Console(file=io.StringIO(), force_terminal=False, width=width)


@given(st.lists(st.floats(0, 12), min_size=1, max_size=200), st.integers(1, 80))
def test_a_chart_fits_its_width_and_shows_the_highest_column(values, width):
    line = chart(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS)
    if max(values) > 0:
        assert BLOCKS[-1] in line


@given(st.lists(st.floats(0, 12), min_size=1, max_size=40))
def test_higher_values_have_higher_blocks(values):
    levels = [BLOCKS.index(block) for block in chart(values, 40)]
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(levels[i] <= levels[j] for i, j in pairwise(order))


def test_a_pipe_gets_the_text_and_nothing_else():
    console = plain()
    stream = Stream(console)
    for text in ("A\x1b[31m", "", " very" * 40, "\n"):
        stream.push(text, 9.0)
    assert console.file.getvalue() == "A\x1b[31m" + " very" * 40 + "\n"


def test_a_terminal_gets_no_escape_sequence_from_the_model():
    console = terminal(color=None)
    Stream(console).push("\x1b[2J\x07", 1.0)
    assert console.file.getvalue() == "\\x1b[2J\\x07"


def screen(written):
    """The lines a terminal shows: it moves back and erases to the end of the line where it is told to."""
    rows = [[]]
    for back, character in re.findall("\x1b\\[(\\d+)D\x1b\\[0K|(.|\n)", written):
        if back:
            cells = int(back)
            while cells:
                cells -= cell_len(rows[-1].pop())
        elif character == "\n":
            rows.append([])
        else:
            rows[-1].append(character)
    return ["".join(row) for row in rows]


PIECES = [" word", "ing", "a", "\n", " 日本", "b\nc", " ", "un"]


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.integers(8, 40))
def test_lines_fit_and_words_that_fit_are_whole(pieces, width):
    console = terminal(width, color=None)
    stream = Stream(console)
    for piece in pieces:
        stream.push(piece, None)
    lines = screen(console.file.getvalue())
    assert all(cell_len(line) <= width for line in lines)
    words = "".join(pieces).split()
    shown = " ".join(lines).split()
    if all(cell_len(word) < width for word in words):
        assert shown == words
    assert "".join(shown) == "".join(words)


@pytest.mark.parametrize("width", [60, 80])
def test_the_legend_fits_a_narrow_terminal(width):
    console = terminal(width, color=None)
    console.print(legend(console))
    assert console.file.getvalue().count("\n") == 1


def test_surprising_tokens_are_coloured_and_underlined_too():
    console = terminal()
    stream = Stream(console)
    stream.push("sure", 0.01)
    stream.push("odd", 9.0)
    written = console.file.getvalue()
    assert written.startswith("sure\x1b[4;")
    assert "48;2;253;231;58m" in written


def test_the_summary_has_units_and_numbers(run):
    console = plain()
    found = totals(run) | {"tokens_per_second": 61.5, "seconds_to_first_token": 0.2, "model": "m", "seed": 3}
    console.print(summary(found, run, console))
    written = console.file.getvalue()
    for part in (
        "nats a token",
        "bits per byte",
        "nats² a token",
        "61.5 tokens/s",
        "seed 3",
        "plain sampling",
        "4.00 nats",
    ):
        assert part in written
    assert f"{found['mean_entropy']:.3f}" in written


def test_the_summary_leaves_out_what_a_provider_does_not_tell():
    console = plain()
    tokens = [{"text": "a", "surprisal": 1.0}]
    console.print(summary(totals(tokens), tokens, console))
    assert "kept" not in console.file.getvalue()
    assert "course" not in console.file.getvalue()


@pytest.mark.parametrize("width", [60, 120])
def test_samplers_stand_side_by_side(runs, width):
    console = plain(width)
    console.print(comparison(runs, measures.measure(runs), console))
    written = console.file.getvalue()
    assert written.count("Ishmael") >= 6  # the first seed of three samplers and two prompts
    assert max(map(len, written.splitlines())) <= width
