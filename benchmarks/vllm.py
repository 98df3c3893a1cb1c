"""What entropy costs in vLLM: the time of a decode step with our numbers, plain, and with ``logprobs=20``.

`python -m benchmarks.vllm [--quick]` in the environment of `make test-vllm`. One vLLM runs everything in this process
(its own processes wait for one another by spinning, which two cores have no room for), on the default model in float32
at concurrency 1, 8 and 32. The kinds take turns, A B C C B A, so that a drift of the machine meets them alike; a
round's cost is the quotient of two medians over its decode steps, and what is quoted is the median over rounds with its
exact interval at 95% or a little more. Beside it stands what the noise of a shared machine cannot hide: the time inside
the functions that do the work, ours or vLLM's log-probabilities, as a share of the step.
"""

import functools
import importlib
import inspect
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from benchmarks.common import write
from hartley.models import load

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "entropy": {"extra_args": {"entropy": True}},
    "top_h and entropy": {"extra_args": {"top_h": 0.4}},
    "mirostat and entropy": {"extra_args": {"mirostat_tau": 3.0}},
    "logprobs=20": {"logprobs": 20},
}


#: where the work is done: module, class, functions
WORK = (
    ("hartley.engines.vllm.processor", "HartleyProcessor", ("update_state", "apply", "drawn")),
    ("vllm.v1.sample.sampler", "Sampler", ("compute_logprobs", "gather_logprobs")),
    ("vllm.v1.engine.logprobs", "LogprobsProcessor", ("update_from_output",)),
)


class Watch:
    """Seconds spent inside functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for module, name, functions in WORK:
            kind = getattr(importlib.import_module(module), name)
            for function in functions:
                bound = inspect.getattr_static(kind, function)
                inner = bound.__func__ if isinstance(bound, staticmethod) else bound
                setattr(kind, function, type(bound)(self.around(inner)) if inner is not bound else self.around(inner))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def interval_of_median(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The narrowest pair of order statistics, alike from both ends, between which the median lies at that level."""
    n = len(values)
    below = itertools.accumulate(math.comb(n, k) / 2**n for k in range(n // 2))  # that at most k values are
    skip = max((k for k, chance in enumerate(below) if chance <= (1 - level) / 2), default=0)
    ordered = sorted(values)
    return ordered[skip], ordered[n - 1 - skip]


def main(quick: bool) -> None:
    """Measure, print and write."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(load("smollm2").directory),
        dtype="float32",
        max_model_len=2048,
        enforce_eager=True,
        generation_config="vllm",
        disable_log_stats=True,
        distributed_executor_backend="uni",
    )
    engine: Any = llm.llm_engine
    tokens, rounds = (16, 5) if quick else (25, 9)

    watch = Watch()

    def step_seconds(kind: str, concurrency: int) -> tuple[float, float]:
        for i in range(concurrency):
            params = SamplingParams(max_tokens=tokens, ignore_eos=True, seed=i, **KINDS[kind])
            engine.add_request(str(i), PROMPT, params)
        taken: list[float] = []
        work: list[float] = []
        while engine.has_unfinished_requests():
            watch.seconds, start = 0.0, time.perf_counter()
            engine.step()
            taken.append(time.perf_counter() - start)
            work.append(watch.seconds)
        return statistics.median(taken[1:]), statistics.median(work[1:])  # the first one reads the prompts

    rows: list[dict[str, Any]] = []
    for concurrency in (1, 8, 32):
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            step_seconds(kind, concurrency)
        for turn in range(rounds):
            order = list(KINDS) if turn % 2 == 0 else list(reversed(KINDS))
            for kind in order:
                taken[kind].append(step_seconds(kind, concurrency))
        for kind, pairs in taken.items():
            cost = [100 * (own / plain - 1) for (own, _), (plain, _) in zip(pairs, taken["plain"], strict=True)]
            low, high = interval_of_median(cost)
            row = {
                "concurrency": concurrency,
                "kind": kind,
                "step_ms": round(1e3 * statistics.median(step for step, _ in pairs), 1),
                "work_ms": round(1e3 * statistics.median(work for _, work in pairs), 2),
                "work_percent": round(100 * statistics.median(work / step for step, work in pairs), 2),
                "cost_percent": round(statistics.median(cost), 2),
                "cost_interval": [round(low, 2), round(high, 2)],
            }
            rows.append(row)
            print(row, flush=True)
    if not quick:
        print(write("vllm", rows, unit=f"ms a decode step, medians over {rounds} rounds of {tokens} steps"))


if __name__ == "__main__":
    main("--quick" in sys.argv)
