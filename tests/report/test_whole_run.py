"""Totals, differences and spans of whole files."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report.readers import Reading, Text
from hartley.report.whole_run import compared, difference, run_totals, uncertain_spans, uncertain_tokens

exact = st.fixed_dictionaries({"text": st.just("ab"), "surprisal": st.floats(0, 9), "entropy": st.floats(0, 9)})
bounded = st.floats(0, 9).flatmap(
    lambda low: st.fixed_dictionaries(
        {
            "text": st.just("ab"),
            "surprisal": st.none() | st.floats(0, 9),
            "entropy_low": st.just(low),
            "entropy_high": st.floats(low, 12),
        }
    )
)


def reading(tokens, name="file"):
    return Reading(name, "form", [Text("text", list(tokens))])


@given(st.lists(exact | bounded, min_size=1, max_size=30), st.data())
def test_the_mean_of_any_entropies_in_the_intervals_lies_in_theirs(tokens, data):
    found = run_totals(reading(tokens))
    chosen = [
        token["entropy"]
        if "entropy" in token
        else data.draw(st.floats(token["entropy_low"], max(token["entropy_low"], token["entropy_high"])))
        for token in tokens
    ]
    mean = math.fsum(chosen) / len(chosen)
    if all("entropy" in token for token in tokens):
        assert found["mean_entropy"] == pytest.approx(mean)
        assert "mean_entropy_low" not in found
    else:
        assert found["mean_entropy"] is None
        assert found["mean_entropy_low"] - 1e-9 <= mean <= found["mean_entropy_high"] + 1e-9


@given(st.lists(bounded, min_size=1, max_size=9), st.lists(exact | bounded, min_size=1, max_size=9))
def test_the_difference_of_intervals_holds_every_difference(one, two):
    first, second = run_totals(reading(one)), run_totals(reading(two))
    found = difference(first, second, "mean_entropy")
    ends = [
        (first["mean_entropy_low"], first["mean_entropy_high"]),
        (
            second.get("mean_entropy_low", second["mean_entropy"]),
            second.get("mean_entropy_high", second["mean_entropy"]),
        ),
    ]
    for a in ends[0]:
        for b in ends[1]:
            assert found.low - 1e-9 <= b - a <= found.high + 1e-9


def test_a_difference_has_the_error_of_both():
    one = run_totals(reading([{"text": "a", "surprisal": value, "entropy": value} for value in (1.0, 2.0, 3.0)]))
    two = run_totals(reading([{"text": "a", "surprisal": value, "entropy": value} for value in (2.0, 4.0)]))
    found = difference(one, two, "mean_entropy")
    assert found.low == pytest.approx(1.0)
    assert found.error == pytest.approx(math.sqrt(1 / 3 + 1.0))
    assert dict(compared([one, two]))["entropy, nats a token"][2] == "+1.0 ± 1.2"
    assert dict(compared([one, two]))["tokens"] == ["3", "2", "-1"]


def test_without_a_vocabulary_size_the_upper_end_is_said_to_be_missing():
    token = {"text": "a", "surprisal": 1.0, "entropy_low": 1.0, "entropy_high": None}
    found = run_totals(reading([token]))
    assert found["mean_entropy_high"] is None
    assert any("--vocab-size" in note for note in found["notes"])
    assert "not bounded" in dict(compared([found, found]))["entropy, nats a token"]


@given(st.lists(st.floats(0, 9), min_size=1, max_size=80), st.integers(1, 12))
def test_spans_are_the_highest_and_do_not_overlap(entropies, length):
    tokens = [{"text": "a", "surprisal": 1.0, "entropy": value} for value in entropies]
    spans = uncertain_spans(reading(tokens), 5, length)
    size = min(length, len(tokens))
    means = [math.fsum(entropies[at : at + size]) / size for at in range(len(entropies) - size + 1)]
    assert spans[0].entropy.low == pytest.approx(max(means), abs=1e-9)
    for place, span in enumerate(spans):
        assert span.stop - span.start == size
        assert span.words == "a" * size
        for other in spans[:place]:
            assert span.stop <= other.start or other.stop <= span.start
    assert all(before.entropy.low >= after.entropy.low - 1e-9 for before, after in pairwise(spans))


def test_the_least_sure_tokens_come_first_over_all_texts():
    texts = [
        Text(str(n), [{"text": "a", "surprisal": 1.0, "entropy": float(n + 2 * k)} for k in range(3)]) for n in (0, 1)
    ]
    assert uncertain_tokens(Reading("file", "form", texts), 3) == [(1, 2), (0, 2), (1, 1)]


def test_scored_prompts_count_only_where_nothing_was_generated():
    prompt = Text("prompt", [{"text": "p", "surprisal": 4.0}], is_prompt=True)
    text = Text("text", [{"text": "t", "surprisal": 2.0}])
    assert run_totals(Reading("f", "form", [prompt, text]))["mean_surprisal"] == 2.0
    assert run_totals(Reading("f", "form", [prompt]))["mean_surprisal"] == 4.0


def test_bits_per_byte_are_of_the_tokens_that_have_a_surprisal():
    tokens = [{"text": "xxxx", "surprisal": None}, {"text": "ab", "surprisal": 2 * math.log(2)}]
    assert run_totals(reading(tokens))["bits_per_byte"] == pytest.approx(1.0)
