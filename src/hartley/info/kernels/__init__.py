"""Fast operations on rows of logits: a plain-torch reference that defines them, and kernels tested against it.

``HARTLEY_KERNELS=reference`` switches the fast paths off.
"""

import os
import threading
from types import ModuleType

import torch

from hartley.info.kernels import reference
from hartley.info.kernels.compiling import announced

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
        with announced("its CPU kernels (about 20 s)"):
            from hartley.info.kernels import cpu

            _run_each(cpu)
        _cpu = cpu
        return cpu


def _run_each(cpu: ModuleType) -> None:
    """Call every kernel with the layouts that come up, which compiles it or reads it from numba's cache."""
    logits = torch.linspace(0.0, 1.0, 1000).expand(2, -1).contiguous()
    ones = torch.ones(2, dtype=torch.float64)
    seeds = torch.arange(2)
    zeros = torch.zeros_like(seeds)
    cpu.statistics(logits, ones)
    cpu.look(logits, ones, 300)
    passed, listed = cpu.look(logits, ones, 3)
    row = logits, passed.index
    cpu.largest(*row, seeds + 40, ones, passed.logsumexp, None)
    cpu.largest(*row, seeds + 4, ones, passed.logsumexp, seeds[1:])
    cpu.above(*row, -passed.logsumexp, ones, passed.logsumexp, None)
    cpu.depth(*row, ones, passed.logsumexp, -passed.entropy, ones / 2, (listed.log_probs, listed.known))
    cpu.nearest(listed.log_probs, listed.known, -passed.entropy, ones / 2)
    mask = cpu.nucleus(listed.log_probs, listed.known, ones / 2)
    cpu.deviation(logits)
    kept = cpu.restrict(listed.tokens, listed.log_probs, mask, listed.known, zeros, listed.complete)
    cpu.race_all(logits, ones, passed.index, seeds)
    token = cpu.race(kept.tokens, kept.log_probs, kept.known, seeds)
    cpu.describe(*row, passed.logsumexp, token, None)
    kept_set = reference.KeptSet(kept.tokens, kept.log_probs, kept.known, kept.start, ones)
    cpu.describe(*row, passed.logsumexp, token, kept_set)
