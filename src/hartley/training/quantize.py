"""Low-bit weights for training and for counting: fake quantisation, and the bits that a model takes.

Fake quantisation rounds to a grid and gives the rounded number back in the original dtype, with a gradient that goes
straight through. The accounting counts each weight at its width, each scale (and zero point) of a group, and
everything that is not quantised at its own.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hartley.info.checks import check_count, check_one_of

Format = Literal["int", "fp4_e2m1", "fp8_e4m3"]

FLOATS = {"fp4_e2m1": (4, 1, 0, 6.0), "fp8_e4m3": (8, 3, -6, 448.0)}
"""Bits, bits of the mantissa, least exponent and largest number of each floating-point grid."""


def fake_quantize(
    w: Tensor, bits: int, group_size: int | None = None, symmetric: bool = True, fmt: Format = "int"
) -> Tensor:
    """Return ``w`` rounded, half to even, to a grid of ``bits`` bits, with a gradient of 1 inside it and 0 outside.

    Parameters
    ----------
    w
        [..., D], floating point. Each row along the last axis has a scale of its own, or each group of ``group_size``
        neighbours in it, which must divide D. Computed in float32 at least, returned in the dtype of ``w``.
    bits
        2 to 16; 1 for asymmetric integers; 4 and 8 for the two floating-point formats.
    symmetric
        For "int": True has codes -2^(b-1) .. 2^(b-1) - 1 and scale max|w| / (2^(b-1) - 1); False has codes
        0 .. 2^b - 1 over [min(w, 0), max(w, 0)] with a rounded zero point.
    fmt
        "int"; "fp4_e2m1": ±{0, 0.5, 1, 1.5, 2, 3, 4, 6} with scale max|w| / 6; "fp8_e4m3": up to 448.

    0 stays 0, and a row of zeros has scale 1. Inside the grid the error is at most half a step. The scale is a constant
    for the gradient. Raises ``ValueError`` for settings that do not fit and values that are not finite, ``TypeError``
    for what is no floating point.

    >>> fake_quantize(torch.tensor([[0.1, -0.4, 1.0]]), bits=3)
    tensor([[ 0.0000, -0.3333,  1.0000]])
    >>> fake_quantize(torch.tensor([[0.3, -2.4, 6.0]]), bits=4, fmt="fp4_e2m1")
    tensor([[ 0.5000, -2.0000,  6.0000]])

    Source: Bengio et al. 2013, arXiv 1308.3432, for the gradient; the grids as in arXiv 2501.06218 (reconstructed).
    """
    _check_grid(bits, group_size, symmetric, fmt)
    if not w.is_floating_point():
        raise TypeError(f"w must be floating point; got {w.dtype}")
    if w.ndim == 0 or w.shape[-1] == 0:
        raise ValueError(f"w must be [..., D] with D at least 1; got shape {tuple(w.shape)}")
    if group_size is not None and w.shape[-1] % group_size:
        raise ValueError(f"group_size must divide the last axis of w, {w.shape[-1]}; got {group_size}")
    x = w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
    grouped = x if group_size is None else x.unflatten(-1, (-1, group_size))
    with torch.no_grad():
        if not bool(grouped.isfinite().all()):
            raise ValueError("w must be finite; got NaN or inf")
        if fmt == "int":
            found, inside = _to_integers(grouped, bits, symmetric)
        else:
            found, inside = _to_floats(grouped, fmt), torch.ones_like(grouped, dtype=torch.bool)
        found, inside = (each.reshape(x.shape) for each in (found, inside))
    passed = x * inside
    return (found + (passed - passed.detach())).to(w.dtype)


def quantize_model_(
    model: nn.Module,
    w_bits: int,
    a_bits: int | None = None,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    fmt: Format = "int",
    skip: tuple[str, ...] = (),
) -> nn.Module:
    """Fake-quantise the weights of the linear layers of ``model``, in place, and return it.

    The full-precision weights stay underneath and are what an optimiser trains; each forward pass rounds them again
    with `fake_quantize`. So the same call serves rounding after training and training with rounding.

    Parameters
    ----------
    w_bits, group_size, symmetric, fmt
        As in `fake_quantize`; a row is an output channel.
    a_bits
        Round the input of each of these layers too, to symmetric integers of this width with a scale for each token.
    skip
        Names of layers to leave alone, with wildcards: ``("lm_head", "*.gate")``.

    ``parametrize.remove_parametrizations(layer, "weight")`` makes the rounded weights the real ones. Raises
    ``ValueError`` where no layer is left, where one is quantised already or shares its weight with a module that is
    not, and as `fake_quantize`.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> len(quantize_model_(model, 3, skip=("2",))[0].weight[0].unique()) <= 8
    True
    """
    _check_grid(w_bits, group_size, symmetric, fmt)
    if a_bits is not None:
        _check_grid(a_bits, None, True, "int")
    chosen = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(fnmatchcase(name, pattern) for pattern in skip)
    }
    if not chosen:
        raise ValueError(f"skip must leave at least one linear layer of the model; got {skip!r}")
    for name, layer in chosen.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"model must not be quantised already; got a parametrised weight in {name!r}")
        if group_size is not None and layer.in_features % group_size:
            raise ValueError(f"group_size must divide the inputs of {name!r}, {layer.in_features}; got {group_size}")
    weights = {id(layer.weight): name for name, layer in chosen.items()}
    for owner, module in model.named_modules():
        for own in module.parameters(recurse=False):
            if id(own) in weights and owner not in chosen:
                name = weights[id(own)]
                raise ValueError(f"skip must hold {name!r}, whose weight is also that of {owner!r}, which stays whole")
    for layer in chosen.values():
        parametrize.register_parametrization(layer, "weight", _FakeQuantize(w_bits, group_size, symmetric, fmt))
        if a_bits is not None:
            layer.register_forward_pre_hook(_Round(a_bits))
    return model


def total_bits(model: nn.Module, *, scale_bits: int = 16, other_bits: int | None = None) -> float:
    """Return the bits that the parameters of ``model`` take, as `quantize_model_` left it.

    A quantised weight counts at its width, plus ``scale_bits`` for each row or group, plus a zero point of the weight's
    width where the grid is asymmetric. Everything else (embeddings, norms, biases, skipped layers) counts at
    ``other_bits``, or at the width of its dtype. A tensor that several modules share counts once; buffers do not count.

    Raises ``ValueError`` for widths below 1.

    >>> layer = quantize_model_(nn.Linear(1000, 1000, bias=False), 4, group_size=100)
    >>> total_bits(layer)
    4160000.0
    """
    check_count("scale_bits", scale_bits)
    if other_bits is not None:
        check_count("other_bits", other_bits)
    grids: dict[int, _FakeQuantize] = {}
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parts: Any = module.parametrizations["weight"]  # type: ignore[index]
            grids.update({id(parts.original): part for part in parts if isinstance(part, _FakeQuantize)})
    total = 0.0
    for own in model.parameters():
        grid = grids.get(id(own))
        if grid is None:
            total += own.numel() * (other_bits or 8 * own.element_size())
        else:
            groups = own.numel() // (grid.group_size or own.shape[-1])
            total += own.numel() * grid.bits + groups * (scale_bits + (0 if grid.symmetric else grid.bits))
    return total


class _FakeQuantize(nn.Module):
    """`fake_quantize` of a weight, as a parametrisation."""

    def __init__(self, bits: int, group_size: int | None, symmetric: bool, fmt: Format) -> None:
        super().__init__()
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric
        self.fmt: Format = fmt

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.bits, self.group_size, self.symmetric, self.fmt)


class _Round:
    """A hook that rounds what comes into a layer, token by token."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (fake_quantize(inputs[0], self.bits), *inputs[1:])


