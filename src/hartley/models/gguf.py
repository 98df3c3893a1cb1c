"""Turn a GGUF file into what the rest of the world reads: safetensors, tokenizer.json and config.json."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

# The reader of transformers knows how most vocabularies split text before merging, but not these, whose digits stand
# alone: "a  12" is "a", two spaces, "1", "2".
DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}


def is_gguf(path: Path) -> bool:
    """Whether the file starts as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def check_gguf(path: Path) -> Any:
    """Return a ``gguf.GGUFReader`` of ``path``; ``ValueError`` naming the file if it is cut short or no GGUF."""
    from gguf import GGUFReader

    if not is_gguf(path):
        raise ValueError(f"{path} is not a GGUF file: it does not start with the bytes 'GGUF'")
    size = path.stat().st_size
    try:
        reader = GGUFReader(path)
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
    except Exception as error:  # numpy, struct, enum and Unicode errors alike: the file is cut or damaged
        raise ValueError(f"{path} is not a whole GGUF file ({size} bytes; cut short or damaged): {error}") from error
    if not reader.tensors or end > size:
        raise ValueError(f"{path} is cut short: its tensors end at byte {end}, the file has {size}")
    return reader


def weight_bytes(path: Path) -> int:
    """Bytes the weights take in float32."""
    return 4 * sum(int(tensor.n_elements) for tensor in check_gguf(path).tensors)


def convert_gguf(path: Path, directory: Path) -> None:
    """Write the model in the GGUF file ``path`` to ``directory`` in float32, every weight exactly as the file has it.

    Raises ``ValueError`` naming the file when it is damaged or of an architecture that transformers cannot read,
    ``OSError`` when the result cannot be written.
    """
    reader = check_gguf(path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    path = path.resolve()
    folder = str(path.parent)
    where: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False, "local_files_only": True}
    try:
        with quiet():
            read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
            config = AutoConfig.from_pretrained(folder, **where)
            tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    except (ValueError, KeyError, NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} holds a model that transformers cannot read: {error}") from error

    # The model that was read counts as quantized and will not be saved; a bare one takes over its weights.
    config.dtype = torch.float32
    config.name_or_path = _fact(reader, "general.name") or path.stem
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(config)
    try:
        with quiet():
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        _mend_tokenizer(reader, directory / "tokenizer.json")
    except Exception as error:  # a full disk has another class in each of the libraries
        raise OSError(f"writing what {path.name} is converted to failed: {error}") from error


def _mend_tokenizer(reader: Any, path: Path) -> None:
    """Bring over what the GGUF says of its tokenizer and transformers leaves out: lone digits, a first token."""
    from tokenizers import Tokenizer, pre_tokenizers, processors

    tokenizer = Tokenizer.from_file(str(path))
    if _fact(reader, "tokenizer.ggml.pre") in DIGITS_ALONE:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    first = _fact(reader, "tokenizer.ggml.bos_token_id")
    wanted = _fact(reader, "tokenizer.ggml.add_bos_token")
    if wanted is not None and first is not None and (tokenizer.encode("a").ids[:1] == [first]) != wanted:
        bos = tokenizer.id_to_token(first)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A" if wanted else "$A", special_tokens=[(bos, first)]
        )
    tokenizer.save(str(path))


def _fact(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' warnings and progress bars, which ignore its own switch, out of a user's terminal."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        theirs.set_verbosity(level)
