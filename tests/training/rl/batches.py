"""Batches of responses from a seed, as policy losses take them."""

import torch


def batch(seed, rows=6, length=7, dtype=torch.float64, drift=0.3):
    """Log-probabilities now and before, advantages and mask ``[B, T]``."""
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, length, generator=generator, dtype=dtype) * 3 - 0.01
    log_prob = old + drift * torch.randn(rows, length, generator=generator, dtype=dtype)
    advantages = torch.randn(rows, 1, generator=generator, dtype=dtype).expand(rows, length)
    mask = torch.rand(rows, length, generator=generator) < 0.7
    mask[0, 0] = True
    return log_prob, old, advantages, mask


def gradient(loss, log_prob, *rest, **settings):
    """The loss and its gradient by ``log_prob``."""
    log_prob = log_prob.detach().clone().requires_grad_()
    value, _ = loss(log_prob, *rest, **settings)
    (found,) = torch.autograd.grad(value, log_prob)
    return value.detach(), found