def _check_grid(bits: int, group_size: int | None, symmetric: bool, fmt: Format) -> None:
    check_one_of("fmt", fmt, get_args(Format))
    check_count("bits", bits)
    if group_size is not None:
        check_count("group_size", group_size)
    if fmt != "int":
        if bits != FLOATS[fmt][0]:
            raise ValueError(f"bits must be {FLOATS[fmt][0]} for {fmt!r}; got {bits}")
        if not symmetric:
            raise ValueError(f"symmetric must be True for {fmt!r}, which has a sign; got False")
    elif not (2 if symmetric else 1) <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16 (from 1 where symmetric is False); got {bits}")


def _to_integers(w: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The rounded numbers, and where the grid had room for them."""
    if symmetric:
        least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        low, high = torch.zeros_like(w[..., :1]), w.abs().amax(-1, keepdim=True)
    else:
        least, most = 0, 2**bits - 1
        low, high = w.amin(-1, keepdim=True).clamp(max=0), w.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / most
    scale = torch.where(scale > 0, scale, 1)
    zero = (-low / scale).round()
    code = (w / scale).round() + zero
    return scale * (code.clamp(least, most) - zero), (code >= least) & (code <= most)


def _to_floats(w: Tensor, fmt: str) -> Tensor:
    _, mantissa, least, largest = FLOATS[fmt]
    scale = w.abs().amax(-1, keepdim=True) / largest
    x = w / torch.where(scale > 0, scale, 1)
    exponent = (x.frexp().exponent - 1).clamp(min=least)  # a power of two is the least number of its binade
    step = torch.ldexp(torch.ones_like(x), exponent - mantissa)
    return ((x / step).round() * step).clamp(-largest, largest) * torch.where(scale > 0, scale, 1)
