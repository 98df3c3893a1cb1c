"""Pack a Hugging Face folder into an ONNX graph, by the model builder of ONNX Runtime GenAI."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from hartley.models.checks import read_config

PackedDtype = Literal["int8", "float32"]
PACKED_DTYPES: tuple[str, ...] = get_args(PackedDtype)

# What its model builder writes for each. int8: symmetric blocks of 32 weights with a float32 scale, all matrices and
# the head, activations rounded to int8 as well (accuracy level 4); the embedding stays float32.
BUILDER_OPTIONS: dict[str, list[str]] = {
    "int8": ["-p", "int8", "--extra_options", "hf_token=false", "block_size=32", "accuracy_level=4"],
    "float32": ["-p", "fp32", "--extra_options", "hf_token=false"],
}


def runtime() -> Any:
    """Import ``onnxruntime`` with its telemetry off: it may report to its maker by default."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def pack(directory: Path, out: Path, dtype: str) -> None:
    """Write the model in the Hugging Face folder ``directory`` to ``out`` as packed ONNX.

    ``dtype`` is "int8" or "float32". The builder runs as a process of its own: it changes ``sys.path`` and prints
    every layer, and what it allocates goes back at once.

    Raises ``ValueError`` for another ``dtype`` or an architecture that the builder does not know, ``OSError`` when
    it fails otherwise, with its last words.
    """
    check_packed_dtype(dtype)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    command += ["-i", str(directory.resolve()), "-o", str(out), "-c", str(out), *BUILDER_OPTIONS[dtype]]
    offline = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if run.returncode == 0 and (out / "genai_config.json").is_file():
        return
    last = (run.stderr.strip() or run.stdout.strip() or f"exit status {run.returncode}").splitlines()[-1]
    if "not currently supported" in last:
        kind = read_config(directory).get("architectures")
        raise ValueError(
            f"engine 'onnx' cannot run {directory}: ONNX Runtime GenAI's builder does not know {kind}; "
            "use engine='transformers'"
        )
    raise OSError(f"packing {directory} as {dtype} failed: {re.sub(r'^[A-Za-z.]+: ', '', last)}")


def check_packed_dtype(dtype: str) -> None:
    """Raise ``ValueError`` unless ``dtype`` is one that can be packed."""
    if dtype not in PACKED_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(PACKED_DTYPES)} for the onnx engine, got {dtype!r}")
