"""How long a report of many tokens takes to make and to open: `python -m benchmarks.report [--tokens N ...]`."""

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write
from hartley.report import read, report_page

WORDS = (Path(__file__).parents[1] / "tests" / "data" / "moby_dick.txt").read_text(encoding="utf-8").split()
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
LISTED, POSSIBLE = 20, 40


def answer(tokens: int) -> dict[str, Any]:
    """A chat answer in OpenAI's shape with 20 alternatives a token: real words, drawn probabilities."""
    draw = random.Random(0)
    content: list[dict[str, Any]] = []
    for place in range(tokens):
        word = " " + WORDS[place % len(WORDS)] + "\n" * (place % 997 == 996)
        fall = draw.choice([0.2, 0.5, 1.0, 2.0, 3.0])
        weights = sorted((math.exp(-fall * k) * draw.uniform(0.5, 1) for k in range(POSSIBLE)), reverse=True)
        values = [math.log(weight / sum(weights)) for weight in weights]
        drawn = draw.choices(range(POSSIBLE), weights)[0]
        names = [word if k == drawn else f" {k}" for k in range(LISTED)]
        top = [{"token": name, "logprob": value} for name, value in zip(names, values[:LISTED], strict=True)]
        content.append({"token": word, "logprob": values[drawn], "top_logprobs": top})
    choice = {"index": 0, "message": {"content": ""}, "logprobs": {"content": content}}
    return {"id": "drawn", "choices": [choice]}


def opened(page: Path, times: int) -> dict[str, float]:
    """Median seconds from the navigation to two painted frames, and of the renderer's main thread until then."""
    from playwright.sync_api import sync_playwright

    taken: list[tuple[float, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(times):
            tab = browser.new_page()
            session = tab.context.new_cdp_session(tab)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            start = time.perf_counter()
            tab.goto(page.as_uri(), timeout=300_000)
            tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            wall = time.perf_counter() - start
            found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            taken.append((wall, found["ThreadTime"]))
            tab.close()
        browser.close()
    wall, busy = zip(*taken, strict=True)
    return {"open s": statistics.median(wall), "open s, main thread": statistics.median(busy)}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for tokens in given.tokens:
        with tempfile.TemporaryDirectory() as folder:
            file, page = Path(folder) / "answer.json", Path(folder) / "page.html"
            file.write_text(json.dumps(answer(tokens)), encoding="utf-8")
            start = time.perf_counter()
            found = read(file, vocab_size=50_000)
            reading = time.perf_counter() - start
            page.write_text(report_page([found]), encoding="utf-8")
            making = time.perf_counter() - start - reading
            sizes = {"file MB": file.stat().st_size / 1e6, "page MB": page.stat().st_size / 1e6}
            rows.append({"tokens": tokens, **sizes, "read s": reading, "make s": making, **opened(page, given.times)})
            print(rows[-1], flush=True)
    write("report", rows)


if __name__ == "__main__":
    main()
