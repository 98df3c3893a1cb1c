"""Fast operations on rows of logits: a plain-torch reference that defines them, and kernels tested against it.

``HARTLEY_KERNELS=reference`` switches the fast paths off.
"""

import os
import sys
import threading
from types import ModuleType

import torch

from hartley.info.kernels import reference

_compile_lock = threading.Lock()
_cpu: ModuleType | None = None


def kernels_for(logits: torch.Tensor) -> ModuleType:
    """The module that serves these logits: numba for float32 in main memory, plain torch for everything else."""
    if (
        logits.device.type == "cpu"
        and logits.dtype is torch.float32
        and os.environ.get("HARTLEY_KERNELS") != "reference"
    ):
        return _cpu if _cpu is not None else _load_cpu()
    return reference


def _load_cpu() -> ModuleType:
    """Import the numba kernels and run each once; where that means compiling them, a line on stderr says so."""
    global _cpu
    with _compile_lock:
        if _cpu is not None:
            return _cpu
        note = "hartley: compiling its CPU kernels, once on this machine (about 20 s)\n"
        timer = threading.Timer(6.0, lambda: (sys.stderr.write(note), sys.stderr.flush()))
        timer.daemon = True
        timer.start()
        try:
            from hartley.info.kernels import cpu

            logits = torch.linspace(0.0, 1.0, 1000).expand(2, -1).contiguous()
            ones = torch.ones(2, dtype=torch.float64)
            seeds = torch.arange(2)
            passed = cpu.statistics(logits, ones)
            listed = cpu.largest(logits, passed.index, torch.tensor([4, 4]), ones, passed.logsumexp)
            kept = cpu.restrict(listed.tokens, listed.log_probs, listed.log_probs < 0, listed.known)[:3]
            cpu.above(logits, passed.index, -passed.logsumexp, ones, passed.logsumexp)
            cpu.largest(logits, passed.index, torch.tensor([40, 40]), ones, passed.logsumexp)
            cpu.depth(logits, passed.index, ones, passed.logsumexp, ones / 2)
            cpu.nearest(listed.log_probs, listed.known, -passed.entropy, ones / 2)
            cpu.deviation(logits)
            cpu.largest(logits[:1], passed.index.rows(seeds[:1]), torch.tensor([4]), ones[:1], passed.logsumexp[:1])
            cpu.race_all(logits, ones, passed.index, seeds)
            cpu.describe(logits, passed.index, passed.logsumexp, cpu.race(*kept, seeds), kept)
        finally:
            timer.cancel()
        _cpu = cpu
        return cpu
