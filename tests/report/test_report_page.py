"""The page of a report: escaped, an interval wherever only an interval is known, and light where the text is long."""

import base64
import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.report import figures
from hartley.report.calibration import reliability
from hartley.report.readers import Reading, Text
from hartley.report.report_page import DETAILED, names_of, report_page
from hartley.report.scale import visible
from page_checks import check_safe


def bounded(place, text=" a"):
    low = 0.3 + place % 5
    return {
        "position": place,
        "text": text,
        "piece": text,
        "surprisal": None if place % 11 == 10 else 0.2 * (place % 30),
        "entropy_low": low,
        "entropy_high": low + 0.75,
        "top": [{"token_id": None, "text": "<img src=x>", "log_prob": -0.9}],
    }


def reading(tokens, source="/folder/answer.json", **facts):
    return Reading(source, "OpenAI chat", [Text("text", list(tokens), **facts)], "m<odel", vocab_size=50_000)


def body(page):
    return re.sub(r"<style>.*?</style>|<footer>.*</footer>|base64,[^\"]*", "", page, flags=re.DOTALL)


def test_the_page_is_escaped_everywhere(run):
    nasty = "</p><script>alert(1)</script>"
    found = Reading(nasty, nasty, [Text(nasty, run, nasty, nasty), Text("b", run, is_prompt=True)], nasty, [nasty])
    page = check_safe(report_page([found, found]))
    assert page.tokens == [visible(token["text"]) for token in run] * 4
    assert "script" not in page.tags
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value.removeprefix("#") for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert set(links) <= set(ids)


def long(count, text=" <a>"):
    return [bounded(place, text if place % 400 else "\n") for place in range(count)]


def test_a_long_text_is_escaped_and_whole_too():
    tokens = long(DETAILED + 1)
    page = report_page([reading(tokens)])
    check_safe(page)
    chunks = re.findall(r'<div class="chunk[^>]*>(.*?)</div>', page, re.DOTALL)
    shown = html.unescape(re.sub(r"<[^>]*>", "", "".join(chunks)))
    assert shown == "".join(token["text"] for token in tokens)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


@pytest.mark.parametrize("count", [5, DETAILED + 1])
def test_an_interval_is_never_a_single_number(count):
    shown = body(report_page([reading(long(count))]))
    numbers = re.findall(r"entropy</(?:dt|span)><(?:dd|span)>(?:<b>)?([^<]*)<", shown)
    numbers += re.findall(r"entropy ([\d.][^,<\"]*)", shown)
    assert len(numbers) > 3
    assert all("–" in number for number in numbers), numbers
    if count > DETAILED:
        tips = re.findall(r'title="([^"]*)"', shown)
        tips = [tip for tip in tips if " of " in tip]
        assert len(tips) == count
        assert all(re.fullmatch(r"(–|[\d.]+) of [\d.]+–[\d.]+", tip) for tip in tips)


def test_without_an_upper_end_it_is_said():
    tokens = [bounded(place) | {"entropy_high": None} for place in range(6)]
    shown = body(report_page([reading(tokens)]))
    assert "at least 0.300" in shown
    assert "--vocab-size" in shown


def test_exact_entropies_stay_numbers(run):
    shown = body(report_page([Reading("a", "hartley --json", [Text("text", run)])]))
    assert re.search(r"<dt>entropy</dt><dd><b>[\d.]+ ± [\d.]+</b>", shown)
    assert "–" not in re.sub(r"<b class=\"name\">.*?</b>", "", shown)


def test_two_files_stand_one_above_the_other(run):
    first, second = reading(run, "a.json"), reading(run[3:], "b.json")
    page = report_page([first, second])
    assert re.findall(r"<b>([ab]\.json): entropy before each token</b>", page) == ["a.json", "b.json"]
    marks = [re.findall(r"<text [^>]*>([^<]*)</text>", part) for part in page.split("<figure")[1:]]
    assert marks[0] == marks[2]  # one scale
    assert '<th scope="col">difference</th>' in page


def test_names_are_short_where_they_differ():
    assert names_of([reading([], "x/a.json"), reading([], "y/b.json")]) == ["a.json", "b.json"]
    assert names_of([reading([], "x/a.json"), reading([], "y/a.json")]) == ["1. x/a.json", "2. y/a.json"]


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.none() | st.floats(0, 30), st.none() | st.floats(0, 12), st.text(max_size=3)), max_size=12)
)
def test_any_tokens_make_a_page(tokens):
    made = [
        {"text": text, "surprisal": surprisal, "entropy_low": low, "entropy_high": None if low is None else low * 1.5}
        for surprisal, low, text in tokens
    ]
    page = check_safe(report_page([reading(made)]))
    assert page.tokens == [visible(token["text"]) for token in made]


def drawn(svg):
    assert svg.startswith(b"<?xml")
    assert b"url(http" not in svg
    return svg


def test_figures_of_every_kind_are_drawn(run):
    interval, exact = reading(long(300)), Reading("b", "own", [Text("1", run), Text("2", run)])
    open_end = reading([bounded(place) | {"entropy_high": None} for place in range(40)])
    pairs = [(0.1 * (n % 10) + 0.05, n % 3 > 0) for n in range(60)]
    for one in (interval, exact, open_end):
        drawn(figures.entropy_histogram({"a": one}))
        drawn(figures.entropy_by_position({"a": one, "b": exact}))
    drawn(figures.reliability_figure({"a": reliability(pairs, 60)}))
    assert figures.entropy_histogram({"a": reading([{"text": "a", "surprisal": 1.0}])}) is None
    assert figures.entropy_by_position({"a": reading([{"text": "a", "surprisal": 1.0}])}) is None


def test_titles_say_what_was_found():
    def title(values):
        line = figures._line(reading([{"text": "a", "surprisal": 1.0, "entropy": value} for value in values]))
        return figures._trend(line)

    wave = [0.1 * (place % 3) for place in range(400)]
    assert title([3.0 - place / 200 + one for place, one in enumerate(wave)]).startswith("Entropy falls along the text")
    assert title([1.0 + place / 200 + one for place, one in enumerate(wave)]).startswith("Entropy rises along the text")
    assert title([1.0 + one for one in wave]) == "Entropy shows no trend along the text"


def test_figures_stand_on_the_page_as_images(run):
    found = Reading("a.json", "own", [Text("text", run)])
    page = report_page([found], calibrations={"a.json": reliability([(0.5, True), (0.6, False)], 2)})
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert len(images) == 3
    assert all(base64.b64decode(one).startswith(b"<?xml") for one in images)
    assert "The first choice was the reference" in page
