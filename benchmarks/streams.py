"""Which loop serves several streams best on a CPU: tokens a second, all streams together, as their number grows.

`python -m benchmarks.streams [--quick]`. Every loop continues 1 to 16 different prompts of the default model by 48
tokens each with top_p 0.9 on 2 threads; the loops take turns, and what is quoted is the median of three rounds. Reading
the prompts is not in the time. ONNX Runtime GenAI's own batches take tokens from outside only once, so there each
stream has a generator.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import write
from hartley.decoding import top_p
from hartley.engines import open_engine
from hartley.models import load

STREAMS = (1, 2, 4, 8, 16)
PROMPT = "The lighthouse keeper had not spoken to anyone for {} weeks when"


class Generators:
    """ONNX Runtime GenAI on the same packed weights: one generator a row, each reading its own token."""

    def __init__(self) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime_genai as og

        self.library: Any = og
        config = og.Config(str(load("smollm2").packed_directory("int8")))
        options = {"intra_op_num_threads": 2, "session.intra_op.allow_spinning": "0"}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = og.Model(config)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "Generators":
        """Read the prompts."""
        self.rows = []
        for prompt, more in zip(prompts, room, strict=True):
            settings = self.library.GeneratorParams(self.model)
            settings.set_search_options(max_length=len(prompt) + more, batch_size=1)
            self.rows.append(self.library.Generator(self.model, settings))
            self.rows[-1].append_tokens(np.asarray([prompt], np.int32))
        return self

    def logits(self) -> Tensor:
        """Logits ``[B, V]``."""
        return torch.cat([torch.from_numpy(row.get_logits()).reshape(1, -1) for row in self.rows])

    def append(self, tokens: Sequence[int]) -> None:
        """Read a token a row."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append_tokens(np.asarray([[token]], np.int32))


def speed(engine: Any, prompts: list[list[int]], tokens: int) -> float:
    """Tokens a second of all rows together."""
    session = engine.start(prompts, [tokens + 1] * len(prompts))
    sampler, generators = top_p(0.9), [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    start = time.perf_counter()
    for _ in range(tokens):
        draw, _state = sampler.step(session.logits(), None, generators)
        session.append(draw.token.tolist())
    return tokens * len(prompts) / (time.perf_counter() - start)


def main(quick: bool) -> None:
    """Measure, print and write."""
    torch.set_num_threads(2)
    tokens, rounds = (8, 1) if quick else (48, 3)
    makers: dict[str, Callable[[], Any]] = {
        "hartley onnx int8, one batch (default)": lambda: open_engine("smollm2", "onnx", "int8"),
        "onnxruntime-genai int8, a generator a stream": Generators,
        "hartley onnx float32, one batch": lambda: open_engine("smollm2", "onnx", "float32"),
        "transformers float32, one batch": lambda: open_engine("smollm2", "transformers", "float32"),
    }
    engines = {name: make() for name, make in makers.items()}
    tokenizer = engines["transformers float32, one batch"].tokenizer
    prompts = [tokenizer.encode(PROMPT.format(i + 2)) for i in range(max(STREAMS))]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for streams in STREAMS:
            for name, engine in engines.items():
                found.setdefault((name, streams), []).append(speed(engine, prompts[:streams], tokens))
    table = Table("loop", *map(str, STREAMS), title=f"tokens a second, {tokens} tokens a stream, by streams")
    rows: list[dict[str, Any]] = []
    for name in engines:
        by = {streams: round(statistics.median(found[name, streams]), 1) for streams in STREAMS}
        rows.append({"loop": name, "tokens_per_second": by})
        table.add_row(name, *map(str, by.values()))
    Console(width=100).print(table)
    if not quick:
        print(write("streams", rows, unit=f"tokens a second, median of {rounds}"))


if __name__ == "__main__":
    main("--quick" in sys.argv)
