"""Running real models: one protocol, one decode loop, several engines."""

import os
from typing import TYPE_CHECKING

from hartley.engines.loop import Request, Step, generate
from hartley.engines.protocol import Engine, Session, logits_of
from hartley.models import DEFAULT, Model, load

if TYPE_CHECKING:
    from hartley.engines.onnx import OnnxEngine
    from hartley.engines.transformers import TransformersEngine

__all__ = ["Engine", "Request", "Session", "Step", "generate", "logits_of", "open_engine"]

ENGINES = ("auto", "onnx", "transformers")


def open_engine(
    model: str | os.PathLike[str] | Model = DEFAULT,
    engine: str = "auto",
    dtype: str | None = None,
    *,
    device: str | None = None,
) -> "OnnxEngine | TransformersEngine":
    """Open a model, by anything :func:`hartley.models.load` takes, in an engine.

    "onnx" is the fast one on a CPU, int8 unless ``dtype`` is "float32"; "transformers" runs any model, in float32
    unless ``dtype`` says "bfloat16" or "float16", on ``device``. "auto" is onnx for the default model, whose int8
    weights were measured against the exact ones (see ``hartley env``), and transformers for any other, whose were
    not, for another ``dtype`` or with a ``device``.

    Raises ``ValueError`` for an unknown engine or a ``dtype`` it does not have, and what ``load`` raises.
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
    from hartley.engines.transformers import TransformersEngine

    return TransformersEngine.open(found, dtype or "float32", device=device)
