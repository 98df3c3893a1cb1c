"""The fast engine on a CPU: ONNX Runtime on packed weights, sequences of different lengths side by side."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.engines.places import close_gaps, in_order
from hartley.engines.protocol import gathered
from hartley.models.checks import context_length, read_config, vocabulary_size
from hartley.models.load import Model
from hartley.models.pack import runtime
from hartley.models.tokenizer import Tokenizer

CHUNK = 256  # tokens of a prompt read at once: the graph gives logits for all of them, V floats each


class OnnxEngine:
    """A packed model in ONNX Runtime, int8 or float32; opens in well under two seconds once packed.

    Rows of a batch run together, and each row's logits are the same numbers, bit for bit, whatever stands beside it.

    ``threads`` is the number of CPU threads, by default torch's. Raises ``ValueError`` for a ``dtype`` other than
    "int8" and "float32" or a model that cannot be packed, ``OSError`` for files that cannot be opened.
    """

    name = "onnx"

    def __init__(self, model: Model, dtype: str = "int8", *, threads: int | None = None) -> None:
        directory = model.packed_directory(dtype)
        try:
            self.graph = Graph(directory, threads or torch.get_num_threads())
        except Exception as error:  # the library's own, json's and the file system's
            raise OSError(f"cannot open {directory} ({error}); remove that folder to have it made again") from error
        if not self.graph.in_place:
            raise ValueError(
                f"engine 'onnx' cannot run {model.directory}: its packed graph does not write its cache in place; "
                "use engine='transformers'"
            )
        self.model_name = model.name
        self.dtype = dtype
        self.tokenizer = Tokenizer(model.directory)
        settings = read_config(model.directory)
        self.vocab_size = vocabulary_size(settings)
        self.context_length = context_length(settings)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "OnnxSession":
        """Read the prompts and keep place for ``room`` more tokens in each row."""
        return OnnxSession(self, prompts, room)

    def scores(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """The rows of :meth:`score` in parts, each when it is computed."""
        for logits in _chunks(Cache(self.graph, 1, len(ids)), 0, ids):
            yield torch.from_numpy(logits[0])

    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]`` of the tokens that follow each prefix of ``ids``."""
        return gathered(self.scores(ids), torch.empty(len(ids), self.vocab_size))


