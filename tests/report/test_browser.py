"""The pages in a real browser: Debian's Chromium, headless."""

import pytest

import training_runs
from hartley.report import compare_page, measures, tokens_page
from hartley.report.readers import Reading, Text
from hartley.report.report_page import report_page
from hartley.report.watch import state_of
from hartley.report.watch_page import watch_page
from hartley.report.xray.compare import compare
from hartley.report.xray.examine import examine
from hartley.report.xray.page import comparison_page, xray_page
from hartley.training.logs import RunLogs


@pytest.fixture
def show(browser, tmp_path):
    """Open a page and return it; at the end nothing may have been loaded, refused or run."""
    seen = []
    contexts = []

    def show(text, **context):
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.on(
            "request", lambda request: seen.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
        )
        page.goto(file.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert seen == []


def test_alternatives_show_on_hover_and_on_focus(show, run):
    page = show(tokens_page(run))
    third = page.locator(".t").nth(2)
    panel = third.locator(".d")
    assert not panel.is_visible()
    third.hover()
    assert panel.is_visible()
    assert "<img src=x onerror=alert(1)>" in panel.inner_text().replace("␣", " ")
    page.mouse.move(0, 0)
    assert not panel.is_visible()
    page.locator(".t").nth(1).focus()
    page.keyboard.press("Tab")
    assert panel.is_visible()
    assert panel.evaluate(
        "e => e.getBoundingClientRect().bottom <= innerHeight && e.getBoundingClientRect().right <= innerWidth"
    )


def test_the_strips_lead_to_the_tokens(show, run):
    page = show(tokens_page(run))
    page.locator(".strip .hit").nth(3).click(force=True)
    assert page.url.endswith("#t4")


def test_markup_stays_text(show, run):
    page = show(tokens_page(run, prompt="<script>alert(1)</script>", title="<b>"))
    assert page.locator("script").count() == 0
    assert page.locator(".text img").count() == 0
    assert "<script>alert(1)</script>" in page.locator(".text").inner_text()


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(show, run, runs, width):
    table = measures.measure(runs)
    long = [{**run[0], "text": "x" * 400}]
    for text in (
        tokens_page(run + long, prompt="y" * 300),
        compare_page(runs, table, figure=measures.figure(table, "svg")),
    ):
        page = show(text, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_follows_the_colour_scheme(show, run):
    grounds = [
        show(tokens_page(run), color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(251, 251, 249)", "rgb(20, 22, 26)"]


def test_the_figure_of_a_comparison_is_drawn(show, runs):
    table = measures.measure(runs)
    page = show(compare_page(runs, table, figure=measures.figure(table, "svg")))
    assert page.locator("img.figure").evaluate("e => e.decode().then(() => e.naturalWidth)") > 100


def report_of(run, times):
    tokens = [
        {**token, "entropy": None, "entropy_low": token["entropy"], "entropy_high": token["entropy"] + 0.5}
        for _ in range(times)
        for token in run
    ]
    return Reading("answer.json", "OpenAI chat", [Text("text", tokens)], vocab_size=50_000)


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("times", [1, 300])
def test_no_report_is_wider_than_the_screen(show, run, width, times):
    for files in (1, 2):
        page = show(report_page([report_of(run, times)] * files), viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_column_of_a_long_strip_leads_to_its_part_of_the_text(show, run):
    page = show(report_page([report_of(run, 300)]))
    page.locator(".strip .hit").nth(400).click(force=True)
    target = page.locator(":target")
    assert "chunk" in target.get_attribute("class")
    assert target.evaluate("e => e.getBoundingClientRect().top < innerHeight && e.getBoundingClientRect().bottom > 0")


@pytest.mark.slow
def test_100000_tokens_take_a_browser_under_three_seconds(show, run):
    """Seconds the renderer's main thread works until the page is painted; other work on the machine does not count."""
    page = show("<!doctype html>")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    text = report_page(
        [report_of([{**token, "text": token["text"] or " a"} for token in run], 100_000 // len(run) + 1)]
    )
    file = page.url.removeprefix("file://")
    with open(file, "w", encoding="utf-8") as target:
        target.write(text)
    before = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    page.goto(f"file://{file}", timeout=200_000)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    after = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert page.locator(".chunk span").count() >= 100_000
    assert after["ThreadTime"] - before["ThreadTime"] < 3.0


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_no_page_of_a_training_run_is_wider_than_the_screen(show, tmp_path, width):
    (tmp_path / "grpo.jsonl").write_text(training_runs.verl_lines())
    page = show(watch_page(state_of(RunLogs(tmp_path), 0.4)), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img.figure").first.evaluate("e => e.decode().then(() => e.naturalWidth)") > 100


def test_an_x_ray_and_a_comparison_open_quietly_and_fit_a_phone(show, tmp_path):
    from tiny_models import write_folder

    write_folder(tmp_path / "tiny")
    (tmp_path / "text.txt").write_text("the sea and the whale and then the end of it all " * 40)
    report = examine(str(tmp_path / "tiny"), data=tmp_path / "text.txt")
    for text in (xray_page(report), comparison_page(compare(report, report))):
        page = show(text, viewport={"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        pictures = page.locator("img.figure")
        assert pictures.count() > 0
        assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100 && one.alt.length > 20)")
