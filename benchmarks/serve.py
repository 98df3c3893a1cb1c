"""``hartley serve`` beside ``transformers serve`` on the default model: time to first token and tokens a second.

`python -m benchmarks.serve [--quick]`. Both servers run at once on this machine and are asked in turn; 1, 4, 8 and 16
clients each ask for a chat answer of 32 tokens, streamed, at the same moment. Quoted are medians of the rounds: of all
tokens over the time from the first request to the last event, and of the clients' times to their first piece of text.
`python -m benchmarks.serve --soak 3000` sends that many short requests, of which every fifth client vanishes on the
way, and watches the server's memory and its slots. `python -m benchmarks.serve --page` opens the page in fresh browser
contexts and says when it was interactive.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.common import write
from hartley.models import load

CLIENTS = (1, 4, 8, 16)
TOPICS = ("the sea", "bread", "bridges", "winter", "a clock", "bees", "glass", "the moon", "salt", "maps", "rain")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], port: int, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, once it answers."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(1200):
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(60)


async def answer(client: httpx.AsyncClient, url: str, model: str, tokens: int, seed: int) -> tuple[list[float], str]:
    """When each piece of text of one streamed chat answer came, and the text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Write a long story about {TOPICS[seed % len(TOPICS)]}."}],
        "max_tokens": tokens,
        "stream": True,
        "temperature": 1.0,
        "seed": seed,
    }
    times: list[float] = []
    text = ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"content"' in line:
                times.append(time.perf_counter())
                text += json.loads(line[6:])["choices"][0]["delta"]["content"] or ""
    return times, text


async def together(url: str, model: str, seeds: Sequence[int], tokens: int) -> tuple[float, float, list[str]]:
    """Pieces a second of all clients, one a seed, the median time to the first one, and the texts."""
    async with httpx.AsyncClient(timeout=600) as client:
        start = time.perf_counter()
        found = await asyncio.gather(*(answer(client, url, model, tokens, seed) for seed in seeds))
    pieces = sum(len(times) for times, _ in found)
    seconds = max(times[-1] for times, _ in found) - start
    return pieces / seconds, statistics.median(t[0] - start for t, _ in found), [text for _, text in found]


def compare(quick: bool) -> None:
    """Measure, print and write."""
    tokens, rounds = (8, 1) if quick else (32, 2)
    directory = str(load("smollm2").directory)
    scripts = Path(sys.executable).parent
    ports = {name: free_port() for name in ("hartley int8 (default)", "hartley float32", "transformers float32")}
    first, second, third = ports.values()
    hartley = [str(scripts / "hartley"), "serve", "--port"]
    peer = [str(scripts / "transformers"), "serve", directory]
    servers = [
        serving([*hartley, str(first)], first, "/readyz"),
        serving([*hartley, str(second), "--dtype", "float32"], second, "/readyz"),
        serving([*peer, "--device", "cpu", "--dtype", "float32", "--port", str(third)], third, "/health"),
    ]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    same: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for one in servers:
            stack.enter_context(one)
        for turn in range(rounds + 1):
            for clients in CLIENTS:
                for name, port in ports.items():
                    model = directory if name.startswith("transformers") else "smollm2"
                    url = f"http://127.0.0.1:{port}"
                    speed, wait, texts = asyncio.run(together(url, model, range(clients), tokens))
                    if turn:  # the first one warms up
                        found.setdefault((name, clients), []).append((speed, wait))
                        print(f"{name}, {clients} clients: {speed:.1f} tokens a second, {wait:.3f} s", flush=True)
                    if turn == rounds and clients == max(CLIENTS) and not name.startswith("transformers"):
                        alone = [asyncio.run(together(url, model, [i], tokens))[2][0] for i in range(clients)]
                        same[name] = sum(map(str.__eq__, texts, alone))
    rows: list[dict[str, Any]] = []
    table = Table("server", "clients", "tokens a second", "first token, s", title=f"{tokens} tokens a client")
    for name in ports:
        for clients in CLIENTS:
            speeds, firsts = zip(*found[name, clients], strict=True)
            speed, wait = round(statistics.median(speeds), 1), round(statistics.median(firsts), 3)
            rows.append({"server": name, "clients": clients, "tokens_per_second": speed, "first_token_s": wait})
            table.add_row(name, str(clients), f"{speed:.1f}", f"{wait:.3f}")
    Console(width=100).print(table)
    print(f"texts of {max(CLIENTS)} clients at once that are those of a client alone: {same}")
    if not quick:
        print(write("serve", rows, same_as_alone=same, unit=f"medians of {rounds} rounds of {tokens} tokens a client"))


