"""What each layer of a network encodes now, as named numbers that any trainer can log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hartley.info.checks import check_count
from hartley.representation.diffusion_spectral import diffusion_spectral_entropy
from hartley.representation.hash_codes import HashCodes
from hartley.representation.recorder import call, record
from hartley.representation.reservoir import Reservoir
from hartley.representation.spectrum import CovarianceSpectrum


def layer_measures(
    model: nn.Module, batches: Iterable[Any], layers: Sequence[str], *, rows: int = 1024
) -> dict[str, float]:
    """Return effective rank, diffusion spectral entropy and code entropy of the named layers' outputs.

    Parameters
    ----------
    model
        Run once over the batches, in evaluation mode, without gradients; left in the mode it was in.
    batches
        Inputs: a tensor, a tuple of positional or a mapping of keyword arguments each. Where a mapping has an
        ``attention_mask [B, T]`` and a layer gives ``[B, T, D]``, padding is left out.
    layers
        Names out of ``model.named_modules()``; the last axis of what they give are its features.
    rows
        Sampled for the spectral entropy, whose bandwidth is the median distance between them; it depends on their
        number, so compare what shares it.

    Returns
    -------
    ``{"effective_rank/LAYER": directions, "dse/LAYER": bits, "code_entropy/LAYER": nats}``. A code is which features
    are above 0, so its entropy is about regions for ReLUs, and about signs elsewhere.

    Raises
    ------
    ValueError
        For unknown layers, no batches, and NaN, naming the layer.

    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
    >>> sorted(layer_measures(model, [torch.eye(2)], ["1"]))
    ['code_entropy/1', 'dse/1', 'effective_rank/1']
    """
    check_count("rows", rows)
    spectra = {name: CovarianceSpectrum() for name in layers}
    samples = {name: Reservoir(rows) for name in layers}
    codes = {name: HashCodes() for name in layers}
    mask: Tensor | None = None

    def take(name: str, values: Tensor) -> None:
        kept = values[mask] if mask is not None and values.shape[:2] == mask.shape else values
        flat = kept.reshape(-1, kept.shape[-1]).float()
        spectra[name].partial_fit(flat)
        samples[name].partial_fit(flat)
        codes[name].partial_fit(flat)

    training, seen = model.training, False
    model.eval()
    try:
        with torch.no_grad(), record(model, layers, take):
            for batch in batches:
                seen = True
                given = batch.get("attention_mask") if isinstance(batch, Mapping) else None
                mask = None if given is None else given.bool()
                call(model, batch)
    finally:
        model.train(training)
    if not seen:
        raise ValueError("batches must hold at least one batch; got none")
    found: dict[str, float] = {}
    for name in layers:
        found[f"effective_rank/{name}"] = float(spectra[name].effective_rank_)
        found[f"dse/{name}"] = diffusion_spectral_entropy(samples[name].sample_, sigma="median")
        found[f"code_entropy/{name}"] = float(codes[name].entropy_)
    return found


def measures_of(
    batches: Sequence[Any], layers: Sequence[str], *, rows: int = 1024
) -> Callable[[Any], dict[str, float]]:
    """Return `layer_measures` as a function of the model alone, as `MeasureCallback` takes it.

    >>> measure = measures_of([torch.eye(2)], ["0"])
    >>> len(measure(nn.Sequential(nn.Linear(2, 8))))
    3
    """
    return lambda model: layer_measures(model, batches, layers, rows=rows)
