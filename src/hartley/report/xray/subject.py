"""What is examined: a language model and its texts, or any torch module that a function of the user's gives."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hartley.info.checks import check_one_of
from hartley.models import Model, Tokenizer, load
from hartley.models.checks import read_header
from hartley.models.texts import speeches
from hartley.representation.anatomy import Anatomy, anatomy

LENGTH, TEXTS = 256, 40  # tokens of a text, and how many texts at most
LETTERS = 16  # of a text file for each token that may be read: far more than a token has
SHORTEST = 16  # tokens of a text that is read at all
LARGEST = 64 * 2**20  # bytes of a text file that is read
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OF_MEMORY = 0.8  # the share of the free memory that weights, or attention maps, may take
MAPS = 6  # as large as one layer's attention, that are there at once: what is measured is dropped layer by layer
RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class Texts(NamedTuple):
    """Texts as token ids, numbered from 0, and where they came from."""

    source: str
    ids: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return max(map(len, self.ids))

    @property
    def sha256(self) -> str:
        """A digest of all tokens, by which two reports can tell that they saw the same."""
        return hashlib.sha256(json.dumps(self.ids).encode()).hexdigest()


def open_language_model(name: str, dtype: str) -> tuple[Model, Any, Tokenizer]:
    """Load a model of transformers by the name that `hartley.models.load` takes, with attention that can be seen.

    Raises ``ValueError`` for a model that does not fit into the free memory, saying which dtype would.
    """
    from hartley.engines.transformers import load_network

    check_one_of("dtype", dtype, tuple(BYTES))
    found = load(name)
    check_memory(found.directory, dtype, free_memory())
    network = load_network(found, dtype, attn_implementation="eager")  # the others never make the weights
    return found, network, Tokenizer(found.directory)


def open_module(loader: str) -> tuple[nn.Module, Iterable[Any]]:
    """Call ``FILE.py:FUNCTION``, the user's own code, which gives a module and batches of its inputs.

    Raises ``ValueError`` for another form, a file or a function that is not there, and for what is no such pair.
    """
    path, _, name = loader.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError(f"--loader must be FILE.py:FUNCTION; got {loader!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"--loader {path} is not there")
    spec = importlib.util.spec_from_file_location("hartley_loader", path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    if not hasattr(code, name):
        raise ValueError(f"--loader: {path} has no function {name!r}")
    found = getattr(code, name)()
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module)):
        raise ValueError(f"--loader: {name} must return (module, batches); got {type(found).__name__}")
    return found[0].eval(), found[1]


def read_texts(tokenizer: Tokenizer, data: Path | None, longest: int, context: int | None = None) -> Texts:
    """The texts to read: rows of a Parquet, JSONL or CSV file (column ``prompt``), or a text file in windows.

    Each is cut to ``context`` tokens, by default LENGTH or ``longest`` where the model reads fewer; at most TEXTS are
    taken. Without ``data`` they are 40 excerpts of State of the Union addresses, which come with the package.
    Raises ``FileNotFoundError`` for a file that is not there, ``ValueError`` for one without a text long enough, and
    for a ``context`` that the model does not read.
    """
    if context is not None and not SHORTEST <= context <= longest:
        raise ValueError(f"--context must be in {SHORTEST}-{longest} tokens, which the model reads; got {context}")
    length = min(LENGTH, longest) if context is None else context
    if data is None:
        return Texts("40 State of the Union addresses, 1790-2016", _cut(map(tokenizer.encode, speeches()), length))
    if not data.is_file():
        raise FileNotFoundError(f"--data {data} is not there")
    if data.suffix.lower() in (".parquet", ".jsonl", ".ndjson", ".csv"):
        from hartley.engines.batch.prompts import read

        ids = _cut((tokenizer.encode(row.text) for row in read(str(data)) if row.text), length)
    else:
        size = data.stat().st_size
        if size > LARGEST:
            raise ValueError(f"--data {data} has {size:,} bytes; a text file may have {LARGEST:,}, or use Parquet")
        try:
            whole = tokenizer.encode(data.read_bytes().decode("utf-8")[: LETTERS * length * TEXTS])
        except UnicodeDecodeError as error:
            raise ValueError(f"--data {data} is not UTF-8 text: {error}") from error
        ids = _cut((whole[begin : begin + length] for begin in range(0, len(whole), length)), length)
    if not ids:
        raise ValueError(f"--data {data} has no text of {SHORTEST} tokens or more")
    return Texts(data.name, ids)


def choose_blocks(parts: Anatomy, layers: str | None) -> Anatomy:
    """The blocks that ``--layers`` names by number: "0,4-7"."""
    if layers is None:
        return parts
    chosen: set[int] = set()
    for piece in layers.split(","):
        match = RANGE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"--layers must be numbers and ranges such as 0,4-7; got {layers!r}")
        chosen |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not chosen or max(chosen) >= len(parts.blocks):
        raise ValueError(f"--layers must be in 0-{len(parts.blocks) - 1}, which the model has; got {layers!r}")
    return parts._replace(blocks=tuple(parts.blocks[number] for number in sorted(chosen)))


def choose_modules(model: nn.Module, layers: str | None) -> list[str]:
    """The modules of any network that ``--layers`` names, with * for any part of a name.

    By default the blocks of its longest list of blocks; without such a list its activations, else its linear and
    convolutional layers. Raises ``ValueError`` for a name that fits nothing, and for a network with nothing to record.
    """
    names = [name for name, module in model.named_modules() if name]
    if layers is not None:
        found: list[str] = []
        for pattern in layers.split(","):
            fitting = [name for name in names if fnmatchcase(name, pattern.strip())]
            if not fitting:
                near = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
                raise ValueError(f"--layers {pattern!r} fits no module; the nearest name is {(near or ['none'])[0]!r}")
            found += [name for name in fitting if name not in found]
        return found
    try:
        return [block.name for block in anatomy(model).blocks]
    except ValueError:
        pass
    from torch.nn.modules import activation, conv

    of_activation = tuple(
        kind for kind in vars(activation).values() if isinstance(kind, type) and kind.__module__ == activation.__name__
    )
    for kinds in (of_activation, (nn.Linear, conv._ConvNd)):
        found = [
            name
            for name, module in model.named_modules()
            if name and isinstance(module, kinds) and not isinstance(module, nn.MultiheadAttention)
        ]
        if found:
            return found
    raise ValueError(f"the network ({type(model).__name__}) has no layer that can be recorded; name some by --layers")


def check_memory(directory: Path, dtype: str, free: int | None) -> None:
    """Raise ``ValueError`` for weights in ``directory`` that ``free`` bytes do not hold as ``dtype``."""
    if free is None:
        return
    headers = [read_header(path)[1] for path in directory.glob("*.safetensors")]
    count = sum(math.prod(entry["shape"]) for entries in headers for entry in entries.values())
    if count * BYTES[dtype] <= OF_MEMORY * free:
        return
    fitting = [name for name, size in BYTES.items() if count * size <= OF_MEMORY * free]
    what = f"--dtype {fitting[0]} would fit" if fitting else "no dtype would fit; examine a smaller model"
    raise ValueError(
        f"the weights of {directory.name} take {count * BYTES[dtype] / 2**30:.1f} GiB in {dtype}, and "
        f"{free / 2**30:.1f} GiB of memory are free: {what}"
    )


def check_context(heads: int, context: int, free: int | None) -> None:
    """Raise ``ValueError`` for texts of ``context`` tokens whose attention maps ``free`` bytes do not hold."""
    needed = 4 * MAPS * heads * context**2
    if free is None or needed <= OF_MEMORY * free:
        return
    fitting = math.isqrt(int(OF_MEMORY * free) // (4 * MAPS * heads))
    raise ValueError(
        f"--context {context} takes {needed / 2**30:.1f} GiB for the attention of {heads} heads, and "
        f"{free / 2**30:.1f} GiB of memory are free: {fitting} tokens would fit"
    )


def free_memory() -> int | None:
    """Bytes that a new process may take, where the system says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def parameters(model: nn.Module) -> int:
    """How many numbers a model has, tied ones counted once."""
    return sum(one.numel() for one in model.parameters())


def _cut(texts: Iterable[Sequence[int]], length: int) -> list[list[int]]:
    found: list[list[int]] = []
    for ids in texts:
        if len(ids) >= SHORTEST:
            found.append(list(ids)[:length])
        if len(found) == TEXTS:
            break
    return found
