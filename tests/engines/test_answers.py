"""The rule that judges an answer: the last number, or the whole text or its last line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.engines.answers import is_correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4", "4"),
        ("The answer is 4.", "4"),
        ("3 + 1 = 4", "4.0"),
        ("$1,234.50 in all", "1234.5"),
        ("1234.5", "$1,234.50"),
        ("between 3 and 12%", "12%"),
        ("-7", "-7"),
        ("x = .5", "0.5"),
        ("Paris", "paris"),
        ("**Paris**.", "Paris"),
        ("I think so.\n\nNew  York\n", "new york"),
        ("Yes!", "yes"),
        ("(B)", "B"),
    ],
)
def test_right(text, answer):
    assert is_correct(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "4"),
        ("", "Paris"),
        ("4, or rather 5", "4"),
        ("41", "4"),
        ("4.01", "4"),
        ("four", "4"),
        ("It is Paris, not Lyon.", "Paris"),
        ("Paris\nor Lyon", "Paris"),
        ("...", "!"),
        ("7", "-7"),
    ],
)
def test_wrong(text, answer):
    assert not is_correct(text, answer)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_numbers_are_compared_as_numbers(a, b):
    assert is_correct(f"so {b} and then {a:,}.", str(a))
    assert is_correct(f"{a}", f"{b}") == (a == b)
