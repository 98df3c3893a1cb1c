"""The generalisation funnel: the layer of a trained network at which the bound on its gap is the tightest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hartley.info.checks import check_count
from hartley.representation.generalization import CROSS_ENTROPY, wasserstein_bound
from hartley.representation.lipschitz import CONVOLUTIONS, lipschitz_constant
from hartley.representation.recorder import record
from hartley.representation.reservoir import Reservoir
from hartley.representation.sample_distances import Method, flat_rows

INPUT = "input"
BATCH = 256  # examples of a pair (X, y) that go through the network together


@dataclass(frozen=True)
class Funnel:
    """The Wasserstein bound at every layer, from the input to the output."""

    layers: tuple[str, ...]  # "input", then names of modules
    bounds: tuple[float, ...]  # in units of the loss
    distances: tuple[float, ...]  # within classes, train to test, in units of the representation
    tails: tuple[float, ...]  # Lipschitz constants of what follows

    @property
    def layer(self) -> str:
        """The generalisation funnel: the layer whose bound is the smallest."""
        return self.layers[int(np.argmin(self.bounds))]


def generalization_funnel(
    model: nn.Module,
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    tails: Mapping[str, float] | None = None,
    lipschitz_loss: float = CROSS_ENTROPY,
    method: Method = "sliced",
    n_projections: int = 128,
    max_samples: int = 2000,
    random_state: int = 0,
) -> Funnel:
    """Return the bound of `wasserstein_bound` at each layer of a trained classifier, and which layer is the tightest.

    Parameters
    ----------
    model
        In evaluation mode. A ``torch.nn.Sequential`` (nested ones too) of layers that `lipschitz_constant` knows: the
        layers looked at are what enters each linear or convolutional layer, and the output.
    train, test
        A pair ``(X, y)``, or an iterable of such batches, as a DataLoader gives; ``y`` holds classes. The held-out
        examples should have their labels in about the same shares.
    tails
        For any other network: the layers to look at, by their names in ``model.named_modules()`` (or "input"), each
        with a Lipschitz constant of all that follows it.
    lipschitz_loss, method, n_projections, random_state
        As in `wasserstein_bound`.
    max_samples
        How many examples of each side are looked at, the same whatever their order and batches; the network runs on
        these alone. Memory is this times the width of all layers together.

    Returns
    -------
    :class:`Funnel`. From one trained network it is the proxy that `hartley.representation.generalization` speaks of;
    products of operator norms are loose, and values above any possible gap are common. Compare layers, sizes of the
    training set and ways to train. For ReLU networks, a factor moved from one layer's weights to the next's changes
    nothing.

    Raises
    ------
    ValueError
        A model in training mode or with a layer whose Lipschitz constant is not known (give ``tails``), no examples, a
        class that is only on one side, NaN in a layer, which it names.

    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0)
    ...     model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    >>> x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    >>> generalization_funnel(model, (x[:20], y[:20]), (x[20:], y[20:])).layers
    ('input', '1', '2')

    Source: He & Goldfeld 2025, arXiv 2404.03176, the generalisation funnel.
    """
    check_count("max_samples", max_samples)
    if not isinstance(model, nn.Sequential) and tails is None:
        raise ValueError(
            f"model must be a torch.nn.Sequential, or come with tails={{layer name: Lipschitz constant of all that "
            f"follows it}}; got {type(model).__name__} without"
        )
    if model.training:
        raise ValueError("model must be in evaluation mode (model.eval()); got training mode")
    train, test = _batches("train", train), _batches("test", test)
    first = next((x[:1] for x, _ in train), None)
    if first is None:
        raise ValueError("train must hold at least one batch; got none")
    constants = dict(tails) if tails is not None else _tails(cast(nn.Sequential, model), first)
    layers = tuple(constants)
    (x_train, y_train), (x_test, y_test) = (_sample(data, max_samples, random_state) for data in (train, test))
    reps_train, reps_test = (_values(model, layers, x) for x in (x_train, x_test))
    found = [
        wasserstein_bound(
            reps_train[layer],
            reps_test[layer],
            constants[layer],
            lipschitz_loss=lipschitz_loss,
            labels_train=y_train,
            labels_test=y_test,
            method=method,
            n_projections=n_projections,
            random_state=random_state,
        )
        for layer in layers
    ]
    return Funnel(
        layers,
        tuple(b.bound for b in found),
        tuple(b.distance for b in found),
        tuple(float(c) for c in constants.values()),
    )


def _batches(name: str, data: Iterable[Any]) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of examples and classes, from a pair of arrays too."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(v, Tensor | np.ndarray) for v in data):
        x, y = (torch.as_tensor(value) for value in data)
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{name} must be as many classes as examples, at least one; got {len(y)} for {len(x)}")
        return list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    if iter(data) is data:
        raise ValueError(f"{name} must be a pair (X, y) or batches that can be gone through again; got an iterator")
    return data


def _leaves(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in model._modules.items():  # named_children() leaves out a module's second place
        if module is None:
            continue
        if isinstance(module, nn.Sequential):
            yield from _leaves(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


@torch.no_grad()
def _tails(model: nn.Sequential, example: Tensor) -> dict[str, float]:
    """The layers of a chain that are looked at, and the Lipschitz constant of what follows each."""
    leaves = list(_leaves(model))
    if len({id(module) for _, module in leaves}) < len(leaves):
        raise ValueError("model must not hold one module in two places; give each place its own")
    with record(model, [name for name, _ in leaves], of="input") as inputs:
        model(example.to(_device(model)))
    constants = [lipschitz_constant(module, inputs[name].shape[1:]) for name, module in leaves]
    weighted = [isinstance(module, (nn.Linear, *CONVOLUTIONS)) for _, module in leaves]
    found = {INPUT: math.prod(constants)}
    for at, (name, _) in enumerate(leaves):
        if at + 1 == len(leaves) or (weighted[at + 1] and any(weighted[: at + 1])):
            found[name] = math.prod(constants[at + 1 :])
    return found


@torch.no_grad()
def _sample(data: Iterable[tuple[Tensor, Tensor]], size: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """At most ``size`` of the examples and their classes."""
    kept = Reservoir(size, seed)
    like = torch.empty(0)
    for like, y in data:
        kept.partial_fit(torch.cat([like.flatten(1), y[:, None].to(like)], dim=1))
    examples = torch.as_tensor(kept.sample_[:, :-1]).to(like.dtype).reshape(-1, *like.shape[1:])
    return examples, kept.sample_[:, -1]


@torch.no_grad()
def _values(model: nn.Module, layers: Sequence[str], examples: Tensor) -> dict[str, np.ndarray]:
    """The rows of each layer for these examples."""
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    with record(
        model,
        [layer for layer in layers if layer != INPUT],
        lambda name, values: found[name].append(flat_rows(name, values)),
    ):
        for batch in examples.split(BATCH):
            model(batch.to(_device(model)))
            if INPUT in found:
                found[INPUT].append(flat_rows(INPUT, batch))
    return {layer: np.concatenate(rows) for layer, rows in found.items()}


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
