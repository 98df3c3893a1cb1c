"""Running real models: one protocol, one decode loop, several engines."""

import os
from typing import TYPE_CHECKING

from hartley.engines.loop import Request, Step, generate
from hartley.engines.protocol import Engine, Session, logits_of
from hartley.models import DEFAULT, Model, load

if TYPE_CHECKING:
    from hartley.engines.llama import LlamaEngine
    from hartley.engines.onnx import OnnxEngine
    from hartley.engines.transformers import TransformersEngine
    from hartley.engines.vllm import VllmEngine

__all__ = ["Engine", "Request", "Session", "Step", "generate", "logits_of", "open_engine"]

ENGINES = ("auto", "onnx", "transformers", "llama", "vllm")


def open_engine(
    model: str | os.PathLike[str] | Model = DEFAULT,
    engine: str = "auto",
    dtype: str | None = None,
    *,
    device: str | None = None,
) -> "OnnxEngine | TransformersEngine | LlamaEngine | VllmEngine":
    """Open a model, by anything :func:`hartley.models.load` takes, in an engine.

    "onnx" is the fast one on a CPU, int8 unless ``dtype`` is "float32"; "transformers" runs any model, in float32
    unless ``dtype`` says "bfloat16" or "float16", on ``device``; "llama" (extra ``hartley[llama]``) runs a GGUF file as
    it is in llama.cpp, whose weights have the ``dtype`` of the file; "vllm" (extra ``hartley[vllm]``) is for many
    requests at once and has the dtypes of transformers, on the device vLLM was built for. "auto" is onnx for the
    default model, whose int8 weights were measured against the exact ones (see ``hartley env``), and transformers for
    any other, whose were not, for another ``dtype`` or with a ``device``.

    Raises ``ValueError`` for an unknown engine, or a ``dtype`` or ``device`` it does not have, ``ImportError`` naming
    the extra of an engine that is not installed, and what ``load`` raises.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    found = model if isinstance(model, Model) else load(model)
    if engine == "auto":
        fast = found.name == DEFAULT and dtype in (None, "int8", "float32") and device in (None, "cpu")
        engine = "onnx" if fast or dtype == "int8" else "transformers"
    if engine == "onnx":
        if device not in (None, "cpu"):
            raise ValueError(f"device must be None or 'cpu' for the onnx engine, got {device!r}")
        from hartley.engines.onnx import OnnxEngine

        return OnnxEngine(found, dtype or "int8")
    if engine == "llama":
        if device not in (None, "cpu"):
            raise ValueError(f"device must be None or 'cpu' for the llama engine, got {device!r}")
        from hartley.engines.llama import LlamaEngine

        return LlamaEngine(found, dtype)
    if engine == "vllm":
        if device is not None:
            raise ValueError(f"device must be None for the vllm engine, which has the one it was built for: {device!r}")
        from hartley.engines.vllm import VllmEngine

        return VllmEngine(found, dtype or "float32")
    from hartley.engines.transformers import TransformersEngine

    return TransformersEngine.open(found, dtype or "float32", device=device)
