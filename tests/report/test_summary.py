"""Totals of a run and measures of texts: what they are defined as, and the laws that follow."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report import bits_per_byte, distinct_n, mean_and_error, repeated_ngrams, totals

texts = st.lists(st.integers(0, 4), max_size=30)
runs = st.lists(
    st.fixed_dictionaries(
        {"text": st.text(max_size=4), "surprisal": st.floats(0, 30)},
        optional={"entropy": st.none() | st.floats(0, 11), "kept": st.integers(1, 50_000)},
    ),
    min_size=1,
    max_size=20,
)


@given(runs)
def test_means_are_of_the_tokens_that_have_the_number(tokens):
    found = totals(tokens)
    entropies = [token["entropy"] for token in tokens if token.get("entropy") is not None]
    expected = pytest.approx(statistics.fmean(entropies)) if entropies else None
    assert found["mean_entropy"] == expected
    assert found["mean_surprisal"] == pytest.approx(statistics.fmean(token["surprisal"] for token in tokens))
    assert found["tokens"] == len(tokens)


@given(runs)
def test_bits_per_byte_counts_the_bytes_of_the_whole_text(tokens):
    size = len("".join(token["text"] for token in tokens).encode())
    nats = math.fsum(token["surprisal"] for token in tokens)
    found = totals(tokens)["bits_per_byte"]
    assert found == (pytest.approx(nats / math.log(2) / size) if size else None)


@given(st.floats(0, 1e4), st.text(min_size=1), st.integers(2, 5))
def test_repeating_a_text_keeps_its_bits_per_byte(nats, text, times):
    assert bits_per_byte(times * nats, times * text) == pytest.approx(bits_per_byte(nats, text))


def test_bytes_are_not_characters():
    assert bits_per_byte(8 * math.log(2), "é") == pytest.approx(4.0)  # two bytes in UTF-8


@given(texts, st.integers(1, 4))
def test_distinct_and_repeated_share_the_ngrams_of_one_text(text, n):
    distinct, repeated = distinct_n([text], n), repeated_ngrams(text, n)
    if len(text) < n:
        assert distinct is None
        assert repeated is None
    else:
        assert distinct + repeated == pytest.approx(1.0)
        seen, again = set(), 0
        for i in range(len(text) - n + 1):  # the definition, one 3-gram after the other
            gram = tuple(text[i : i + n])
            again += gram in seen
            seen.add(gram)
        assert repeated == pytest.approx(again / (len(text) - n + 1))


@given(texts.filter(lambda text: len(text) >= 3))
def test_a_second_copy_halves_distinct_and_crosses_no_border(text):
    assert distinct_n([text, text]) == pytest.approx(distinct_n([text]) / 2)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_standard_error_is_the_deviation_over_the_root_of_the_count(values):
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)
    assert mean_and_error([*values, None]) == (mean, error)


def test_one_value_has_no_error_and_none_no_mean():
    assert mean_and_error([2.0]) == (2.0, None)
    assert mean_and_error([None]) == (None, None)
