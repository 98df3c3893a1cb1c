"""What a pass of data through a network leaves: sums and samples by group of the data, which merge exactly."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hartley.info import causal_mask, entropy, linear_statistics, logits_statistics
from hartley.representation.anatomy import Anatomy, anatomy
from hartley.representation.concentration import fewest_holding
from hartley.representation.experts import expert_count, expert_shares, find_router, watch_routers
from hartley.representation.heads import cache_share, first_key_mass, head_spread
from hartley.representation.recorder import call, record
from hartley.representation.reservoir import Reservoir
from hartley.representation.tally import Tally

GROUPS = 8  # whole texts in turn; the spread between them gives the standard errors
ROWS = 256  # of each layer and group, kept to see how they lie
SHARES = (0.5, 0.9, 0.99)  # of attention, or of activations' energy
BESIDE, ROUNDED = 0.95, 1e-4  # sums of a query's attention: below, some is on no key; further from 1, half precision
LENS = 8  # places of a text at which every layer is asked for the next token


class Seen:
    """Everything counted so far of a network, bounded in memory whatever the data."""

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows
        self.tally = Tally(GROUPS)
        self.samples: dict[tuple[str, int], Reservoir] = {}  # by layer and group
        self.tokens: dict[int, np.ndarray] = {}  # by text: surprisal, entropy, varentropy [T - 1, 3]
        self.texts = 0
        self.notes: set[str] = set()

    def sample(self, layer: str, group: int, values: Tensor) -> None:
        """Let the rows ``values [..., D]`` of a layer pass."""
        self.samples.setdefault((layer, group), Reservoir(self.rows)).partial_fit(values)

    def groups(self, layer: str) -> list[np.ndarray]:
        """The sampled rows of a layer, group by group."""
        return [self.samples[layer, group].sample_ for group in range(GROUPS) if (layer, group) in self.samples]

    def merge(self, other: Seen) -> Seen:
        """Add what another one has seen of the same network on other texts."""
        self.tally.merge(other.tally)
        for key, reservoir in other.samples.items():
            self.samples[key] = self.samples[key].merge(reservoir) if key in self.samples else reservoir
        self.tokens |= other.tokens
        self.texts += other.texts
        self.notes |= other.notes
        return self


@torch.no_grad()
def see_texts(model: Any, parts: Anatomy, texts: Iterable[tuple[int, Sequence[int]]]) -> Generator[Seen]:
    """Read numbered texts (token ids) with a causal language model, and yield what has been seen after each.

    ``model`` is one of transformers with eager attention. Text n counts in group n modulo 8.
    """
    seen = Seen()
    lens = _Lens(model, parts)
    attended = [block.attention for block in parts.blocks if block.attention]
    tells = bool(attended) and _tells(model, attended)
    with ExitStack() as hooks:
        reader = _Reader(seen, parts, _kv_heads(model))
        hooks.enter_context(record(model, list(dict.fromkeys([*lens.blocks, lens.last])), reader.hidden))
        if tells:
            hooks.enter_context(record(model, attended, reader.attention, of="weights"))
        else:
            seen.notes.add("no attention gives its weights: there is nothing on heads and caches")
        forward = [block.feed_forward for block in parts.blocks if block.feed_forward]
        hooks.enter_context(record(model, forward, reader.feed_forward, of="input"))
        if not forward:
            seen.notes.add("no feed-forward layer ends in a linear one: there is nothing on its sparsity")
        hooks.enter_context(watch_routers(model, _routers(model, parts, seen.notes), reader.router))
        for number, ids in texts:
            reader.group = number % GROUPS
            tokens = torch.tensor([list(ids)], device=model.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
            found = logits_statistics(logits, tokens[0, 1:])
            assert found.log_prob is not None
            columns = (-found.log_prob, found.entropy, found.varentropy)
            seen.tokens[number] = torch.stack(columns, -1).float().cpu().numpy()
            lens.look(seen, reader, logits)
            seen.texts += 1
            yield seen


@torch.no_grad()
def see_batches(model: nn.Module, layers: Sequence[str], batches: Iterable[Any]) -> Generator[Seen]:
    """Run a network on ``batches`` of inputs, in turn one of each group, and yield what has been seen after each.

    A batch is a tensor, a tuple of positional or a dict of keyword arguments.
    """
    seen, group = Seen(), 0

    def take(name: str, values: Tensor) -> None:
        rows = values.flatten(2).transpose(1, 2) if values.ndim == 4 else values  # [N, C, H, W]: every place is a row
        flat = rows.reshape(-1, rows.shape[-1]).float()
        seen.sample(name, group, flat)
        seen.tally.add(f"zeros {name}", group, (flat == 0).float().mean(-1))
        widths = fewest_holding(flat.square(), SHARES) / flat.shape[-1]
        seen.tally.add(f"width {name}", group, widths)

    with record(model, layers, take):
        for number, batch in enumerate(batches):
            group = number % GROUPS
            call(model, batch)
            seen.texts += 1
            yield seen


class _Reader:
    """Takes what the modules of a language model give while it reads one text."""

    def __init__(self, seen: Seen, parts: Anatomy, kv_heads: int) -> None:
        self.seen, self.kv_heads = seen, kv_heads
        self.block = {name: block.name for block in parts.blocks for name in (block.attention, block.feed_forward)}
        self.chosen = {block.name for block in parts.blocks}
        self.group = 0
        self.states: dict[str, Tensor] = {}  # the last text's output of every block where it is asked [LENS, D]

    def hidden(self, name: str, values: Tensor) -> None:
        values = values.reshape(-1, values.shape[-1])
        self.states[name] = values[_asked(len(values) - 1)]
        if name not in self.chosen:
            return
        rows = values[1:].float()  # the first token's state is many times longer than any other in most models
        size = rows.square().mean(-1, keepdim=True).sqrt()
        self.seen.sample(name, self.group, rows / size.clamp(min=1e-30))  # as the next normalisation sees it
        self.seen.tally.add(f"size {name}", self.group, size)

    def attention(self, name: str, values: Tensor) -> None:
        block, weights = self.block[name], values.float()
        whole = weights.sum(-1, keepdim=True)
        if float(whole.min()) < BESIDE:  # GPT-OSS's attention has a learned place to rest that is no key
            self.seen.notes.add("attention may rest beside its keys: heads and caches are of what falls on keys")
        weights = weights / whole.clamp(min=1e-30) if float((whole - 1).abs().max()) > ROUNDED else weights
        mask = causal_mask(torch.ones(1, weights.shape[-1], device=weights.device))
        add = self.seen.tally.add
        add(f"spread {block}", self.group, head_spread(weights, mask))
        add(f"first {block}", self.group, first_key_mass(weights))
        last = max(1, weights.shape[2] // 4)
        add(f"cache {block}", self.group, cache_share(weights, SHARES, self.kv_heads, last))

    def feed_forward(self, name: str, values: Tensor) -> None:
        block, rows = self.block[name], values.reshape(-1, values.shape[-1]).float()
        add = self.seen.tally.add
        add(f"zeros {block}", self.group, (rows == 0).float().mean(-1))
        add(f"width {block}", self.group, fewest_holding(rows.square(), SHARES) / rows.shape[-1])

    def router(self, name: str, logits: Tensor, chosen: Tensor) -> None:
        add = self.seen.tally.add
        add(f"choice {name}", self.group, entropy(logits=logits))
        add(f"load {name}", self.group, expert_shares(chosen, logits.shape[-1]))
        add(f"chosen {name}", self.group, torch.full((len(chosen),), chosen.shape[-1]))


class _Lens:
    """Asks every layer for the next token, by the network's own last normalisation and output layer."""

    def __init__(self, model: Any, parts: Anatomy) -> None:
        self.blocks = [block.name for block in parts.blocks]
        self.last = anatomy(model).blocks[-1].name  # of which the model's own answer is made
        self.norm = model.get_submodule(parts.norm) if parts.norm else None
        self.head = parts.head
        self.works: bool | None = None  # not yet known

    def look(self, seen: Seen, reader: _Reader, logits: Tensor) -> None:
        if self.norm is None or self.head is None or self.works is False:
            return
        states = torch.stack([self.norm(reader.states[name].to(self.head.device)) for name in self.blocks])
        logits = logits[_asked(len(logits))]
        if self.works is None:
            end = self.norm(reader.states[self.last].to(self.head.device))
            own = end.float() @ self.head.float().T
            self.works = own.shape == logits.shape and bool(
                torch.allclose(own, logits.float(), atol=1e-2 * float(logits.float().std()))
            )
            if not self.works:
                seen.notes.add("layers cannot be asked for the next token: the output layer does more than a product")
                return
        teacher = logits.expand(len(states), *logits.shape).flatten(0, 1)
        found = linear_statistics(states.flatten(0, 1), self.head, teacher=teacher)
        assert found.kl is not None
        shape = len(self.blocks), len(logits)
        add = seen.tally.add
        add("lens entropy", reader.group, found.entropy.view(shape).T)
        add("lens gap", reader.group, found.kl.view(shape).T)


def _asked(tokens: int) -> Tensor:
    """The places, of as many as a next token follows, at which every layer is asked for it."""
    return torch.linspace(0, tokens - 1, min(LENS, tokens)).long()


def _tells(model: Any, attended: Sequence[str]) -> bool:
    """Whether the attention modules give their weights."""
    try:
        with record(model, attended, of="weights"):
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    except ValueError:
        return False
    return True


def _routers(model: Any, parts: Anatomy, notes: set[str]) -> dict[str, str]:
    """The routers of a mixture of experts, by block; a note where it must have some and shows none."""
    experts = expert_count(model.config)
    if experts is None:
        return {}
    found = {block.name: find_router(model, block, experts) for block in parts.blocks}
    if not any(find_router(model, block, experts) for block in anatomy(model).blocks):
        notes.add(f"the routers of its {experts} experts cannot be seen: there is nothing on their load")
    return {name: router for name, router in found.items() if router}


def _kv_heads(model: Any) -> int:
    config = model.config.get_text_config()
    return getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
