"""Where a network's layers are: its blocks, their attention, their feed-forward layer, and how it ends."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

from torch import Tensor, nn


class Block(NamedTuple):
    """One of a network's repeated blocks, by the names that ``named_modules()`` gives."""

    number: int  #: its place in the network, from 0
    name: str
    attention: str | None  #: the module that returns attention weights
    feed_forward: str | None  #: the last layer of the feed-forward part, whose input are the hidden activations


class Anatomy(NamedTuple):
    """The blocks of a network from its input on, and what makes logits of the last one's output."""

    blocks: tuple[Block, ...]
    norm: str | None  #: the normalisation after the last block
    head: Tensor | None  #: the output layer's weight [V, D]


def anatomy(model: nn.Module) -> Anatomy:
    """Find the blocks of ``model``: the members of its longest list of modules of one kind.

    In a block, the attention is the outermost module whose class names it, and the feed-forward layer ends in the
    linear layer with more inputs than outputs outside it. Mixtures of experts and blocks without such a layer have
    None there.

    Raises ``ValueError`` for a network without such a list, which has to be told its layers by name.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 32)
    >>> anatomy(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).blocks[0]
    Block(number=0, name='layers.0', attention='layers.0.self_attn', feed_forward='layers.0.linear2')
    """
    lists = [(name, list(module)) for name, module in model.named_modules() if _repeats(module)]
    if not lists:
        raise ValueError(
            f"model has no list of blocks of one kind ({type(model).__name__}); give the names of its layers"
        )
    name, chosen = max(lists, key=lambda one: len(one[1]))  # the first of the longest
    parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
    blocks = tuple(_block(number, f"{name}.{number}", block) for number, block in enumerate(chosen))
    return Anatomy(blocks, _norm(model, parent, name), _head(model))


def _repeats(module: nn.Module) -> TypeGuard[nn.ModuleList]:
    return isinstance(module, nn.ModuleList) and len(module) > 0 and len({type(one) for one in module}) == 1


def _block(number: int, name: str, block: nn.Module) -> Block:
    inside = list(block.named_modules())[1:]
    attention = next((at for at, module in inside if "attention" in _kind(module) or "attn" in _kind(module)), None)
    ends = [
        (inputs, at)
        for at, module in inside
        if (attention is None or not at.startswith(f"{attention}.")) and (inputs := _narrowing(module)) is not None
    ]
    last = max(ends)[1] if ends else None
    return Block(number, name, *(None if at is None else f"{name}.{at}" for at in (attention, last)))


def _kind(module: nn.Module) -> str:
    return type(module).__name__.lower()


def _narrowing(module: nn.Module) -> int | None:
    """How many inputs a linear layer has, if they are more than its outputs."""
    if isinstance(module, nn.Linear):
        inputs, outputs = module.in_features, module.out_features
    elif type(module).__name__ == "Conv1D" and isinstance(weight := getattr(module, "weight", None), Tensor):
        inputs, outputs = weight.shape  # GPT-2's linear layer, stored the other way round
    else:
        return None
    return inputs if inputs > outputs else None


def _norm(model: nn.Module, parent: nn.Module, name: str) -> str | None:
    """The last normalisation beside the list of blocks."""
    beside = [at for at, module in parent.named_children() if "norm" in _kind(module)]
    path = name.rpartition(".")[0]
    return ".".join(part for part in (path, beside[-1]) if part) if beside else None


def _head(model: nn.Module) -> Tensor | None:
    get: Any = getattr(model, "get_output_embeddings", None)
    layer = get() if get is not None else None
    return getattr(layer, "weight", None)
