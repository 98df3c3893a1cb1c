"""Tokens a second on the default model, batch 1, per-token entropy and varentropy included, beside the peers.

`python -m benchmarks.decoding [--quick]`. Every engine continues the same prompt by 128 tokens with top_p 0.9 on 2
threads, in turn, three rounds, medians. Prompt reading is part of the time. llama.cpp is measured where `llama-cpp-
python` is installed.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import write
from hartley.decoding import Sampler, top_p
from hartley.engines import Request, generate, open_engine
from hartley.info.kernels import kernels_for
from hartley.models import load
from hartley.models.load import default_file

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"


class Endless(Sampler):
    """Nucleus sampling that never ends a text, so that every engine draws as many tokens."""

    def __init__(self, ends: list[int]) -> None:
        super().__init__("endless", {})
        self.inner, self.ends = top_p(0.9), ends

    def step(self, logits, state, generator):
        """Draw from the model without its end tokens."""
        return self.inner.step(logits.index_fill(1, torch.tensor(self.ends), -torch.inf), state, generator)


def ours(kind: str, dtype: str, tokens: int) -> Callable[[], int]:
    """One of our engines, through the public decode loop."""
    engine = open_engine("smollm2", kind, dtype)
    sampler = Endless(sorted(engine.tokenizer.stop_ids))
    return lambda: sum(1 for _ in generate(engine, [Request(PROMPT, sampler, tokens, seed=0)]))


def transformers_generate(dtype: torch.dtype, tokens: int) -> Callable[[], int]:
    """transformers' own ``generate`` with its own nucleus warper."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = load("smollm2").directory
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    settings = {"do_sample": True, "top_p": 0.9, "top_k": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}
    return lambda: model.generate(**inputs, **settings, pad_token_id=0).shape[1] - inputs["input_ids"].shape[1]


def llama(tokens: int) -> Callable[[], int]:
    """llama.cpp on the GGUF file as it came."""
    import llama_cpp

    model = llama_cpp.Llama(str(default_file()), n_threads=2, n_threads_batch=2, n_ctx=512, verbose=False)
    end = {str(model.token_eos()): -100.0}

    def run() -> int:
        answer = model.create_completion(
            PROMPT, max_tokens=tokens, temperature=1.0, top_p=0.9, top_k=0, min_p=0.0, logit_bias=end
        )
        return answer["usage"]["completion_tokens"]

    return run


def entropy_share(tokens: int = 64) -> dict[str, float]:
    """Milliseconds of a step of the default engine: the model, the whole of sampling, and the entropies in it."""
    engine = open_engine("smollm2")
    session = engine.start([engine.tokenizer.encode(PROMPT)], [2 * tokens])
    sampler, generator = top_p(0.9), torch.Generator().manual_seed(0)
    scale = torch.ones(1, dtype=torch.float64)
    times: dict[str, list[float]] = {"model": [], "sampling": [], "entropy and varentropy": []}
    for turn in range(2 * tokens):
        start = time.perf_counter()
        logits = session.logits()
        read = time.perf_counter()
        if turn % 2:  # alone, on logits as cold as the model leaves them
            kernels_for(logits).statistics(logits, scale)
            times["entropy and varentropy"].append(time.perf_counter() - read)
        asked = time.perf_counter()
        draw, _state = sampler.step(logits, None, generator)
        drawn = time.perf_counter()
        session.append(draw.token.tolist())
        if not turn % 2:
            times["sampling"].append(drawn - asked)
            times["model"].append(time.perf_counter() - drawn + read - start)
    session.close()
    return {f"{name} ms": round(1e3 * statistics.median(values), 3) for name, values in times.items()}


def main(quick: bool) -> None:
    """Measure, print and write."""
    torch.set_num_threads(2)
    tokens, rounds = (32, 1) if quick else (128, 3)
    share = entropy_share()
    makers: dict[str, Callable[[], Callable[[], int]]] = {
        "hartley onnx int8 (default)": lambda: ours("onnx", "int8", tokens),
        "hartley onnx float32": lambda: ours("onnx", "float32", tokens),
        "hartley transformers float32": lambda: ours("transformers", "float32", tokens),
        "transformers.generate float32": lambda: transformers_generate(torch.float32, tokens),
        "transformers.generate bfloat16": lambda: transformers_generate(torch.bfloat16, tokens),
        "llama.cpp Q4_1": lambda: llama(tokens),
    }
    runs: dict[str, Callable[[], int]] = {}
    for name, make in makers.items():
        try:
            runs[name] = make()
        except ImportError as error:
            print(f"left out {name}: {error}")
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            drawn = run()
            speeds[name].append(drawn / (time.perf_counter() - start))
    base = statistics.median(speeds["transformers.generate float32"])
    rows = [
        {
            "engine": name,
            "tokens_per_second": round(statistics.median(v), 1),
            "times": round(statistics.median(v) / base, 2),
        }
        for name, v in speeds.items()
    ]
    table = Table("engine", "tok/s", "/ transformers.generate float32", title=f"{tokens} tokens, batch 1, 2 threads")
    for row in rows:
        table.add_row(row["engine"], f"{row['tokens_per_second']:.1f}", f"{row['times']:.2f}")
    console = Console(width=100)
    console.print(table)
    step = share["model ms"] + share["sampling ms"]
    parts = ", ".join(f"{name[:-3]} {ms:.2f} ms ({ms / step:.1%})" for name, ms in share.items())
    console.print(f"A step of the default engine, {step:.2f} ms: {parts}; sampling contains the entropies.")
    if not quick:
        print(write("decoding", rows, unit="tokens a second, median of 3", step=share))


if __name__ == "__main__":
    main("--quick" in sys.argv)
