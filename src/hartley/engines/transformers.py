"""The engine for everything else: any causal model of transformers, on any device, with hidden states."""

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hartley.models.checks import context_length, vocabulary_size
from hartley.models.load import Model
from hartley.models.tokenizer import Tokenizer, TokenizerLike

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_network(model: Model, dtype: str, *, device: str | None = None, **settings: Any) -> Any:
    """Load ``model`` from its safetensors files as a causal language model of transformers, with these ``settings``.

    ``device`` and the errors are those of `TransformersEngine.open`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)} for the transformers engine, got {dtype!r}")
    from transformers import AutoModelForCausalLM

    from hartley.models.gguf import quiet

    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                model.directory,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **settings,
            )
    except Exception as error:  # safetensors, transformers and json each have their own
        raise ValueError(f"transformers cannot load {model.directory}: {error}") from error
    return loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


class TransformersEngine:
    """A transformers model that is already loaded, with its tokenizer; :meth:`open` loads one.

    Prompts of different lengths are padded on the left, masked and numbered so that the padding changes nothing, and
    rows run together. A row's logits then differ from those it has alone by rounding (about 1e-5 in float32), so the
    same seed gives the same text in any batch unless a draw falls in a sliver that narrow; in bfloat16 slivers are
    wide. The onnx engine has no such exception.
    """

    name = "transformers"

    def __init__(self, model: Any, tokenizer: TokenizerLike, *, model_name: str = "") -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.model_name = model_name or model.config.name_or_path or type(model).__name__
        self.dtype = str(model.dtype).removeprefix("torch.")
        settings = model.config.to_dict()
        self.vocab_size = vocabulary_size(settings)
        self.context_length = context_length(settings)
        known = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in known
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @classmethod
    def open(cls, model: Model, dtype: str = "float32", *, device: str | None = None) -> "TransformersEngine":
        """Load ``model`` from its safetensors files.

        ``device`` is by default the first CUDA device if there is one, else the CPU. Raises ``ValueError`` for a
        ``dtype`` other than "float32", "bfloat16" and "float16", for damaged files and for a model that needs code
        of its own.
        """
        return cls(load_network(model, dtype, device=device), Tokenizer(model.directory), model_name=model.name)

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "TransformersSession":
        """Read the prompts, padded on the left; the cache grows as needed, whatever ``room`` says."""
        return TransformersSession(self, prompts)

    @torch.no_grad()
    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]``, float32, on the CPU, of the tokens that follow each prefix of ``ids``."""
        return self.model(torch.tensor([ids], device=self.model.device)).logits[0].float().cpu()

    @torch.no_grad()
    def hidden_states(self, ids: Sequence[int]) -> Tensor:
        """Hidden states ``[L + 1, T, D]``, in the model's dtype: the embedding, then the output of every layer."""
        found = self.model(torch.tensor([ids], device=self.model.device), output_hidden_states=True).hidden_states
        return torch.stack([layer[0] for layer in found])

    @torch.no_grad()
    def final_hidden(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Last-layer hidden state ``[B, D]``, float32, on the CPU, at the final token of each prompt, read together.

        Of prompts of different lengths the padding changes nothing but the last digits, as in :meth:`start`.
        """
        ids, mask = _padded(prompts, self.model.device)
        found = self.model(
            ids, attention_mask=mask, output_hidden_states=True, use_cache=False, **self.last_only, **self._places(mask)
        )
        return found.hidden_states[-1][:, -1].float().cpu()

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that tell these weights from others: the beginning of every tensor, hashed."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            beginning = tensor.detach().flatten()[:1024].cpu().contiguous().view(torch.uint8)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode() + beginning.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _places(self, mask: Tensor) -> dict[str, Tensor]:
        """Position ids ``[B, T]`` that count from each row's first token, for models that take them."""
        return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if self.takes_positions else {}


class TransformersSession:
    """A batch with its attention mask ``[B, T]`` and its cache of keys and values."""

    def __init__(self, engine: TransformersEngine, prompts: Sequence[Sequence[int]]) -> None:
        self.engine = engine
        self.past: Any = None
        self.next = torch.empty(0, engine.vocab_size)
        ids, self.mask = _padded(prompts, engine.model.device)
        if len(prompts):
            self._read(ids)

    def logits(self) -> Tensor:
        """Logits ``[B, V]``, float32, of the next token of every row."""
        return self.next.float()

    def append(self, tokens: Sequence[int]) -> None:
        """Add one token to every row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self._read(torch.tensor(tokens, device=self.mask.device)[:, None])

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        """Read another prompt; its row stands at the end.

        Raises ``ValueError`` for a model whose cache is not a plain one, with all its tokens.
        """
        other = TransformersSession(self.engine, [prompt])
        if len(self.mask):
            kinds = {type(layer).__name__ for layer in other.past.layers}
            if kinds != {"DynamicLayer"}:
                raise ValueError(f"rows cannot join a cache of {', '.join(sorted(kinds))}; run them one at a time")
            length = max(self.mask.shape[1], other.mask.shape[1])
            for mine, its in zip(self.past.layers, other.past.layers, strict=True):
                mine.keys = _beside(mine.keys, its.keys, length, -2)
                mine.values = _beside(mine.values, its.values, length, -2)
            self.mask = _beside(self.mask, other.mask, length, -1)
            self.next = torch.cat([self.next, other.next])
        else:
            self.mask, self.next, self.past = other.mask, other.next, other.past
        yield from ()  # in one go

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        at = torch.tensor(rows, dtype=torch.int64, device=self.mask.device)
        self.mask, self.next = self.mask[at], self.next[at]
        if len(rows):
            self.past.batch_select_indices(at)
        else:
            self.past = None

    def close(self) -> None:
        """Give the memory back."""
        self.past = None

    @torch.inference_mode()
    def _read(self, ids: Tensor) -> None:
        places = {name: ids_at[:, -ids.shape[1] :] for name, ids_at in self.engine._places(self.mask).items()}
        extra: dict[str, Any] = {**self.engine.last_only, **places}
        out = self.engine.model(ids, attention_mask=self.mask, past_key_values=self.past, use_cache=True, **extra)
        self.past, self.next = out.past_key_values, out.logits[:, -1]


def _padded(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left to one length, token ids ``[B, T]``, and their mask, 1 where a token stands."""
    longest = max((len(prompt) for prompt in prompts), default=0)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()


def _beside(mine: Tensor, its: Tensor, length: int, axis: int) -> Tensor:
    """Rows of two tensors under one another, padded in front to one length along a negative ``axis``."""
    rows = [
        torch.nn.functional.pad(part, (*(0, 0) * (-axis - 1), length - part.shape[axis], 0)) for part in (mine, its)
    ]
    return torch.cat(rows)
