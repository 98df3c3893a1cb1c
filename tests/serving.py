"""A backend whose steps are written beforehand, and real server processes, to test what is put around them."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import httpx

from hartley.engines import Step

KEY = "a-key-of-the-tests-0123456789"
SHORT = 3  # tokens of an answer of the server for short texts
PIECES = {0: "Hello", 1: " wörld", 2: "\ufffd", 3: "!", 4: "<|im_end|>"}


def draw(token: int, **changed: Any) -> dict[str, Any]:
    """What is known of a token: its numbers follow from it."""
    found = {
        "token": token, "log_prob": -0.1 - token, "surprisal": 0.5 + token, "rank": 1 + token, "entropy": 1.0 + token,
        "varentropy": 2.0 + token, "drawn_entropy": 0.25, "drawn_varentropy": 0.125, "kept": 5, "mass": 0.75,
        "top_tokens": [0, 1, 2, 3, 4], "top_log_probs": [-0.5, -1.5, -2.5, -3.5, -math.inf],
    }  # fmt: skip
    return found | changed


def steps_of(*tokens: int, index: int = 0, finish: str = "length") -> list[Step]:
    """A choice that draws these tokens."""
    last = len(tokens) - 1
    return [
        Step(index, place, token, PIECES[token], draw(token), finish if place == last else None)
        for place, token in enumerate(tokens)
    ]


class FakeSteps:
    """Steps with pauses (numbers, in seconds) and failures (exceptions) between them."""

    def __init__(self, script: list[Any]) -> None:
        self.script, self.cancelled = script, False

    async def __aiter__(self) -> Any:
        for one in self.script:
            if isinstance(one, Exception):
                raise one
            if isinstance(one, Step):
                yield one
            else:
                await asyncio.sleep(one)

    def cancel(self) -> None:
        self.cancelled = True


class FakeBackend:
    """Answers every job by ``script(job)``, and remembers what was asked."""

    model = "fake"

    def __init__(self, script: Callable[[Any], list[Any]] | None = None) -> None:
        self.script = script or (lambda job: [step for i in range(job.n) for step in steps_of(0, 1, 3, index=i)])
        self.about = {
            "engine": "fake", "dtype": "float32", "vocab_size": 5, "context_length": 64, "chat": True, "score": True,
            "ends": [4],
        }  # fmt: skip
        self.jobs: list[Any] = []
        self.runs: list[FakeSteps] = []
        self.fault: Exception | None = None
        self.is_ready = True

    async def start(self, job: Any) -> Any:
        from hartley.serve.backend import Run

        if self.fault is not None:
            raise self.fault
        self.jobs.append(job)
        self.runs.append(FakeSteps(self.script(job)))
        return Run([[0, 1, 2]] * (1 if job.messages is not None else len(job.prompts)), self.runs[-1])

    async def pieces(self, tokens: Any) -> dict[int, str]:
        return PIECES

    async def score(self, text: Any, top: int) -> Any:
        raise ValueError("text cannot be scored by a fake")

    async def detect(self, text: Any, prompt: Any, sampler: Any, level: float) -> Any:
        raise ValueError("text cannot be judged by a fake")

    async def ready(self) -> bool:
        return self.is_ready

    def load(self) -> tuple[int, int]:
        return 1, 2

    async def drain(self, seconds: float) -> None:
        self.is_ready = False

    def close(self) -> None:
        pass


def client_of(app: Any, **settings: Any) -> httpx.AsyncClient:
    """A client that calls an application in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **settings)


class Live:
    """A server process of its own: ``hartley serve`` with these arguments on a free port."""

    def __init__(self, *arguments: Any) -> None:
        code = "from hartley.cli.main import main; main()"
        command = [sys.executable, "-c", code, "serve", "--port", "0", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        threading.Thread(target=self._collect, daemon=True).start()

    @cached_property
    def url(self) -> str:
        """Its address, once it answers."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert " at http://" in said, f"the server did not start: {said}{''.join(self.log)}"
        return said.partition(" at ")[2].split()[0]

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def end(self, signal: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Tell the process to end and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def live(*arguments: Any) -> Iterator[Live]:
    """A server process that ends with the block; it takes seconds until it answers."""
    server = Live(*arguments)
    try:
        yield server
    finally:
        server.end()
