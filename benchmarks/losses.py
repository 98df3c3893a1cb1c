"""Forward and backward of the losses beside torch's cross-entropy, and PLD's beside its plain definition.

`python -m benchmarks.losses [--quick]`. Milliseconds a step, by the clock and of processor time (which others on the
machine disturb less), medians of rounds in turn in one run; memory is the peak of the process beyond what it held
before, gradient included.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin would count as work

import ctypes
import re
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import write
from hartley.training.losses import forward_kl_loss, ldr_kl_loss, pld_loss

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
Loss = Callable[[Tensor], Tensor]
CLASSES = 100_000


def peak(function: Callable[[], Any]) -> float:
    """MiB that the process needed at most while ``function`` ran, beyond what it held before (Linux).

    The allocator is told first to keep nothing that was freed, which would hide what is taken again; so time before.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)
    function()
    libc.malloc_trim(0)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts afresh
    function()
    return (_memory("VmHWM") - before) / 1024


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def in_turn(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each function, by the clock and of processor time, run A B C A B C..."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for function in work.values():
        function()
    for _ in range(rounds):
        for name, function in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            function()
            taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in taken.items()}


def step(loss: Loss, logits: Tensor) -> Callable[[], Tensor]:
    """One forward and backward."""

    def run() -> Tensor:
        leaf = logits.detach().requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad

    return run


def classification(rows: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Loss]]:
    """LDR-KL at 100,000 classes."""
    logits = 3 * torch.randn(rows, CLASSES, generator=generator)
    target = torch.randint(CLASSES, (rows,), generator=generator)
    each = 0.5 + torch.rand(rows, generator=generator)
    return logits, {
        "F.cross_entropy": lambda x: F.cross_entropy(x, target),
        "ldr_kl_loss, lam 1": lambda x: ldr_kl_loss(x, target),
        "ldr_kl_loss, lam 10, margin 0.1": lambda x: ldr_kl_loss(x, target, 10.0, 0.1),
        "ldr_kl_loss, a lam each row": lambda x: ldr_kl_loss(x, target, each, 0.1),
    }


def normalization(rows: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Loss]]:
    """LDR-KL of normalised scores, whose normalisation costs more than the loss."""
    logits = 3 * torch.randn(rows, CLASSES, generator=generator)
    target = torch.randint(CLASSES, (rows,), generator=generator)
    return logits, {
        "F.cross_entropy of the scores": lambda x: F.cross_entropy(_positive(x) / 10, target),
        "ldr_kl_loss, lam 10, softplus": lambda x: ldr_kl_loss(x, target, 10.0, 0.1, "softplus"),
    }


def _positive(x: Tensor) -> Tensor:
    s = F.softplus(x)
    return s / s.mean(-1, keepdim=True)


def distillation(
    rows: int, classes: int, top_k: int | None, generator: torch.Generator
) -> tuple[Tensor, dict[str, Loss]]:
    """PLD, its definition in a few eager lines, and the KL it takes the place of."""
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    losses: dict[str, Loss] = {
        "F.cross_entropy": lambda x: F.cross_entropy(x, labels),
        "pld_loss": lambda x: pld_loss(x, teacher, labels, top_k=top_k),
        "PLD, plain autograd": lambda x: plain_pld(x, teacher, labels, top_k),
        "forward_kl_loss": lambda x: forward_kl_loss(x, teacher),
        "CE + KL, torch": lambda x: (
            F.cross_entropy(x, labels)
            + F.kl_div(x.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
        ),
    }
    if top_k is not None:
        losses["PLD exact, plain autograd"] = lambda x: plain_pld(x, teacher, labels, None)
    return student, losses


def plain_pld(student: Tensor, teacher: Tensor, labels: Tensor, top_k: int | None) -> Tensor:
    """The definition with autograd doing the rest."""
    weights = teacher.softmax(-1)
    first = teacher.scatter(1, labels[:, None], torch.inf)
    if top_k is None:
        order = first.argsort(dim=1, descending=True)
        suffixes = student.gather(1, order).flip(1).logcumsumexp(1).flip(1)
    else:
        order = first.topk(top_k, dim=1).indices
        rest = student.scatter(1, order, -torch.inf).logsumexp(-1, keepdim=True)
        suffixes = torch.cat([rest, student.gather(1, order).flip(1)], 1).logcumsumexp(1).flip(1)[:, :-1]
    return (weights.gather(1, order) * (suffixes - student.gather(1, order))).sum(-1).mean()


CASES: dict[str, tuple[str, Callable[[torch.Generator], tuple[Tensor, dict[str, Loss]]]]] = {
    "8 x 100,000 classes": ("F.cross_entropy", lambda g: classification(8, g)),
    "64 x 100,000 classes": ("F.cross_entropy", lambda g: classification(64, g)),
    "256 x 100,000 classes": ("F.cross_entropy", lambda g: classification(256, g)),
    "64 x 100,000 classes, normalised": ("F.cross_entropy of the scores", lambda g: normalization(64, g)),
    "256 x 1,000 classes": ("PLD, plain autograd", lambda g: distillation(256, 1000, None, g)),
    "64 x 128,256 tokens, top 64": ("PLD, plain autograd", lambda g: distillation(64, 128_256, 64, g)),
}


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Time and weigh everything on one kind of rows."""
    torch.set_num_threads(2)
    baseline, make = CASES[name]
    logits, losses = make(torch.Generator().manual_seed(0))
    work = {loss: step(function, logits) for loss, function in losses.items()}
    times = in_turn(work, rounds)
    return [
        {
            "rows": name,
            "loss": loss,
            "ms": round(1e3 * clock, 2),
            "cpu_ms": round(1e3 * processor, 2),
            "baseline": baseline,
            "times_baseline": round(clock / times[baseline][0], 2),
            "times_baseline_cpu": round(processor / times[baseline][1], 2),
            "peak_of_logits": round(peak(work[loss]) / (logits.nbytes / 2**20), 2),
        }
        for loss, (clock, processor) in times.items()
    ]


def main(quick: bool) -> None:
    """Measure each kind of rows in a process of its own, so that none leaves memory to another; print and write."""
    torch.set_num_threads(2)
    names = [name for name in CASES if not (quick and name.startswith(("64", "256 x 100")))]
    results: list[dict[str, Any]] = []
    for name in names:
        with get_context("spawn").Pool(1) as pool:
            results += pool.apply(measure, (name, 3 if quick else 15))
    table = Table("rows", "loss", "ms", "CPU ms", "against: clock, CPU", "peak", title="Forward and backward, float32")
    for row in results:
        ratios = f"{row['times_baseline']:.2f}, {row['times_baseline_cpu']:.2f} of {row['baseline']}"
        table.add_row(
            row["rows"], row["loss"], f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}", ratios, f"{row['peak_of_logits']:.1f}"
        )
    Console(width=140).print(table)
    if not quick:
        unit = "milliseconds of a forward and backward, medians in turn; float32; peak in sizes of the logits"
        print(write("losses", results, unit=unit))


if __name__ == "__main__":
    main("--quick" in sys.argv)
