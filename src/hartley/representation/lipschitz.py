"""By how much a module can stretch a distance: largest singular values, and Lipschitz constants of common layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
AVERAGES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
NORMALISED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STEEPEST: dict[type[nn.Module], float] = {  # of elementwise functions the largest slope; softmax in Euclidean norm
    nn.Identity: 1, nn.Flatten: 1, nn.Dropout: 1, nn.Dropout1d: 1, nn.Dropout2d: 1, nn.Dropout3d: 1, nn.ReLU: 1,
    nn.ReLU6: 1, nn.Tanh: 1, nn.Softplus: 1, nn.Sigmoid: 0.25, nn.GELU: 1.12905, nn.SiLU: 1.09985, nn.Softmax: 0.5,
}  # fmt: skip


def operator_norm(
    module: nn.Module, input_shape: Sequence[int] = (), *, rtol: float = 1e-7, max_iter: int = 2000
) -> float:
    """Return the largest singular value of a linear (or affine) ``module`` on inputs of ``input_shape``.

    ``input_shape`` is without the batch axis. ``nn.Linear`` needs none: from its weight, exactly. Anything else
    (convolutions, pooled averages): power iteration with the module and its transpose, in float64, until a step changes
    the value by less than ``rtol`` of it; it comes from below. The reshaped kernel of a convolution would give another
    number.

    >>> operator_norm(nn.AvgPool1d(2), (1, 8))
    0.7071067...

    Source: Golub & Van Loan, "Matrix Computations", section 8.2.
    """
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(module.weight.detach().double(), ord=2))
    double = copy.deepcopy(module).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn((1, *input_shape), generator=generator, dtype=torch.float64)
    v = v.to(next((p.device for p in double.parameters()), v.device))
    origin = double(torch.zeros_like(v))
    before = 0.0
    for _ in range(max_iter):
        v = (v / v.norm()).requires_grad_()
        with torch.enable_grad():
            u = double(v) - origin
            norm = float(u.detach().norm())
            if abs(norm - before) <= rtol * norm:
                return norm
            (v,) = torch.autograd.grad(u, v, u.detach())
        before = norm
    return before


def lipschitz_constant(module: nn.Module, input_shape: Sequence[int] = ()) -> float:
    """Return a Lipschitz constant, in Euclidean norm, of one layer in evaluation mode.

    Knows linear and convolutional layers, average and max pooling, batch normalisation, dropout (which evaluation
    leaves out) and the usual elementwise activations; ``input_shape``, without the batch axis, is needed by
    convolutions and averages. Raises ``ValueError`` for a layer of another kind (layer normalisation has no useful
    constant) and one in training mode.

    >>> lipschitz_constant(nn.Sigmoid())
    0.25
    """
    if module.training and isinstance(module, (*NORMALISED, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)):
        raise ValueError(
            f"model must be in evaluation mode (model.eval()); {type(module).__name__} is in training mode"
        )
    if isinstance(module, (nn.Linear, *CONVOLUTIONS, *AVERAGES)):
        return operator_norm(module, input_shape)
    if isinstance(module, NORMALISED) and module.running_var is not None:
        slopes = (module.running_var + module.eps).rsqrt()
        return float((slopes if module.weight is None else slopes * module.weight.detach().abs()).max())
    if isinstance(module, nn.LeakyReLU):
        return max(1.0, abs(module.negative_slope))
    if isinstance(module, nn.ELU):
        return max(1.0, abs(module.alpha))
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return math.sqrt(_windows(module))
    constant = STEEPEST.get(type(module))
    if constant is None:
        raise ValueError(
            f"model must be of layers with a known Lipschitz constant; got {type(module).__name__}: "
            "give tails={layer name: Lipschitz constant of all that follows it}"
        )
    return float(constant)


def _windows(pool: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) -> int:
    """In how many windows of a max pool one input can be."""
    axes = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}[type(pool)]
    sizes, strides, dilations = (
        (value,) * axes if isinstance(value, int) else tuple(value)
        for value in (pool.kernel_size, pool.stride, pool.dilation)
    )
    return math.prod(
        math.ceil(size * math.gcd(stride, dilation) / stride)
        for size, stride, dilation in zip(sizes, strides, dilations, strict=True)
    )
