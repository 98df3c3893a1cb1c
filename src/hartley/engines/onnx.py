"""The fast engine on a CPU: ONNX Runtime GenAI on packed weights."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.models.checks import context_length, read_config, vocabulary_size
from hartley.models.load import Model
from hartley.models.pack import genai
from hartley.models.tokenizer import Tokenizer

CHUNK = 256  # tokens of a prompt read at once: the graph gives logits for all of them, V floats each


class OnnxEngine:
    """A packed model in ONNX Runtime GenAI, int8 or float32; opens in well under two seconds once packed.

    Every row of a batch is a generator of its own, so its logits are the same numbers whatever stands beside it. (The
    library's own batches take tokens from outside only once, and read padding as if it were text.)

    ``threads`` is the number of CPU threads, by default torch's. Raises ``ValueError`` for a ``dtype`` other than
    "int8" and "float32" or a model that cannot be packed, ``OSError`` for files that cannot be opened.
    """

    name = "onnx"

    def __init__(self, model: Model, dtype: str = "int8", *, threads: int | None = None) -> None:
        directory = model.packed_directory(dtype)
        og = genai()
        try:
            config = og.Config(str(directory))
            # Threads that spin between two steps would take the cores that the sampler needs: 78 instead of 51
            # tokens a second on two cores.
            options = {
                "intra_op_num_threads": threads or torch.get_num_threads(),
                "session.intra_op.allow_spinning": "0",
            }
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self.handle: Any = og.Model(config)
        except Exception as error:  # the library has no classes of its own
            raise OSError(f"cannot open {directory} ({error}); remove that folder to have it made again") from error
        self.model_name = model.name
        self.dtype = dtype
        self.tokenizer = Tokenizer(model.directory)
        settings = read_config(model.directory)
        self.vocab_size = vocabulary_size(settings)
        self.context_length = context_length(settings)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "OnnxSession":
        """Read the prompts and keep place for ``room`` more tokens in each row."""
        rows = [self._row(len(prompt) + more) for prompt, more in zip(prompts, room, strict=True)]
        for row, prompt in zip(rows, prompts, strict=True):
            for at in range(0, len(prompt), CHUNK):
                row.append_tokens(_ids(prompt[at : at + CHUNK]))
        return OnnxSession(rows)

    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]`` of the tokens that follow each prefix of ``ids``."""
        row = self._row(len(ids))
        scores = torch.empty(len(ids), self.vocab_size)
        for at in range(0, len(ids), CHUNK):
            row.append_tokens(_ids(ids[at : at + CHUNK]))
            scores[at : at + CHUNK] = torch.from_numpy(row.get_output("logits")[0])
        return scores

    def _row(self, length: int) -> Any:
        # The cache of keys and values is made and zeroed at its full length here: the context's would take half a
        # second and 0.4 GB for the default model.
        og = genai()
        settings = og.GeneratorParams(self.handle)
        settings.set_search_options(max_length=min(length, self.context_length), batch_size=1)
        return og.Generator(self.handle, settings)


class OnnxSession:
    """One generator per row."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def logits(self) -> Tensor:
        """Logits ``[B, V]`` of the next token of every row; a single row's are not copied again."""
        found = [torch.from_numpy(row.get_logits()).reshape(1, -1) for row in self.rows]
        return found[0] if len(found) == 1 else torch.cat(found)

    def append(self, tokens: Sequence[int]) -> None:
        """Add one token to every row."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append_tokens(_ids([token]))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.rows = [self.rows[row] for row in rows]

    def close(self) -> None:
        """Give the memory back."""
        self.rows = []


def _ids(tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.asarray([tokens], dtype=np.int32)