async def soak(url: str, process: psutil.Process, requests: int, at_once: int) -> dict[str, Any]:
    """Short requests, every fifth of which is left half way; what came of them, and the server's memory."""
    draw = random.Random(0)
    asked = iter(range(requests))
    told: dict[str, int] = {"answered": 0, "vanished": 0, "failed": 0}
    memory: list[tuple[int, float]] = []
    done = 0

    async def client() -> None:
        nonlocal done
        async with httpx.AsyncClient(timeout=120) as http:
            for number in asked:
                body = {
                    "prompt": f"{number}. A word about {draw.choice(TOPICS)}:",
                    "max_tokens": draw.randint(2, 12),
                    "stream": True,
                    "seed": number,
                    "entropy": draw.random() < 0.5,
                    "sampler": draw.choice(["temperature=1.5,top_h=0.4", "mirostat=2,mirostat_tau=3", "top_p=0.9"]),
                }
                leaves = number % 5 == 0
                ended = False
                try:
                    async with http.stream("POST", f"{url}/v1/completions", json=body) as response:
                        async for line in response.aiter_lines():
                            if leaves and line.startswith("data: {"):
                                break
                            ended = ended or line == "data: [DONE]"
                    told["vanished" if leaves else "answered" if ended else "failed"] += 1
                except httpx.HTTPError:
                    told["failed"] += 1
                done += 1
                if done % 100 == 0:
                    memory.append((done, process.memory_info().rss / 1e6))
                    print(done, told, f"{memory[-1][1]:.0f} MB", flush=True)

    await asyncio.gather(*(client() for _ in range(at_once)))
    await asyncio.sleep(2)
    gauges = (await httpx.AsyncClient().get(f"{url}/metrics")).text
    slots = [line for line in gauges.splitlines() if line.startswith("hartley_") and " 0" not in line]
    late = [size for count, size in memory if count > 500]
    return {
        **told,
        "MB after 500": round(next(size for count, size in memory if count >= 500), 1),
        "MB at most later": round(max(late), 1),
        "MB at the end": round(memory[-1][1], 1),
        "gauges": [line for line in slots if "running" in line or "waiting" in line],
    }


def visits(url: str, times: int) -> list[float]:
    """Seconds from each navigation until the page can be used; Chromium, nothing in its cache."""
    from playwright.sync_api import sync_playwright

    found: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(times):
            context = browser.new_context()
            page = context.new_page()
            page.goto(url)
            page.wait_for_function("performance.getEntriesByName('interactive').length > 0")
            found.append(page.evaluate("performance.getEntriesByName('interactive')[0].startTime") / 1000)
            context.close()
        browser.close()
    return found


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--soak", type=int, metavar="REQUESTS")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if given.soak is None and not given.page:
        compare(given.quick)
        return
    port = free_port()
    command = [shutil.which("hartley") or str(Path(sys.executable).parent / "hartley"), "serve", "--port", str(port)]
    with serving(command, port, "/readyz") as process:
        if given.page:
            seconds = sorted(visits(f"http://127.0.0.1:{port}/", 15))
            row = {"visits": len(seconds), "median_s": statistics.median(seconds), "slowest_s": seconds[-1]}
            print(row)
            print(write("page", [row]))
            return
        found = asyncio.run(soak(f"http://127.0.0.1:{port}", psutil.Process(process.pid), given.soak, 16))
    print(found)
    print(write("soak", [found], requests=given.soak))


if __name__ == "__main__":
    main()