class OnnxSession:
    """One cache in which row r is the sequence at ``places[r]``; the sequences of B rows are at 0 to B - 1."""

    def __init__(self, engine: OnnxEngine, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> None:
        self.engine = engine
        self.places = np.arange(len(prompts))
        self.lengths = np.asarray([len(prompt) for prompt in prompts], np.int64)  # by row
        self.next = torch.empty(len(prompts), engine.vocab_size)
        longest = max((len(prompt) + more for prompt, more in zip(prompts, room, strict=True)), default=0)
        self.cache = Cache(engine.graph, len(prompts), longest)
        for place, prompt in enumerate(prompts):
            for logits in _chunks(self.cache, place, prompt):
                self.next[place] = torch.from_numpy(logits[0, -1])

    def logits(self) -> Tensor:
        """Logits ``[B, V]`` of the next token of every row, where the graph wrote them: ``append`` writes over them."""
        return self.next

    def append(self, tokens: Sequence[int]) -> None:
        """Add one token to every row."""
        ids, lengths = np.empty((len(tokens), 1), np.int64), np.empty(len(tokens), np.int64)
        self.lengths = self.lengths + 1
        ids[self.places, 0], lengths[self.places] = tokens, self.lengths
        found = torch.from_numpy(self.cache.read(0, ids, lengths)[:, 0])
        self.next = found if in_order(self.places) else found[self.places]

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        """Read another prompt, a chunk at each turn; after the last one its row stands at the end."""
        cache = Cache(self.engine.graph, 1, len(prompt) + room)
        for turn, logits in enumerate(_chunks(cache, 0, prompt)):
            if (turn + 1) * CHUNK < len(prompt):
                yield
            else:
                self._join(cache, len(prompt), torch.from_numpy(logits[:, -1].copy()))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; the sequences at the highest places move into the gaps."""
        chosen = list(rows)
        kept = self.places[chosen]
        self.next, self.lengths = self.next[chosen], self.lengths[chosen]
        for row, place, to in close_gaps(kept):
            self.cache.take(to, self.cache, place, int(self.lengths[row]))
        self.places = kept

    def close(self) -> None:
        """Give the memory back."""
        self.cache = Cache(self.engine.graph, 0, 0)
        self.next = torch.empty(0, self.engine.vocab_size)

    def _join(self, cache: "Cache", length: int, logits: Tensor) -> None:
        rows = len(self.places)
        if rows == 0:
            self.cache = cache
        else:
            if rows == self.cache.rows or cache.length > self.cache.length:
                more = rows if rows == self.cache.rows else 0
                wider = Cache(self.engine.graph, self.cache.rows + more, max(cache.length, self.cache.length))
                for row, place in enumerate(self.places.tolist()):
                    wider.take(place, self.cache, place, int(self.lengths[row]))
                self.cache = wider
            self.cache.take(rows, cache, 0, length)
        self.places = np.append(self.places, rows)
        self.lengths = np.append(self.lengths, length)
        self.next = torch.cat([self.next, logits])


class Graph:
    """The packed model: what its inputs and outputs are called, and the runtime that holds its weights.

    ``in_place`` says that it writes keys and values where it reads them, behind what is there: a :class:`Cache`.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        ort = runtime()
        settings = json.loads((directory / "genai_config.json").read_bytes())
        decoder = settings["model"]["decoder"]
        self.in_place: bool = settings["search"]["past_present_share_buffer"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between two steps would take the cores that the sampler needs: 78 instead of 51 tokens a
        # second on two cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(directory / decoder["filename"])
        self.session: Any = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        layers = range(decoder["num_hidden_layers"])
        inputs, outputs = decoder["inputs"], decoder["outputs"]
        self.past = [inputs[f"past_{kind}_names"] % layer for layer in layers for kind in ("key", "value")]
        self.present = [outputs[f"present_{kind}_names"] % layer for layer in layers for kind in ("key", "value")]
        self.ids, self.mask, self.positions = (
            inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids")
        )
        self.logits: str = outputs["logits"]
        self.heads: int = decoder["num_key_value_heads"]
        self.head_size: int = decoder["head_size"]
        self.vocab_size: int = self.session.get_outputs()[0].shape[-1]


class Cache:
    """Keys and values of ``rows`` sequences of up to ``length`` tokens, which the graph reads and writes in place.

    The system gives its memory as it is written, so room that nobody needs costs nothing.
    """

    def __init__(self, graph: Graph, rows: int, length: int) -> None:
        self.graph, self.rows, self.length = graph, rows, length
        shape = (len(graph.past), rows, graph.heads, length, graph.head_size)  # keys and values of each layer
        self.values = np.empty(shape, np.float32)
        self.out = np.empty((rows, 1, graph.vocab_size), np.float32)
        self.bound: tuple[int, int] | None = None
        self.binding: Any = None

    def read(self, place: int, ids: Any, lengths: Any) -> Any:
        """Read ``ids``, int64 ``[b, S]``, into the rows from ``place`` on, which then are ``lengths [b]`` long.

        Returns logits ``[b, S, V]``; of single tokens (S = 1) they are written over by the next such call.
        """
        graph, (rows, count) = self.graph, ids.shape
        if self.bound != (place, rows):
            self._bind(place, rows)
        # A row's mask has its ones in front: the graph takes their number for its length, and reads nothing behind.
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        out = self.out[:rows] if count == 1 else np.empty((rows, count, graph.vocab_size), np.float32)
        self.binding.bind_cpu_input(graph.ids, ids)
        self.binding.bind_cpu_input(graph.mask, mask)
        if graph.positions is not None:
            positions = lengths[:, None] - count + np.arange(count)
            self.binding.bind_cpu_input(graph.positions, positions)
        self.binding.bind_output(graph.logits, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        graph.session.run_with_iobinding(self.binding)
        return out

    def take(self, to: int, other: "Cache", place: int, length: int) -> None:
        """Copy a sequence of ``length`` tokens here from a place in a cache."""
        self.values[:, to, :, :length] = other.values[:, place, :, :length]

    def _bind(self, place: int, rows: int) -> None:
        graph, self.binding = self.graph, self.graph.session.io_binding()
        shape = [rows, graph.heads, self.length, graph.head_size]
        for past, present, values in zip(graph.past, graph.present, self.values, strict=True):
            address = values[place:].ctypes.data
            self.binding.bind_input(past, "cpu", 0, np.float32, shape, address)
            self.binding.bind_output(present, "cpu", 0, np.float32, shape, address)
        self.bound = place, rows


def _chunks(cache: Cache, place: int, ids: Sequence[int]) -> Iterator[Any]:
    """Read a sequence into an empty place of a cache, and yield the logits ``[1, S, V]`` of each chunk."""
    for at in range(0, len(ids), CHUNK):
        part = np.asarray([ids[at : at + CHUNK]], np.int64)
        yield cache.read(place, part, np.asarray([at + part.shape[1]], np.int64))
