"""The engine for GGUF files as they are: llama.cpp, through the low-level interface of llama-cpp-python."""

import ctypes
import functools
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.engines.places import close_gaps, in_order
from hartley.engines.protocol import gathered
from hartley.models.load import Model
from hartley.models.tokenizer import Tokenizer

CHUNK = 256  # tokens scored at once, V floats each
# Tokens of a sequence read at once. From 64 on llama.cpp's attention adds in another order, and the numbers would
# depend on how a prompt is cut.
TOGETHER = 63
PART = 4 * TOGETHER  # tokens of a prompt read in one turn while other rows go on
CELLS = 256  # llama.cpp rounds a sequence's memory up to these
ERROR = 4  # its level of log messages


class LlamaEngine:
    """A GGUF file in llama.cpp, on the CPU, with the weights that the file holds.

    Rows of a batch run together, each in its own part of one context. With 4-bit weights such as the default model's a
    row's logits are the same numbers whatever stands beside it, up to 256 tokens; after them llama.cpp computes the
    attention of a row that is alone in another order. That rounding, and that of formats it multiplies in another way
    in a batch (float32, float16, Q8_0), its 8-bit activations magnify: by up to a logit in the default model, which is
    as far as they are from the exact numbers themselves.

    ``threads`` is the number of CPU threads, by default torch's. Raises ``ImportError`` naming the extra when
    llama-cpp-python is missing, ``ValueError`` for a model that was not loaded from a GGUF file, for a ``dtype`` other
    than the file's and for a file that llama.cpp cannot read.
    """

    name = "llama"

    def __init__(self, model: Model, dtype: str | None = None, *, threads: int | None = None) -> None:
        if model.gguf is None:
            raise ValueError(
                f"engine 'llama' runs GGUF files, and {model.directory} is none; give a GGUF file, "
                "or use engine='transformers'"
            )
        self.library = library = binding()
        settings = library.llama_model_default_params()
        settings.n_gpu_layers = 0
        said.clear()
        self.handle = library.llama_model_load_from_file(str(model.gguf).encode(), settings)
        if not self.handle:
            raise ValueError(f"llama.cpp cannot read {model.gguf}: {_said()}")
        weakref.finalize(self, library.llama_model_free, self.handle)
        self.model_name = model.name
        kind = library.llama_ftype_name(library.llama_model_ftype(self.handle)).decode()
        self.dtype = kind.removeprefix("(guessed) ").removeprefix("all ")
        if dtype not in (None, self.dtype):
            raise ValueError(f"dtype must be None or {self.dtype!r}, which {model.gguf.name} holds, got {dtype!r}")
        self.tokenizer = Tokenizer(model.directory)
        self.vocab_size: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.handle))
        self.context_length: int = library.llama_model_n_ctx_train(self.handle)
        self.threads = threads or torch.get_num_threads()

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "LlamaSession":
        """Read the prompts, all at once, and keep place for ``room`` more tokens in each row, as many as the longest.

        Raises ``ValueError`` for more than 256 prompts, ``OSError`` when llama.cpp gets no memory.
        """
        return LlamaSession(self, prompts, room)

    def scores(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """The rows of :meth:`score` in parts, each to be used before the next one is computed over it."""
        context = Context(self, len(ids), rows=1, tokens=CHUNK, outputs=CHUNK)
        for at in range(0, len(ids), CHUNK):
            part = np.asarray(ids[at : at + CHUNK], np.int32)
            places = np.arange(at, at + len(part), dtype=np.int32)
            yield context.read(part, places, np.zeros_like(part), np.ones(len(part), np.int8))

    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]`` of the tokens that follow each prefix of ``ids``."""
        return gathered(self.scores(ids), torch.empty(len(ids), self.vocab_size))


class LlamaSession:
    """One context in which row r is the sequence ``sequences[r]``; the sequences of B rows are numbered 0 to B - 1."""

    def __init__(self, engine: LlamaEngine, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> None:
        self.engine = engine
        rows = len(prompts)
        lengths = np.asarray([len(prompt) for prompt in prompts], np.int32)
        self.texts = [list(prompt) for prompt in prompts]
        self.sequences = np.arange(rows, dtype=np.int32)
        self.next = torch.empty(0, engine.vocab_size)
        self.context: Context | None = None
        self.found = self.next
        if rows == 0:
            return
        longest = max(len(prompt) + more for prompt, more in zip(prompts, room, strict=True))
        total = int(lengths.sum())
        self.context = Context(engine, longest, rows=rows, tokens=max(total, PART), outputs=rows)
        tokens = np.fromiter((id for prompt in prompts for id in prompt), np.int32, total)
        places = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        last = np.zeros(total, np.int8)
        last[lengths.cumsum() - 1] = 1
        self.next = self.context.read(tokens, places, self.sequences.repeat(lengths), last)

    def logits(self) -> Tensor:
        """Logits ``[B, V]`` of the next token of every row, where llama.cpp has them: ``append`` writes over them."""
        return self.next

    def append(self, tokens: Sequence[int]) -> None:
        """Add one token to every row."""
        assert self.context is not None, "the session is closed"
        rows = len(tokens)
        ids, places, sequences = np.empty((3, rows), np.int32)
        ids[self.sequences], places[self.sequences] = tokens, [len(text) for text in self.texts]
        sequences[:] = range(rows)
        found = self.context.read(ids, places, sequences, np.ones(rows, np.int8))
        self.next = found if in_order(self.sequences) else found[self.sequences]
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        """Read another prompt, a part at each turn; after the last one its row stands at the end.

        Where the context is too small for it a larger one takes its place, which reads all rows again.
        """
        rows, context = len(self.sequences), self.context
        if context is None or rows == context.rows or len(prompt) + room > context.length:
            context = self._widened(max(2 * rows, 1), len(prompt) + room)
        whole = False
        try:
            yield from self._read(context, rows, prompt)
            whole = True
        finally:
            if not whole:  # who asked went away
                context.forget(rows)
        if len(self.sequences) < rows:  # some left meanwhile
            context.move(rows, len(self.sequences))
        self.next = torch.cat([self.next, self.found])
        self.sequences = np.append(self.sequences, np.int32(len(self.sequences)))
        self.texts.append(list(prompt))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; the highest sequences move into the gaps, or llama.cpp would read in pieces."""
        if self.context is None:  # nothing was read yet
            return
        chosen = list(rows)
        kept = self.sequences[chosen]
        for sequence in set(self.sequences.tolist()) - set(kept.tolist()):
            self.context.forget(sequence)
        for _, place, to in close_gaps(kept):
            self.context.move(place, to)
        self.next, self.sequences, self.texts = self.next[chosen], kept, [self.texts[row] for row in chosen]

    def close(self) -> None:
        """Give the memory back, as soon as nobody holds the logits."""
        self.context = None
        self.next = self.found = torch.empty(0)

    def _widened(self, rows: int, length: int) -> "Context":
        """A context with as much room as either asks for, in which every row is read again."""
        self.next = self.next.clone()
        if (old := self.context) is not None:
            rows, length = max(rows, old.rows), max(length, old.length)
        rows = min(rows, self.engine.library.llama_max_parallel_sequences())
        self.context = context = Context(self.engine, length, rows=rows, tokens=max(PART, rows), outputs=rows)
        for text, sequence in zip(self.texts, self.sequences.tolist(), strict=True):
            deque(self._read(context, sequence, text), maxlen=0)
        return context

    def _read(self, context: "Context", sequence: int, text: Sequence[int]) -> Iterator[None]:
        """Read a text into an empty sequence, a part at each turn; ``found`` then has its logits ``[1, V]``."""
        for at in range(0, len(text), PART):
            if at:
                yield
            part = np.asarray(text[at : at + PART], np.int32)
            last = np.zeros(len(part), np.int8)
            last[-1] = 1
            places = np.arange(at, at + len(part), dtype=np.int32)
            self.next = self.next.clone()  # what follows writes over it
            self.found = context.read(part, places, np.full_like(part, sequence), last).clone()


