"""`linear_statistics` beside all logits at once: the entropy and log-probability of labels, forward and backward.

`python -m benchmarks.linear`. Every way is timed in turn in one process, and each is run once in a process of its own
for its memory: the most it holds beyond what was there before, gradients of inputs and layer left out. The peer of both
is what TRL computes for a policy: its chunked entropy and its log-probability of the label.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import in_turn, write
from hartley.info import linear_statistics

SHAPES = {"smollm2": (512, 576, 49_152), "a 1.5B model": (256, 2048, 151_936)}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Way = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def inputs(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a layer that gives logits of standard deviation 3 (a model's are about so), labels."""
    count, width, size = shape
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, width, generator=g).to(dtype)
    weight = torch.randn(size, width, generator=g).mul_(3 / width**0.5).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(size, (count,), generator=g)


def ours(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One pass over tiles."""
    found = linear_statistics(hidden, weight, labels)
    assert found.log_prob is not None
    return found.entropy, found.log_prob


def naive(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 logits, their log-softmax, and what follows from it."""
    log_probs = (hidden.float() @ weight.float().T).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return entropy, log_probs.gather(-1, labels[:, None]).squeeze(-1)


def trl(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """TRL's two helpers, as its policy trainers call them on ready logits."""
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits = hidden.float() @ weight.float().T
    return entropy_from_logits(logits), selective_log_softmax(logits, labels)


WAYS: dict[str, Way] = {"ours": ours, "naive": naive, "TRL": trl}


def forward(way: Way, given: tuple[Tensor, Tensor, Tensor]) -> None:
    """Both numbers, no gradient."""
    with torch.no_grad():
        way(*given)


def both(way: Way, given: tuple[Tensor, Tensor, Tensor]) -> None:
    """Both numbers and the gradients of their sum."""
    hidden, weight, labels = given
    entropy, log_prob = way(hidden, weight, labels)
    torch.autograd.grad(entropy.sum() + log_prob.sum(), (hidden, weight))


PASSES = {"forward": forward, "forward and backward": both}


def resident() -> float:
    """MB of main memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def memory(way: str, kind: str, shape: tuple[int, int, int]) -> float:
    """The most MB beyond the start, in this process, with the gradients that every way returns taken off."""
    given = inputs(shape)
    small = inputs((4, 8, 100))
    PASSES[kind](WAYS[way], small)  # what the first call loads
    start, most, over = resident(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.0005):
            most = max(most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    PASSES[kind](WAYS[way], given)
    over.set()
    thread.join()
    grads = sum(x.numel() * x.element_size() for x in given[:2]) / 1e6 if kind != "forward" else 0.0
    return most - start - grads


def error(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, float]:
    """The largest relative error against float64 of the same numbers: entropy, log-probability, gradients (by norm)."""
    hidden, weight, labels = inputs(shape, dtype)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    entropy, log_prob = ours(hidden, weight, labels)
    grads = torch.autograd.grad(entropy.sum() + log_prob.sum(), (hidden, weight))
    wanted = naive64(*exact, labels)
    right = torch.autograd.grad(wanted[0].sum() + wanted[1].sum(), exact)
    pairs = zip(("entropy", "log_prob"), (entropy, log_prob), wanted, strict=True)
    found = {name: float(((a.detach() - b) / b).detach().abs().max()) for name, a, b in pairs}
    for name, a, b in zip(("by hidden", "by weight"), grads, right, strict=True):
        found[name] = float((a - b).norm() / b.norm())
    return found


def naive64(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, in float64."""
    log_probs = (hidden @ weight.T).log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1), log_probs.gather(-1, labels[:, None]).squeeze(-1)


def main() -> None:
    """Time and weigh every way, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=3, metavar=("WAY", "PASS", "SHAPE"), help="weigh one and print it")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    if asked.memory:
        way, kind, shape = asked.memory
        print(memory(way, kind, SHAPES[shape]))
        return
    rows: list[dict[str, object]] = []
    table = Table("shape", "pass", "way", "s", "/ naive", "MB", "of the logits", title="Entropy and log-probability")
    for name, shape in SHAPES.items():
        given, logits = inputs(shape), shape[0] * shape[2] * 4 / 1e6
        for kind, run in PASSES.items():
            seconds = in_turn({w: partial(run, f, given) for w, f in WAYS.items()}, least=asked.rounds)
            for way, took in seconds.items():
                command = [sys.executable, "-m", "benchmarks.linear", "--memory", way, kind, name]
                held = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                row = {"shape": name, "N": shape[0], "D": shape[1], "V": shape[2], "pass": kind, "way": way}
                rows.append(row | {"s": took, "of naive": took / seconds["naive"], "MB": held, "logits MB": logits})
                cells = f"{took:.3f}", f"{took / seconds['naive']:.2f}", f"{held:.0f}", f"{held / logits:.3f}"
                table.add_row(name, kind, way, *cells)
        del given
    Console().print(table)
    errors = {kind: error((256, 576, 49_152), dtype) for kind, dtype in PRECISIONS.items()}
    print(json.dumps(errors, indent=1))
    write("linear", rows, errors=errors)


if __name__ == "__main__":
    main()
