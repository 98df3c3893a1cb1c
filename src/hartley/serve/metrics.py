"""What the server tells Prometheus of itself."""

import math
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from hartley.decoding import Sampler
from hartley.engines import Step

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
NATS = (0.01, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12)
BITS = (0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8)


class Metrics:
    """One server's numbers. ``load()`` gives the choices that run and that wait."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        mine = self.registry = CollectorRegistry()
        ProcessCollector(registry=mine)
        self.requests = Counter("hartley_requests", "Requests by route and status.", ["route", "status"], registry=mine)
        self.seconds = Histogram(
            "hartley_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=mine,
        )
        self.first = Histogram(
            "hartley_first_token_seconds",
            "From a request's last byte to its first token.",
            buckets=SECONDS,
            registry=mine,
        )
        self.tokens = Counter("hartley_tokens", "Tokens by what was done with them.", ["kind"], registry=mine)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)  # 0 is told too
        self.entropy = Histogram(
            "hartley_token_entropy_nats", "The model's entropy where a token was drawn.", buckets=NATS, registry=mine
        )
        self.mirostat = Histogram(
            "hartley_mirostat_error_bits",
            "Of each text drawn with mirostat: how far its mean surprisal was from the target.",
            buckets=BITS,
            registry=mine,
        )
        self.gone = Counter(
            "hartley_clients_gone", "Requests whose client went away before the answer's end.", registry=mine
        )
        running = Gauge("hartley_choices_running", "Texts that are being drawn.", registry=mine)
        running.set_function(lambda: load()[0])
        waiting = Gauge("hartley_choices_waiting", "Texts that wait for a place.", registry=mine)
        waiting.set_function(lambda: load()[1])

    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Count the tokens of prompts."""
        self.tokens.labels("prompt").inc(sum(map(len, prompts)))

    def drawn(self, step: Step) -> None:
        """Count a token."""
        if step.draw is not None:
            self.tokens.labels("completion").inc()
            if (entropy := step.draw["entropy"]) is not None:
                self.entropy.observe(entropy)

    def ended(self, sampler: Sampler, surprisals: Sequence[float | None]) -> None:
        """Note how far a text was from the target of its mirostat, if it had one."""
        known = [value for value in surprisals if value is not None]
        for part in getattr(sampler, "samplers", [sampler]):
            if part.name == "mirostat" and known:
                mean = math.fsum(known) / len(known) / math.log(2)
                self.mirostat.observe(abs(mean - float(part.settings["tau"])))

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
