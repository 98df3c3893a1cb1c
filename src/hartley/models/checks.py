"""Refuse a damaged weight file by name, before a library meets it halfway through."""

import json
import struct
from pathlib import Path
from typing import Any

LARGEST_HEADER = 100_000_000  # the bound the safetensors format sets itself


def check_safetensors(path: Path) -> None:
    """Raise ``ValueError`` naming ``path`` unless it is a safetensors file of the size its own header states."""
    size = path.stat().st_size
    length, entries = read_header(path)
    expected = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != expected:
        raise ValueError(f"{path} is damaged: its header describes {expected} bytes, the file has {size}")


def read_header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The length of a safetensors file's header, bytes, and its entries by tensor.

    Each has ``dtype``, ``shape`` and ``data_offsets``. Raises ``ValueError`` naming ``path`` if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LARGEST_HEADER, path.stat().st_size - 8):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for entry in entries.values():
            _ = int(entry["data_offsets"][1]), list(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return length, entries


def check_weights(directory: Path) -> None:
    """Raise ``ValueError`` or ``FileNotFoundError`` unless ``directory`` holds whole safetensors weights.

    Pickled weights (``pytorch_model.bin``) are refused, since unpickling runs whatever code the file carries.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{index} is not a readable index of safetensors files: {error}") from error
    elif pickles := sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt")):
        raise ValueError(
            f"{directory} has its weights as a pickle ({pickles[0].name}), which can run code when it is read; "
            "only model.safetensors is read"
        )
    else:
        raise FileNotFoundError(f"{directory} has no model.safetensors")
    for name in names:
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} lacks {name}, which {index.name} lists")
        check_safetensors(directory / name)


def read_config(directory: Path) -> dict[str, Any]:
    """The model's ``config.json``; ``ValueError`` or ``FileNotFoundError`` naming the file if it cannot be read."""
    return read_json(directory / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``ValueError`` naming the file if it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__} where a JSON object is expected")
    return found


def context_length(config: dict[str, Any]) -> int:
    """The most tokens the model reads at once, from its configuration; ``ValueError`` if that does not say."""
    return _stated(config, "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")


def vocabulary_size(config: dict[str, Any]) -> int:
    """How many logits the model gives, from its configuration; ``ValueError`` if that does not say."""
    return _stated(config, "vocab_size")


def _stated(config: dict[str, Any], *names: str) -> int:
    inner = config.get("text_config") or {}
    for settings in (config, inner):
        for name in names:
            if isinstance(settings.get(name), int):
                return settings[name]
    raise ValueError(f"the model's configuration states none of {', '.join(names)}")
