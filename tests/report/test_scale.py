"""The colours of surprisal: ordered by lightness alone, readable, and text that cannot drive a terminal."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report.scale import DARK, EDGES, LIGHT, quoted, step_names, step_of, visible


def luminance(colour):
    """Relative luminance of ``#rrggbb`` by the definition of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scale", [LIGHT, DARK])
def test_text_is_readable_on_every_step(scale):
    assert min(contrast(back, fore) for back, fore in scale) >= 4.5  # WCAG 2, level AA


@pytest.mark.parametrize(("scale", "page", "direction"), [(LIGHT, "#ffffff", -1), (DARK, "#1c1f25", 1)])
def test_lightness_alone_orders_the_steps(scale, page, direction):
    levels = [luminance(page), *(luminance(back) for back, _ in scale)]
    for before, after in pairwise(levels):
        assert direction * (after - before) > 0
        assert (max(before, after) + 0.05) / (min(before, after) + 0.05) > 1.1


@given(st.floats(0, 100), st.floats(0, 100))
def test_steps_never_fall_with_surprisal(one, other):
    low, high = sorted((one, other))
    assert 0 <= step_of(low) <= step_of(high) <= len(EDGES) == len(LIGHT) == len(DARK)


def test_each_step_has_a_name_and_none_no_colour():
    assert len(step_names()) == len(EDGES) + 1
    assert step_of(None) == 0
    assert [step_of(edge) for edge in EDGES] == [1, 2, 3, 4, 5, 6]


@given(st.text(st.characters(codec=None)))
def test_what_is_shown_drives_no_terminal_and_turns_no_text_around(text):
    shown = visible(text)
    shown.encode()  # no lone surrogate either
    for character in shown:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        assert unicodedata.bidirectional(character) not in (
            "RLO",
            "LRO",
            "RLE",
            "LRE",
            "PDF",
            "RLI",
            "LRI",
            "FSI",
            "PDI",
        )
    assert "\n" not in quoted(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_is_shown_as_it_is(text):
    assert visible(text) == text
