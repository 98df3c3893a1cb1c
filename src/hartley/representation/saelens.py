"""Sparse autoencoders that SAELens has written: a folder with ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hartley.info.checks import check_count, check_one_of

ARCHITECTURES = ("standard", "topk", "jumprelu")
PLAIN = {  # what the settings may be, besides missing; anything else computes something that is not computed here
    "normalize_activations": ("none", None),
    "reshape_activations": ("none", None),
    "activation_fn": ("relu", None),
    "activation_fn_str": ("relu", None),
    "finetuning_scaling_factor": (False, None),
}


class UntiedSAE(nn.Module):
    """A sparse autoencoder with an encoder and a decoder of its own; `load_saelens` makes one.

    x = h - b_dec, or h where the folder says so; a = ReLU(x W_enc + b_enc), of which "topk" keeps the k largest of a
    row and "jumprelu" those whose sum before the ReLU is above their threshold; h_hat = a W_dec + b_dec. Shapes: W_enc
    [N, K], b_enc [K], W_dec [K, N], b_dec [N], threshold [K]; float32.
    """

    def __init__(
        self, weights: dict[str, Tensor], *, subtract_bias: bool, k: int | None = None, config: dict[str, Any]
    ) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, value.float())
        self.subtract_bias = subtract_bias
        self.k = k
        self.config = config

    def encode(self, x: Tensor) -> Tensor:
        """Codes [..., K], none negative, of activations [..., N]."""
        w = dict(self.named_buffers())
        before = (x - w["b_dec"] if self.subtract_bias else x) @ w["W_enc"] + w["b_enc"]
        codes = torch.relu(before)
        if "threshold" in w:
            codes = codes * (before > w["threshold"])
        if self.k is None:
            return codes
        largest, places = codes.topk(self.k, dim=-1)
        return torch.zeros_like(codes).scatter(-1, places, largest)

    def decode(self, x: Tensor) -> Tensor:
        """Activations [..., N] of codes [..., K]."""
        w = dict(self.named_buffers())
        return x @ w["W_dec"] + w["b_dec"]

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction [..., N] of activations [..., N]."""
        return self.decode(self.encode(x))


def load_saelens(folder: str | os.PathLike[str]) -> UntiedSAE:
    """Read the sparse autoencoder that SAELens wrote into ``folder``, without SAELens; nothing is unpickled.

    Understood are the architectures "standard" (with ReLU), "topk" and "jumprelu", the last also what SAELens makes of
    a batch top-k autoencoder. What else the settings may ask for (gated and other architectures, normalised or
    reshaped activations, finetuning factors) is refused by name, never left out. ``config`` keeps ``cfg.json``, where
    "hook_name" or "metadata" says which activations it reads.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that cannot be read, weights that do not
    fit the settings, and settings that are not understood.

    >>> sae = load_saelens("gpt2-small/blocks.8.hook_resid_pre")  # doctest: +SKIP
    >>> measure_superposition(model, batches, "transformer.h.7", sae=sae)  # doctest: +SKIP

    Source: the format of SAELens 6, compared with what it computes in version 6.54.
    """
    path = Path(folder)
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (path / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {path}; SAELens writes both beside each other")
    try:
        config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
        n, k = config["d_in"], config["d_sae"]
        subtract = config["apply_b_dec_to_input"]
        architecture = config["architecture"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / 'cfg.json'} is not a configuration of SAELens: {error!r}") from error
    check_one_of("architecture", architecture, ARCHITECTURES)
    for name, allowed in PLAIN.items():
        if config.get(name) not in allowed:
            raise ValueError(f"{name} must be {allowed[0]!r} to be read here; {path / 'cfg.json'} has {config[name]!r}")
    for name, value, kind in (("d_in", n, int), ("d_sae", k, int), ("apply_b_dec_to_input", subtract, bool)):
        if type(value) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}; {path / 'cfg.json'} has {value!r}")
    weights = _weights(path / "sae_weights.safetensors", n, k, architecture == "jumprelu")
    top = None
    if architecture == "topk":
        top = config.get("k")
        if top is None:
            raise ValueError(f"k must be given for the architecture 'topk'; {path / 'cfg.json'} has none")
        check_count("k", top)
        if top > k:
            raise ValueError(f"k must be at most the {k} features; got {top}")
        if config.get("rescale_acts_by_decoder_norm"):  # codes count as if all rows of the decoder had norm 1
            norm = weights["W_dec"].norm(dim=1)
            weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norm, weights["b_enc"] * norm
            weights["W_dec"] = weights["W_dec"] / norm.clamp(min=1e-8)[:, None]
    return UntiedSAE(weights, subtract_bias=subtract, k=top, config=config)


def _weights(path: Path, n: int, k: int, threshold: bool) -> dict[str, Tensor]:
    try:
        found = {name: value.float() for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    shapes = {"W_enc": (n, k), "b_enc": (k,), "W_dec": (k, n), "b_dec": (n,)}
    shapes |= {"threshold": (k,)} if threshold else {}
    if found.keys() != shapes.keys():
        raise ValueError(f"{path} must hold {', '.join(shapes)}; it has {', '.join(sorted(found))}")
    for name, shape in shapes.items():
        if found[name].shape != shape or not bool(found[name].isfinite().all()):
            raise ValueError(f"{name} must hold finite numbers of shape {shape}; it has {tuple(found[name].shape)}")
    return found
