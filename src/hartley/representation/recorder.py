"""Take what a network's modules put out while it runs, and leave the network as it was."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hartley.info.checks import check_one_of

Part = Literal["output", "input", "weights"]
Take = Callable[[str, Tensor], None]


@contextmanager
def record(
    model: nn.Module, modules: Sequence[str], take: Take | None = None, *, of: Part = "output"
) -> Iterator[dict[str, Tensor]]:
    """Hand what the named modules give in each forward pass to ``take``, or keep the last of it in a dictionary.

    Parameters
    ----------
    model
        Any torch module; its parameters may lie on several devices. Tensors are handed on where they lie.
    modules
        Names out of ``model.named_modules()``.
    take
        Called as ``take(name, values)`` at every pass of that module; what it does not keep is freed. Without it, the
        dictionary that the context gives holds each module's last values by name.
    of
        "output": what the module returns (the first tensor, where it returns several); "input": the first tensor it was
        given; "weights": the second tensor it returns, which in the attention modules of transformers, loaded with
        ``attn_implementation="eager"``, are the attention weights ``[B, H, Q, K]``.

    Values are detached, not copied, so a ``take`` that keeps them and a network that works in place disagree. The hooks
    are gone when the context is left, also by an error.

    Raises
    ------
    ValueError
        For a name that the model has not, naming the nearest; a scripted module, which calls no hooks; a module that
        gives no such tensor; and NaN or infinity among the values, naming the layer.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with record(model, ["1"]) as taken:
    ...     _ = model(torch.ones(2, 4))
    >>> taken["1"].shape
    torch.Size([2, 3])
    """
    check_one_of("of", of, ("output", "input", "weights"))
    found = dict(model.named_modules())
    kept: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in modules:
            module = _module(found, name)
            hooks.callback(
                module.register_forward_hook(_hook(name, of, take or kept.__setitem__), with_kwargs=True).remove
            )
        yield kept


def call(model: nn.Module, batch: Any) -> Any:
    """Run ``model`` on one batch: a tensor, a tuple or list of positional arguments, or a mapping of keyword ones.

    >>> call(nn.Identity(), (torch.ones(2),))
    tensor([1., 1.])
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def _module(found: dict[str, nn.Module], name: str) -> nn.Module:
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0)
        raise ValueError(f"modules: the model has no module {name!r}; the nearest name is {near[0]!r}")
    if isinstance(found[name], torch.jit.ScriptModule):
        raise ValueError(
            f"modules: {name!r} is a scripted module, which calls no hooks; give the module it was made of"
        )
    return found[name]


def _hook(name: str, of: Part, take: Take) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = (
            (*args, *kwargs.values()) if of == "input" else output if isinstance(output, tuple | list) else (output,)
        )
        tensors = [value for value in given if isinstance(value, Tensor)]
        place = 1 if of == "weights" else 0
        if len(tensors) <= place:
            raise ValueError(f"layer {name!r} gave no {_MISSING[of]}")
        values = tensors[place].detach()
        if values.is_floating_point() and not bool(values.isfinite().all()):
            bad = "NaN" if bool(values.isnan().any()) else "infinity"
            raise ValueError(f"layer {name!r} gave {bad}; what it encodes cannot be measured")
        take(name, values)

    return hook


_MISSING = {
    "output": "tensor; record a module that returns one",
    "input": "input that is a tensor",
    "weights": "attention weights; load the model with attn_implementation='eager'",
}
