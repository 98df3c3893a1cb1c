"""Which experts of a mixture its routers choose: found by structure, and handed on while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hartley.info import entropy
from hartley.representation.anatomy import Block

# What configurations of transformers call the number of experts, and how many of them a token is sent to.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
Take = Callable[[str, Tensor, Tensor], None]


def expert_count(config: Any) -> int | None:
    """How many experts the configuration of a model of transformers names; None where it names no mixture.

    >>> from types import SimpleNamespace
    >>> expert_count(SimpleNamespace(num_local_experts=8)), expert_count(SimpleNamespace(hidden_size=8))
    (8, None)
    """
    count = _named(config, EXPERTS)
    return count if count is not None and count > 1 else None


def find_router(model: nn.Module, block: Block, experts: int) -> str | None:
    """The name of the module of ``block`` that scores its experts: a matrix of one row an expert, outside attention.

    None where there is none, as in the dense blocks among those of a mixture.

    >>> router = nn.ModuleDict({"gate": nn.Linear(8, 4)})
    >>> find_router(nn.ModuleList([router]), Block(0, "0", None, None), 4)
    '0.gate'
    """
    attention = f"{block.attention}." if block.attention else None
    for name, module in model.get_submodule(block.name).named_modules(prefix=block.name):
        weight = getattr(module, "weight", None)
        fits = isinstance(weight, Tensor) and weight.ndim == 2 and len(weight) == experts
        if fits and not (attention and f"{name}.".startswith(attention)):
            return name
    return None


@contextmanager
def watch_routers(model: Any, routers: Mapping[str, str], take: Take) -> Iterator[None]:
    """Hand what the routers decide in each forward pass to ``take(name, logits, chosen)``.

    Parameters
    ----------
    model
        A model of transformers; its configuration says how many experts a token is sent to.
    routers
        The names that `find_router` gives, each under the name that ``take`` shall be told.
    take
        Told of N tokens the ``logits [N, E]``, float32, and the numbers of the ``chosen [N, k]`` experts: those that
        the router returns, or the module that holds it; where neither does, those of the k largest logits.

    Raises
    ------
    ValueError
        In a forward pass, where k is known from nowhere, naming the router.
    """
    with ExitStack() as hooks:
        for told, name in routers.items():
            router, holder = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
            waiting = _Waiting(told, _named(getattr(model, "config", None), CHOSEN), take)
            hooks.callback(router.register_forward_hook(waiting.of_router, with_kwargs=True).remove)
            hooks.callback(holder.register_forward_hook(waiting.of_holder).remove)
        yield


def expert_shares(chosen: Tensor, experts: int) -> Tensor:
    """Return which share of each token's choices fell on each expert, ``[N, E]``, of the ``chosen [N, k]``.

    >>> expert_shares(torch.tensor([[0, 2], [2, 1]]), 3)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.5000, 0.5000]])
    """
    return nn.functional.one_hot(chosen.long(), experts).float().mean(1)


def load_entropy(load: np.ndarray) -> float:
    """Return the entropy (nats) of the ``load [E]``, the experts' shares of all choices: ln E where all are used alike.

    >>> round(load_entropy(np.array([0.5, 0.5, 0.0])), 4)
    0.6931
    """
    return float(entropy(probs=torch.from_numpy(load)))


class _Waiting:
    """A router's logits, until it is known which experts were chosen."""

    def __init__(self, told: str, count: int | None, take: Take) -> None:
        self.told, self.count, self.take = told, count, take
        self.logits: Tensor | None = None

    def of_router(self, router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        states, *_ = _tensors((*args, *kwargs.values()))
        bias: Any = getattr(router, "bias", None)
        weight: Any = router.weight
        rows = states.reshape(-1, states.shape[-1]).float()  # what routers return differs; what they weigh does not
        self.logits = nn.functional.linear(rows, weight.detach().float(), None if bias is None else bias.float())
        self._tell(output)

    def of_holder(self, holder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.logits is None or self._tell(output):
            return
        if self.count is None:
            raise ValueError(f"the router of {self.told!r} does not say which experts it chose, nor does the config")
        logits, self.logits = self.logits, None
        self.take(self.told, logits, logits.topk(min(self.count, logits.shape[-1])).indices)

    def _tell(self, output: Any) -> bool:
        """Whether the experts are named in ``output``: the first tensor of whole numbers, one row a token."""
        assert self.logits is not None
        whole = (one.flatten(0, -2) for one in _tensors(output) if not one.is_floating_point() and one.ndim > 1)
        chosen = next((one for one in whole if len(one) == len(self.logits)), None)
        if chosen is None:
            return False
        logits, self.logits = self.logits, None
        self.take(self.told, logits, chosen)
        return True


def _tensors(output: Any) -> list[Tensor]:
    given = output if isinstance(output, tuple | list) else (output,)
    return [one.detach() for one in given if isinstance(one, Tensor) and one.ndim]


def _named(config: Any, names: tuple[str, ...]) -> int | None:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    places = [one for one in (text, getattr(text, "ffn_config", None)) if one is not None]  # DBRX keeps them apart
    found = (getattr(place, name, None) for place in places for name in names)
    return next((one for one in found if isinstance(one, int)), None)
