"""The pages: everything that came from a model or a user is escaped, and nothing is loaded."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report import compare_page, measures, tokens_page
from hartley.report.pages import percent
from hartley.report.scale import visible
from page_checks import check_safe


def test_a_run_is_escaped_everywhere(run):
    text = tokens_page(
        run,
        prompt="</p><script>prompt</script>",
        settings={"<b>name": "<i>value", "left out": None},
        title="<u>title",
        note="<s>note",
    )
    page = check_safe(text)
    assert page.tokens == [visible(token["text"]) for token in run]
    assert "left out" not in text


@given(st.lists(st.text(), max_size=5), st.text(min_size=1))
def test_any_text_comes_out_as_it_went_in(texts, prompt):
    run = [{"text": text, "surprisal": 1.0, "top": [{"text": text, "log_prob": -1.0}]} for text in texts]
    page = check_safe(tokens_page(run, prompt=prompt, settings={prompt: prompt}, title=prompt, note=prompt))
    assert page.tokens == [visible(text) for text in texts]


def test_a_provider_that_tells_little_gets_a_page_of_what_it_tells():
    text = tokens_page([{"text": "Hello", "surprisal": 0.5}, {"text": "!", "surprisal": 0.1, "entropy": None}])
    assert check_safe(text).tokens == ["Hello", "!"]
    body = re.sub(r"<style>.*?</style>|<footer>.*</footer>", "", text, flags=re.DOTALL)
    for absent in ("varentropy", "Tokens kept", "Entropy before", "likeliest", "Settings"):
        assert absent not in body
    assert "0.500 nats" in body


def test_no_tokens_make_a_page_too():
    check_safe(tokens_page([], note="Stopped"))


def test_units_stand_on_the_page(run):
    text = tokens_page(run)
    for unit in ("nats a token", "bits per byte", "nats² a token", "tokens, logarithmic", "Surprisal, nats"):
        assert unit in text


def test_the_drawn_token_is_marked_once_among_the_alternatives(run):
    assert tokens_page(run).count("◂ drawn") == len(run)
    elsewhere = [{**run[0], "token_id": 999}]
    assert "◂ drawn" not in tokens_page(elsewhere)


def test_a_missing_number_is_a_key_error():
    with pytest.raises(KeyError, match="surprisal"):
        tokens_page([{"text": "a"}])


def test_a_comparison_is_escaped_everywhere(runs):
    table = measures.measure(runs)
    text = compare_page(runs, table, figure=measures.figure(table, "svg"), finding="<b>", settings={"<": "<"}, note="<")
    page = check_safe(text)
    assert len(page.tokens) == sum(len(one["tokens"]) for one in runs)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100 %"), (0.9999, "99.99 %"), (0.5, "50 %"), (1e-9, "1.0e-07 %"), (0.0, "0 %")]
)
def test_percentages_are_read_at_a_glance(share, shown):
    assert percent(share) == shown
