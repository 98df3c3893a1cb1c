"""Text to token ids and back, chat templates, and text streamed token by token."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from hartley.models.checks import read_config, read_json

# Special tokens that end a text or a turn whatever the configuration says: many name only one of them.
ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>")
HOLE = "\ufffd"  # what an incomplete or invalid byte decodes to


class TokenizerLike(Protocol):
    """What the decode loop needs of a tokenizer; :class:`Tokenizer` is one."""

    stop_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...


class Tokenizer:
    """The tokenizer of a model in the Hugging Face layout, without importing transformers (that takes seconds).

    ``Tokenizer(directory)`` reads ``tokenizer.json``, the special tokens and the chat template. Attributes:
    ``vocab_size`` (ids it knows), ``stop_ids`` (tokens that end a text or a chat turn).
    """

    def __init__(self, directory: Path) -> None:
        self.backend = _backend(directory)
        self.vocab_size: int = self.backend.get_vocab_size()
        self.settings = _optional(directory / "tokenizer_config.json")
        self.stop_ids = self._stop_ids(directory)
        self.template = _template(directory, self.settings)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with the first token (BOS) where the model was trained with one."""
        return self.backend.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the token ids, special tokens written out; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def chat(self, messages: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the model's chat template, ready for the assistant's answer.

        ``messages`` is a list of ``{"role": "system" | "user" | "assistant", "content": ...}``, or one string, which
        stands for a user's message. Raises ``ValueError`` if the model has no chat template or it refuses them.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.backend.encode(self.render(messages), add_special_tokens=False).ids

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the text the model reads; see :meth:`chat`."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.template is None:
            raise ValueError("this model has no chat template; give a plain prompt")
        # The sandbox and its settings are those under which templates are written for transformers.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        special = {f"{kind}_token": self._special(kind) or "" for kind in ("bos", "eos", "unk", "pad")}
        try:
            return environment.from_string(self.template).render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, **special
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error

    def _special(self, kind: str) -> str | None:
        token = self.settings.get(f"{kind}_token")
        return token.get("content") if isinstance(token, dict) else token

    def _stop_ids(self, directory: Path) -> frozenset[int]:
        known = [self.backend.token_to_id(token) for token in (*ENDS, self._special("eos") or "")]
        for settings in (read_config(directory), _optional(directory / "generation_config.json")):
            stated = settings.get("eos_token_id")
            known += stated if isinstance(stated, list) else [stated]
        return frozenset(id for id in known if isinstance(id, int))


class TextStream:
    """Text as its tokens arrive: a character comes out when its last byte is in, never half of it.

    >>> stream = TextStream(tokenizer)  # doctest: +SKIP
    >>> [stream.push(id) for id in tokenizer.encode("né 🙂")], stream.flush()  # doctest: +SKIP
    (['n', 'é', '', ' 🙂'], '')
    """

    WINDOW = 16  # tokens decoded together at most, once they end on a whole character
    CONTEXT = 4  # of them kept as context, since a word's leading space can depend on what stands before it

    def __init__(self, tokenizer: TokenizerLike, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids = list(before[-self.CONTEXT :])
        self.sent = len(tokenizer.decode(self.ids).rstrip(HOLE))

    def push(self, id: int) -> str:
        """Take one more token and return the text that is certain now, possibly none."""
        self.ids.append(id)
        text = self.tokenizer.decode(self.ids)
        whole = text.rstrip(HOLE)  # holes at the end may be the first bytes of what is still to come
        piece, self.sent = whole[self.sent :], max(self.sent, len(whole))
        if len(self.ids) > self.WINDOW and len(whole) == len(text):
            self.ids = self.ids[-self.CONTEXT :]
            self.sent = len(self.tokenizer.decode(self.ids))
        return piece

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text = self.tokenizer.decode(self.ids)
        piece, self.sent = text[self.sent :], len(text)
        return piece


def pieces(tokenizer: TokenizerLike) -> Callable[[int], str]:
    """The text of a single token, remembered."""
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token])
        return known[token]

    return piece


def _backend(directory: Path) -> Any:
    from tokenizers import Tokenizer as Backend

    path = directory / "tokenizer.json"
    if path.is_file():
        try:
            return Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a readable tokenizer: {error}") from error
    from transformers import AutoTokenizer  # an older folder: only it can build one from the other files

    found = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    if not hasattr(found, "backend_tokenizer"):
        raise ValueError(f"{directory} has no tokenizer.json, and its tokenizer cannot be turned into one")
    return found.backend_tokenizer


def _template(directory: Path, settings: dict[str, Any]) -> str | None:
    if (path := directory / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    stated = settings.get("chat_template")
    if isinstance(stated, list):  # several, by name
        stated = next((entry["template"] for entry in stated if entry["name"] == "default"), None)
    return stated


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
