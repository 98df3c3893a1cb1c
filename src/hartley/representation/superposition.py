"""How many features a layer of a network holds for each of its neurons, measured while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hartley.representation.recorder import call, record
from hartley.representation.reservoir import Reservoir
from hartley.representation.sparse_autoencoder import (
    Dictionary,
    Meter,
    SparseAutoencoder,
    Superposition,
)


def measure_superposition(
    model: nn.Module,
    batches: Iterable[Any],
    layer: str,
    *,
    sae: SparseAutoencoder | Dictionary | None = None,
) -> Superposition:
    """Measure the effective features of one layer's outputs, and how well they are reconstructed.

    Parameters
    ----------
    model, layer
        Any torch module, run as it is (call ``eval()`` yourself), and a name out of ``model.named_modules()``.
    batches
        What the model is called with: a tensor, a tuple of arguments, or a mapping of keyword arguments, each.
    sae
        None or an unfitted `SparseAutoencoder` (its settings): a uniform sample of at most its ``max_samples`` rows is
        kept and the autoencoder trained and measured on it, so the error is that of the rows it learned from. Anything
        else with ``encode`` and ``decode``, such as a fitted one's ``sae_`` or `load_saelens`'s, measures all rows as
        they pass, in float32 on the CPU.

    A row is one position: outputs [..., N] are read along the last axis, and 4-D ones [B, C, H, W] as pictures, N
    being the C channels. (Summing the codes over the positions first, as the paper does, gives the same F.)

    Returns a `Superposition`. F depends on the autoencoder: compare layers and models under one setting only, and by
    several seeds. Raises ``ValueError`` for an unknown layer, NaN and infinity (naming the layer), and no rows.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> settings = SparseAutoencoder(learning_rate=1e-2, random_state=0)
    >>> found = measure_superposition(net, [torch.randn(256, 4)], "1", sae=settings)
    >>> found.n_samples, found.l0 <= 12
    (256, True)

    Source: Bereska et al. 2025, "Superposition as Lossy Compression", arXiv 2512.13568.
    """
    if not (sae is None or isinstance(sae, SparseAutoencoder)):
        meter = Meter(sae)
        _run(model, batches, layer, meter.add)
        return meter.read()
    settings = {"random_state": 0} if sae is None else sae.get_params()
    learner = SparseAutoencoder(**settings)  # the caller's own stays as it is
    kept = Reservoir(learner.max_samples)
    _run(model, batches, layer, kept.partial_fit)
    if not kept.n_seen_:
        raise ValueError(f"batches must give layer {layer!r} at least one row; got none")
    return learner.fit(kept.sample_).measure(kept.sample_)


def _run(model: nn.Module, batches: Iterable[Any], layer: str, take: Callable[[Tensor], Any]) -> None:
    """Hand the layer's outputs to ``take`` as rows [B, N], float32 on the CPU."""
    with record(model, [layer], lambda _, values: take(_flat(values))), torch.no_grad():
        for batch in batches:
            call(model, batch)


def _flat(values: Tensor) -> Tensor:
    if values.ndim == 4:
        values = values.movedim(1, -1)
    return values.reshape(-1, values.shape[-1]).to("cpu", torch.float32)
