"""Neural codes: which units of a network an example switches on, as bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hartley.info.checks import check_count
from hartley.representation.recorder import record

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Tanh,
)  # fmt: skip


@torch.no_grad()
def neural_code(
    model: nn.Module,
    x: ArrayLike | Tensor,
    layers: Sequence[str] | None = None,
    *,
    threshold: float = 0.0,
    packed: bool = False,
    batch_size: int = 1024,
) -> Tensor:
    """Return one bit for each activation unit and example: 1 where the unit's output is above ``threshold``.

    Parameters
    ----------
    model
        Run in evaluation mode, where an example's code does not depend on its batch; every module's mode is put back.
    x
        ``[N, ...]``, given to the model in batches of ``batch_size``.
    layers
        Names out of ``model.named_modules()``: the modules whose output is read, in the order of the bits. None takes
        all modules of torch's activations that have two signs (ReLU, GELU, SiLU, Tanh...). A module that runs several
        times gives its bits each time; ``F.relu`` is no module: name one that takes its result in, or make it one.
    packed
        True packs 8 bits into a byte (``numpy.packbits``), batch by batch, for `hamming_neighbors`.

    Returns
    -------
    Bool ``[N, B]``, or uint8 ``[N, ceil(B / 8)]``, in main memory; feature maps are flattened. Examples of equal codes
    lie in one linear region of a ReLU network. Smooth activations have no such regions: there a code says signs only.

    Raises
    ------
    ValueError
        For a model without such modules, names it has not, a layer that does not run or does not give N rows, NaN or
        infinity in a layer (naming it), and no examples.

    >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU())
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    >>> neural_code(model, [[1.0, 2.0], [-1.0, 2.0], [0.0, -1.0]]).int()
    tensor([[1, 1, 0],
            [0, 1, 0],
            [0, 0, 1]], dtype=torch.int32)

    Source: He et al. 2021, "Neural networks behave as hash encoders", section 3.
    """
    check_count("batch_size", batch_size)
    names = _activations(model) if layers is None else list(layers)
    if not names:
        raise ValueError("layers must name at least one module; got none")
    rows = _placed(x, model)
    passes: dict[str, list[Tensor]] = {}

    def take(name: str, values: Tensor) -> None:
        passes.setdefault(name, []).append((values > threshold).cpu())

    codes: list[Tensor] = []
    with _evaluating(model), record(model, names, take):
        for batch in rows.split(batch_size):
            passes.clear()
            model(batch)
            bits = torch.cat([_flat(name, bits, len(batch)) for name in names for bits in _ran(name, passes)], 1)
            codes.append(_pack(bits) if packed else bits)
    return torch.cat(codes)


def _activations(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, ACTIVATIONS)]
    if not names:
        raise ValueError(
            "model has no module of an activation with two signs, such as nn.ReLU; name the modules to read in layers="
        )
    return names


def _placed(x: ArrayLike | Tensor, model: nn.Module) -> Tensor:
    """The examples where the model's first parameter lies, in its precision."""
    rows = torch.as_tensor(x)
    if rows.ndim == 0 or not len(rows):
        raise ValueError(f"x must have shape [N, ...] with at least one example; got {tuple(rows.shape)}")
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None:
        return rows
    return rows.to(first.device, first.dtype if rows.is_floating_point() else rows.dtype)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _ran(name: str, passes: dict[str, list[Tensor]]) -> list[Tensor]:
    if name not in passes:
        raise ValueError(f"layers must run in the model's forward pass; {name!r} does not")
    return passes[name]


def _flat(name: str, bits: Tensor, count: int) -> Tensor:
    if bits.ndim == 0 or len(bits) != count:
        raise ValueError(f"layers must give one row an example; {name!r} gave {tuple(bits.shape)} for {count}")
    return bits.reshape(count, -1)


def _pack(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1))
