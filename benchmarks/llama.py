"""llama.cpp with our samplers beside llama.cpp with its own: `python -m benchmarks.llama [--quick]`.

The default GGUF file, batch 1, 2 threads. Both sides go along the same text, 128 tokens that the model wrote: they draw
at every token, and read the one that was written, so that they meet the same distributions. Ours is the public decode
loop, which streams text and returns every number of a Draw. Theirs is the tightest loop that the low-level interface
allows: `llama_sampler_sample`, then `llama_decode`. Rounds in turn, medians; prompt reading and a new context are part
of every run on both sides.
"""

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "300")  # as the command line has it; read when torch is loaded

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import write
from hartley.decoding import Draw, Sampler, chain, mirostat, parse, top_p
from hartley.engines import Request, generate
from hartley.engines.llama import Context, LlamaEngine
from hartley.info import Head
from hartley.models import TextStream, load

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"
TAU, ETA = 5.0, 0.1


@dataclass
class Run:
    """Seconds of whole runs and of the sampling of every token in them."""

    whole: list[float] = field(default_factory=list)
    sampling: list[float] = field(default_factory=list)


class Along(Sampler):
    """A sampler that goes along a text, whatever it draws, and notes how long its steps take."""

    def __init__(self, inner: Sampler, text: list[int], times: list[float]) -> None:
        super().__init__("along", {})
        self.inner, self.text, self.times = inner, text, times

    def init(self, batch: int) -> Any:
        """The inner sampler's."""
        return self.inner.init(batch)

    def step(self, logits: Any, state: Any, generator: Any) -> Any:
        """The inner sampler's, timed; then the token of the text."""
        start = time.perf_counter()
        draw, state = self.inner.step(logits, state, generator)
        self.times.append(time.perf_counter() - start)
        return draw._replace(token=torch.tensor([self.text[len(self.times) - 1]])), state


def theirs(engine: LlamaEngine, name: str) -> Callable[[int], Any]:
    """llama.cpp's own chain of that name; the function takes a seed."""
    library = engine.library

    def make(seed: int) -> Any:
        found = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        parts = {
            "top_p": [lambda: library.llama_sampler_init_top_p(0.9, 1), lambda: library.llama_sampler_init_dist(seed)],
            "top_k, top_p": [
                lambda: library.llama_sampler_init_top_k(40),
                lambda: library.llama_sampler_init_top_p(0.9, 1),
                lambda: library.llama_sampler_init_dist(seed),
            ],
            "no truncation": [lambda: library.llama_sampler_init_dist(seed)],
            "mirostat 1": [lambda: library.llama_sampler_init_mirostat(engine.vocab_size, seed, TAU, ETA, 100)],
            "mirostat 2": [lambda: library.llama_sampler_init_mirostat_v2(seed, TAU, ETA)],
        }[name]
        for part in parts:
            library.llama_sampler_chain_add(found, part())
        return found

    return make


OURS: dict[str, Callable[[], Sampler]] = {
    "top_p": lambda: top_p(0.9),
    "top_k, top_p": lambda: parse("top_k=40,top_p=0.9"),
    "no truncation": chain,
    "mirostat 1": lambda: mirostat(1, tau=TAU, eta=ETA, surprise="truncated", compat="llama.cpp"),
    "mirostat 2": lambda: mirostat(2, tau=TAU, eta=ETA, surprise="truncated"),
}


def run_theirs(engine: LlamaEngine, ids: list[int], text: list[int], sampler: Any, times: list[float]) -> None:
    """Go along ``text`` with a chain of llama.cpp's."""
    library = engine.library
    context = Context(engine, len(ids) + len(text), rows=1, tokens=len(ids), outputs=1)
    prompt = (ctypes.c_int32 * len(ids))(*ids)
    library.llama_decode(context.handle, library.llama_batch_get_one(prompt, len(ids)))
    one = (ctypes.c_int32 * 1)()
    for token in text:
        start = time.perf_counter()
        library.llama_sampler_sample(sampler, context.handle, -1)
        times.append(time.perf_counter() - start)
        one[0] = token
        library.llama_decode(context.handle, library.llama_batch_get_one(one, 1))
    library.llama_sampler_free(sampler)


