"""Which kernels look at tiles of logits: numba in main memory, Triton on a CUDA device, plain torch for the rest."""

import functools
import importlib.util
import os
import threading
from types import ModuleType

import torch

from hartley.info.kernels import tiles_reference
from hartley.info.kernels.compiling import announced

_lock = threading.Lock()


def kernels_for(dtype: torch.dtype, device: torch.device) -> ModuleType:
    """The module that serves tiles of this dtype on this device; ``HARTLEY_KERNELS=reference`` switches to the last."""
    if dtype is not torch.float32 or os.environ.get("HARTLEY_KERNELS") == "reference":
        return tiles_reference
    if device.type == "cpu":
        return _compiled()
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from hartley.info.kernels import tiles_triton

        return tiles_triton
    return tiles_reference


@functools.cache
def _compiled() -> ModuleType:
    with _lock, announced("the kernels that read tiles of logits"):
        from hartley.info.kernels import tiles_cpu

        tile, row = torch.zeros(1, 2), torch.zeros(1)
        tiles_cpu.sums(tile)
        tiles_cpu.slope(tile, row, row, torch.zeros(3, 1), tile)
    return tiles_cpu
