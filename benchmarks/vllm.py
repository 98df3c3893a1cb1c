"""What entropy costs in vLLM: tokens a second with our numbers, plain, and with ``logprobs=20``.

`python -m benchmarks.vllm [--quick]` in the environment of `make test-vllm`. One vLLM runs everything, on the default
model in float32 at concurrency 1, 8 and 32; the kinds take turns, A B C C B A, so that a drift of the machine meets
them alike, and the cost is the median over rounds of each round's own quotient. Reading the prompts is in the time.
"""

import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.common import write
from hartley.engines import open_engine

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "entropy": {"extra_args": {"entropy": True}},
    "top_h and entropy": {"extra_args": {"top_h": 0.4}},
    "mirostat and entropy": {"extra_args": {"mirostat_tau": 3.0}},
    "logprobs=20": {"logprobs": 20},
}


def main(quick: bool) -> None:
    """Measure, print and write."""
    from vllm import SamplingParams

    llm = open_engine("smollm2", "vllm").llm
    tokens, rounds = (16, 3) if quick else (64, 9)

    def run(kind: str, concurrency: int) -> float:
        params = [SamplingParams(max_tokens=tokens, ignore_eos=True, seed=i, **KINDS[kind]) for i in range(concurrency)]
        start = time.perf_counter()
        results = llm.generate([PROMPT] * concurrency, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        assert sum(len(result.outputs[0].token_ids) for result in results) == tokens * concurrency
        return seconds

    rows: list[dict[str, Any]] = []
    for concurrency in (1, 8, 32):
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            run(kind, concurrency)
        for turn in range(rounds):
            order = list(KINDS) if turn % 2 == 0 else list(reversed(KINDS))
            for kind in order:
                taken[kind].append(run(kind, concurrency))
        for kind, seconds in taken.items():
            cost = [100 * (own / plain - 1) for own, plain in zip(seconds, taken["plain"], strict=True)]
            quarters = statistics.quantiles(cost, n=4)
            row = {
                "concurrency": concurrency,
                "kind": kind,
                "tokens_per_second": round(tokens * concurrency / statistics.median(seconds), 1),
                "cost_percent": round(statistics.median(cost), 2),
                "cost_quartiles": [round(quarters[0], 2), round(quarters[2], 2)],
            }
            rows.append(row)
            print(row, flush=True)
    if not quick:
        print(write("vllm", rows, unit=f"tokens a second, medians of {rounds} rounds of {tokens} tokens a request"))


if __name__ == "__main__":
    main("--quick" in sys.argv)