def run_ours(engine: LlamaEngine, ids: list[int], text: list[int], sampler: Sampler, seed: int) -> None:
    """Go along ``text`` in the public loop."""
    assert [step.token for step in generate(engine, [Request(ids, sampler, len(text), seed=seed)])] == text


def written(engine: LlamaEngine, ids: list[int], tokens: int) -> list[int]:
    """The first text of ``tokens`` tokens that the model writes without ending it."""
    for seed in count():
        found = [step.token for step in generate(engine, [Request(ids, top_p(0.9), tokens, seed=seed)])]
        if len(found) == tokens and not engine.tokenizer.stop_ids.intersection(found):
            return found
    raise AssertionError


def parts(engine: LlamaEngine, ids: list[int], sampler: Sampler, text: list[int]) -> dict[str, float]:
    """Milliseconds of each part of our step, medians: what the loop and the sampler do, one after the other."""
    tokens = len(text)
    session = engine.start([ids], [tokens])
    state = sampler.init(1)
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randint(1 << 62, (tokens, 1), generator=generator)
    stream = TextStream(engine.tokenizer, ids)
    times: dict[str, list[float]] = {}

    def watch() -> Iterator[None]:
        last = time.perf_counter()
        while True:
            name = yield
            now = time.perf_counter()
            times.setdefault(name, []).append(1e3 * (now - last))
            last = time.perf_counter()

    for turn in range(tokens):
        clock = watch()
        next(clock)
        logits = session.logits()
        clock.send("get logits")
        head = Head.of(logits)
        clock.send("Head: entropy, varentropy, likeliest tokens")
        cut = sampler.apply(head, state)
        clock.send("cut")
        token = cut.draw(seeds[turn])
        clock.send("draw")
        draw = Draw.of(cut, token)
        state = sampler.update(state, draw)
        clock.send("surprisal, rank, kept, mass; state")
        draw.row(0)
        clock.send("to Python numbers")
        stream.push(text[turn])
        clock.send("text")
        session.append([text[turn]])
        clock.send("model")
    session.close()
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def main(quick: bool) -> None:
    """Measure, print and write."""
    torch.set_num_threads(2)
    tokens, rounds = (32, 2) if quick else (128, 9)
    engine = LlamaEngine(load("smollm2"))
    ids = engine.tokenizer.encode(PROMPT)
    text = written(engine, ids, tokens)
    runs = {(side, name): Run() for name in OURS for side in ("ours", "theirs")}
    for turn in range(-1, rounds):  # the first is not counted
        for (side, name), run in runs.items():
            sampling: list[float] = []
            start = time.perf_counter()
            if side == "ours":
                run_ours(engine, ids, text, Along(OURS[name](), text, sampling), seed=turn + 1)
            else:
                run_theirs(engine, ids, text, theirs(engine, name)(turn + 1), sampling)
            if turn >= 0:
                run.whole.append(time.perf_counter() - start)
                run.sampling.append(statistics.median(sampling))
    rows = []
    for name in OURS:
        mine, other = runs["ours", name], runs["theirs", name]
        # A round's two runs stand side by side, so their ratio is steadier than the speeds of a shared machine.
        ratio = statistics.median(b / a for a, b in zip(mine.whole, other.whole, strict=True))
        rows.append(
            {
                "sampler": name,
                "ours_tokens_per_second": round(tokens / statistics.median(mine.whole), 1),
                "theirs_tokens_per_second": round(tokens / statistics.median(other.whole), 1),
                "share": round(ratio, 3),
                "ours_sampling_ms": round(1e3 * statistics.median(mine.sampling), 3),
                "theirs_sampling_ms": round(1e3 * statistics.median(other.sampling), 3),
            }
        )
    step = {name: parts(engine, ids, OURS[name](), text) for name in ("top_p", "mirostat 2")}
    table = Table("sampler", "ours tok/s", "llama.cpp tok/s", "share", "ours ms", "llama.cpp ms")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(width=100)
    console.print(table)
    for name, times in step.items():
        console.print(name, times)
    if not quick:
        settings = {"tokens": tokens, "rounds": rounds, "model": f"smollm2 {engine.dtype}", "top_p": 0.9, "top_k": 40}
        print(write("llama", rows, **settings, mirostat={"tau": TAU, "eta": ETA, "m": 100}, step_ms=step))


if __name__ == "__main__":
    main("--quick" in sys.argv)
