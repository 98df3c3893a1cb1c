"""What texts are compared by, against the definitions written out."""

import math

import pytest

from hartley.report import measures


def run(sampler, seed, ids, surprisal):
    tokens = [{"token_id": id, "text": "ab", "surprisal": surprisal, "kept": 5} for id in ids]
    return {"sampler": sampler, "prompt": str(ids), "seed": seed, "tokens": tokens}


def test_one_seed_gives_one_number_and_errors_are_over_seeds():
    table = measures.measure(
        [
            run("a", 0, [1, 2, 3, 1, 2, 3], 1.0),  # 123 231 312 123
            run("a", 0, [1, 2, 3, 4], 2.0),  # 123 234
            run("a", 1, [5, 6, 7, 8], 3.0),
            run("a", 1, [6, 7, 8], 3.0),
        ]
    )["a"]
    assert table["mean_surprisal"] == (pytest.approx(2.25), pytest.approx(0.75))  # seeds: 1.5 and 3
    assert table["distinct_3"] == (pytest.approx((4 / 6 + 2 / 3) / 2), pytest.approx(0.0))  # over a seed's texts
    assert table["repeated_3"][0] == pytest.approx((1 / 4 / 2 + 0) / 2)  # within each text
    assert table["bits_per_byte"][0] == pytest.approx(2.25 / 2 / math.log(2))
    assert table["mean_kept"] == (5.0, 0.0)
    assert table["mean_entropy"] == (None, None)


def test_a_single_seed_has_no_error():
    assert measures.measure([run("a", 0, [1, 2, 3], 1.0)])["a"]["mean_surprisal"] == (1.0, None)


def test_samplers_keep_their_order():
    assert list(measures.measure([run(name, 0, [1], 1.0) for name in "bca"])) == ["b", "c", "a"]


def line(surprisal, error):
    return {"mean_surprisal": (surprisal, error), "repeated_3": (0.1, error)}


def test_the_finding_claims_no_more_than_the_error_bars():
    apart = {"a": line(1.0, 0.1), "b": line(2.0, 0.1)}
    assert measures.finding(apart) == "Lowest surprisal: a; fewest repeated 3-grams: not told apart"
    close = {"a": line(1.0, 0.5), "b": line(2.0, 0.5)}
    assert "Lowest surprisal: not told apart" in measures.finding(close)
    assert "One seed" in measures.finding({"a": line(1.0, None), "b": line(2.0, None)})
    assert measures.finding({"a": line(1.0, 0.1)}) == ""


def test_figures_are_the_same_bytes_each_time(runs):
    table = measures.measure(runs)
    assert measures.figure(table, "png").startswith(b"\x89PNG")
    assert measures.figure(table, "svg") == measures.figure(table, "svg")