class Context:
    """llama.cpp's memory of up to ``rows`` sequences, freed when neither it nor a view of its logits is left.

    ``length`` is how long a sequence can become, ``tokens`` how many are read in one call and ``outputs`` of how many
    of them it wants the logits.
    """

    def __init__(self, engine: LlamaEngine, length: int, *, rows: int, tokens: int, outputs: int) -> None:
        self.engine = engine  # the model must outlive its contexts
        self.rows, self.length = rows, length
        library = engine.library
        if rows > (most := library.llama_max_parallel_sequences()):
            raise ValueError(f"llama.cpp reads at most {most} sequences at once, got {rows}; give fewer at a time")
        settings = library.llama_context_default_params()
        settings.n_seq_max = rows
        settings.n_ctx = rows * -(-length // CELLS) * CELLS
        settings.n_batch = tokens
        settings.n_ubatch = min(tokens, TOGETHER)
        settings.n_outputs_max = max(outputs, rows)
        settings.n_threads = settings.n_threads_batch = engine.threads
        settings.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_ENABLED  # the other one depends on the batch
        settings.no_perf = True
        said.clear()
        self.handle = library.llama_init_from_model(engine.handle, settings)
        if not self.handle:
            raise OSError(f"llama.cpp cannot make room for {rows} sequences of {length} tokens: {_said()}")
        weakref.finalize(self, library.llama_free, self.handle)
        self.memory = library.llama_get_memory(self.handle)

    def read(self, tokens: Any, places: Any, sequences: Any, wanted: Any) -> Tensor:
        """Read ``tokens``, int32 ``[N]``, each at its place in its sequence; logits of those ``wanted``, in order."""
        library = self.engine.library
        number = len(tokens)
        ones = np.ones(number, np.int32)
        # Of each token a list of the sequences it belongs to: here a pointer to the one
        lists = sequences.ctypes.data + np.arange(number, dtype=np.uintp) * sequences.itemsize
        batch = library.llama_batch(
            number,
            _pointer(tokens, ctypes.c_int32),
            None,
            _pointer(places, ctypes.c_int32),
            _pointer(ones, ctypes.c_int32),
            _pointer(lists, ctypes.POINTER(ctypes.c_int32)),
            _pointer(wanted, ctypes.c_int8),
        )
        said.clear()
        status = library.llama_decode(self.handle, batch)
        if status != 0:
            raise OSError(f"llama.cpp could not read {number} tokens (status {status}): {_said()}")
        address = ctypes.addressof(library.llama_get_logits(self.handle).contents)
        return torch.from_numpy(np.asarray(_Memory(self, address, int(wanted.sum()))))

    def forget(self, sequence: int) -> None:
        """Drop a sequence."""
        self.engine.library.llama_memory_seq_rm(self.memory, sequence, -1, -1)

    def move(self, sequence: int, to: int) -> None:
        """Renumber a sequence."""
        self.engine.library.llama_memory_seq_cp(self.memory, sequence, to, -1, -1)
        self.forget(sequence)


class _Memory:
    """Rows of logits where llama.cpp has them, as NumPy reads them; an array made of it keeps the context alive."""

    def __init__(self, owner: Context, address: int, rows: int) -> None:
        self.owner = owner
        shape = (rows, owner.engine.vocab_size)
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": "<f4", "version": 3}


said: deque[str] = deque(maxlen=4)  # llama.cpp's last complaints: it prints what it has to say, and returns NULL


@functools.cache
def binding() -> Any:
    """llama.cpp, silent: its log goes to ``said``, errors alone."""
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("engine 'llama' needs llama-cpp-python: pip install \"hartley[llama]\"") from error
    llama_cpp.llama_log_set(_listen, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _listen(level: int, text: bytes, user_data: Any) -> None:
    if level == ERROR:
        said.append(text.decode("utf-8", "replace").strip())


def _said() -> str:
    return "; ".join(said) or "it does not say why"


def _pointer(array: Any, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
