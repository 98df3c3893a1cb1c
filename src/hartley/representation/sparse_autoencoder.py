"""Sparse autoencoders with tied weights: a layer's activations as few of many features, and how many those are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from hartley.info.checks import check_count, check_non_negative, check_positive
from hartley.representation.effective_features import EffectiveFeatures
from hartley.representation.rows import read_rows

L1 = 0.1  # the paper's
ROWS = 4096  # rows that are encoded at once: [ROWS, K] of codes is all that is ever held


class Dictionary(Protocol):
    """Anything that encodes rows [B, N] into codes [B, K] and back: ours, `load_saelens`'s, SAELens's own."""

    def encode(self, x: Tensor, /) -> Tensor:
        """Codes [B, K] of activations [B, N]."""
        ...

    def decode(self, x: Tensor, /) -> Tensor:
        """Activations [B, N] of codes [B, K]."""
        ...


class Superposition(NamedTuple):
    """The effective features of a layer, with what is needed to believe them."""

    effective_features: float  #: F, 1 .. K
    ratio: float  #: psi = F / N; above 1 is superposition
    entropy: float  #: ln F, nats
    dead_fraction: float  #: of the K features, those never active
    l0: float  #: active features in a sample, mean
    reconstruction_error: float  #: sum |h - h_hat|^2 / sum |h|^2; 1 is what reconstructing nothing gives
    unexplained_variance: float  #: sum |h - h_hat|^2 / sum |h - mean|^2; 1 is what the mean alone gives
    n_samples: int


class TiedSAE(nn.Module):
    """a = ReLU(W h + b), h_hat = W^T a, with W [K, N] and b [K]; ``top_k`` keeps only the largest codes of a row.

    No bias in the decoder, no centring, no unit norm. W starts Xavier-uniform, drawn by ``generator``, and b at zero.

    >>> sae = TiedSAE(2, 4)
    >>> _ = sae.weight.data.copy_(torch.cat([torch.eye(2), -torch.eye(2)]))
    >>> sae.encode(torch.tensor([[3.0, -2.0]])).tolist()
    [[3.0, 0.0, 0.0, 2.0]]
    >>> round(sae.loss(torch.tensor([[3.0, -2.0]]), l1_lambda=0.1).item(), 4)  # 0 + 0.1 * 5 / 4
    0.125

    Source: Bereska et al. 2025, arXiv 2512.13568; top-k codes are our addition, after Gao et al. 2024.
    """

    def __init__(
        self, n_in: int, n_dict: int, top_k: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        for name, value in (("n_in", n_in), ("n_dict", n_dict)):
            check_count(name, value)
        if top_k is not None:
            check_count("top_k", top_k)
            if top_k > n_dict:
                raise ValueError(f"top_k must be at most the {n_dict} features; got {top_k}")
        self.top_k = top_k
        bound = math.sqrt(6 / (n_in + n_dict))
        self.weight = nn.Parameter((2 * torch.rand(n_dict, n_in, generator=generator) - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(n_dict))

    def encode(self, x: Tensor) -> Tensor:
        """Codes [B, K], none negative, of activations [B, N]."""
        codes = torch.relu(nn.functional.linear(x, self.weight, self.bias))
        if self.top_k is None:
            return codes
        largest, places = codes.topk(self.top_k, dim=-1)
        return torch.zeros_like(codes).scatter(-1, places, largest)

    def decode(self, x: Tensor) -> Tensor:
        """Activations [B, N] of codes [B, K]."""
        return x @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction [B, N] of activations [B, N]."""
        return self.decode(self.encode(x))

    def loss(self, x: Tensor, l1_lambda: float) -> Tensor:
        """Mean over rows and neurons of (h_hat - h)^2, plus ``l1_lambda`` times the mean over rows and features of a.

        Both are means, so a loss that sums errors over neurons and codes over features has the same optimum at
        ``l1_lambda * N / K``.
        """
        codes = self.encode(x)
        return (self.decode(codes) - x).square().mean() + l1_lambda * codes.mean()


class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A `TiedSAE` trained on activations, in scikit-learn's manners.

    Parameters
    ----------
    expansion_factor
        K = int(expansion_factor N) features for N neurons; at least 1. F cannot exceed K, so it must not bind.
    l1_lambda
        Weight of the mean code in the loss (`TiedSAE.loss`). None is the paper's 0.1, and 0 where ``top_k`` is given.
    top_k
        Keep only this many codes of a row; with ``l1_lambda`` given too, both hold.
    learning_rate, batch_size, max_epochs, patience
        Adam; training ends after ``max_epochs``, or ``patience`` epochs without a lower training loss (the mean over an
        epoch's batches). The weights at the end of the best epoch are kept.
    max_samples
        The most rows that it is trained on, drawn at random out of more.
    random_state
        Seed of the start, the rows and their order.

    Attributes
    ----------
    sae_
        The trained `TiedSAE`, float32.
    components_, intercept_
        Its W [K, N] and b [K], as arrays.
    loss_, n_iter_
        The training loss of the best epoch, and the number of epochs.

    F depends on K, the penalty and the seed: compare it between layers or models only under one setting, and by several
    seeds. Training that ends at ``max_epochs`` warns (``ConvergenceWarning``): it counts too many features. A constant
    neuron is one more thing to reconstruct; a single row is learned by heart.

    >>> rows = torch.rand(256, 3, generator=torch.Generator().manual_seed(0))
    >>> sae = SparseAutoencoder(learning_rate=1e-2, random_state=0).fit(rows)
    >>> sae.transform(rows).shape
    torch.Size([256, 12])
    >>> found = sae.measure(rows)
    >>> 1 <= found.effective_features <= 12 and found.reconstruction_error < 0.01
    True

    Raises ``ValueError`` for settings outside their range, NaN and infinity.

    Source: Bereska et al. 2025, "Superposition as Lossy Compression", arXiv 2512.13568.
    """

    n_features_in_: int  #: N
    sae_: TiedSAE
    components_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    loss_: float
    n_iter_: int

    def __init__(
        self,
        *,
        expansion_factor: float = 4.0,
        l1_lambda: float | None = None,
        top_k: int | None = None,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 800,
        patience: int = 10,
        max_samples: int = 10_000,
        random_state: Any = None,
    ) -> None:
        self.expansion_factor = expansion_factor
        self.l1_lambda = l1_lambda
        self.top_k = top_k
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SparseAutoencoder:
        """Train on activations ``X`` [S, N], array or tensor (moved to the CPU); return itself."""
        penalty = self._check_settings()
        rows = self._rows(X, reset=True)
        generator = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31)))
        if len(rows) > self.max_samples:
            rows = rows[torch.randperm(len(rows), generator=generator)[: self.max_samples]]
        n = rows.shape[1]
        sae = TiedSAE(n, int(self.expansion_factor * n), self.top_k, generator)
        self.loss_, self.n_iter_ = _train(sae, rows, penalty, self, generator)
        self.sae_ = sae.requires_grad_(False)
        self.components_, self.intercept_ = sae.weight.numpy(), sae.bias.numpy()
        return self

    def transform(self, X: Any) -> Any:
        """The codes [S, K] of activations ``X`` [S, N], float32, in the caller's kind of array."""
        check_is_fitted(self)
        codes = self.sae_.encode(self._rows(X))
        return codes if isinstance(X, Tensor) else codes.numpy()

    def inverse_transform(self, X: Any) -> Any:
        """The activations [S, N] of codes ``X`` [S, K], float32, in the caller's kind of array."""
        check_is_fitted(self)
        rows = self.sae_.decode(torch.as_tensor(X, dtype=torch.float32))
        return rows if isinstance(X, Tensor) else rows.numpy()

    def measure(self, X: Any) -> Superposition:
        """The effective features of activations ``X`` [S, N], and how well they are reconstructed."""
        check_is_fitted(self)
        return measure_dictionary(self.sae_, [self._rows(X)])

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _check_settings(self) -> float:
        for name in ("batch_size", "max_epochs", "patience", "max_samples"):
            check_count(name, getattr(self, name))
        check_positive("learning_rate", self.learning_rate)
        if not 1 <= self.expansion_factor < math.inf:
            raise ValueError(f"expansion_factor must be finite and at least 1; got {self.expansion_factor}")
        if self.l1_lambda is not None:
            check_non_negative("l1_lambda", self.l1_lambda)
            return self.l1_lambda
        return L1 if self.top_k is None else 0.0

    def _rows(self, X: Any, reset: bool = False) -> Tensor:
        return torch.tensor(read_rows(self, X, dtype=np.float32, reset=reset))


def measure_dictionary(sae: Dictionary, batches: Iterable[Tensor]) -> Superposition:
    """Measure the effective features of activations under any ``sae``, in one pass over ``batches`` of rows [B, N].

    ``sae`` is anything with ``encode`` and ``decode``, on the device of the rows. Sums are float64, and no codes are
    kept. Activations that are all zero, or all alike, leave an error that has nothing to be relative to: NaN.

    Raises ``ValueError`` for no rows, rows of differing width, and NaN or infinity.

    >>> sae = TiedSAE(2, 8, generator=torch.Generator().manual_seed(0))
    >>> found = measure_dictionary(sae, [torch.ones(3, 2), torch.zeros(1, 2)])
    >>> found.n_samples, found.ratio == found.effective_features / 2
    (4, True)
    """
    meter = Meter(sae)
    for rows in batches:
        meter.add(rows)
    return meter.read()


class Meter:
    """What `measure_dictionary` sums up, for rows that come by themselves."""

    def __init__(self, sae: Dictionary) -> None:
        self.sae = sae
        self.features = EffectiveFeatures()
        self.error = self.square = self.spread = 0.0
        self.mean: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Take rows [B, N]; at most `ROWS` are encoded at a time."""
        for part in rows.detach().split(ROWS):
            self._add(part)

    @torch.no_grad()
    def _add(self, rows: Tensor) -> None:
        if self.mean is not None and rows.shape[1:] != self.mean.shape:
            raise ValueError(f"batches must have {len(self.mean)} neurons, as before; got {tuple(rows.shape)[1:]}")
        before = self.features.n_samples_ if self.mean is not None else 0
        codes = self.sae.encode(rows)
        self.features.partial_fit(codes)
        self.error += float((self.sae.decode(codes) - rows).double().square().sum())
        exact = rows.double()
        self.square += float(exact.square().sum())
        mean, share = exact.mean(0), len(rows) / (before + len(rows))
        self.mean = torch.zeros_like(mean) if self.mean is None else self.mean
        step = mean - self.mean
        self.spread += float((exact - mean).square().sum() + step.square().sum() * before * share)
        self.mean = self.mean + step * share

    def read(self) -> Superposition:
        """What the rows so far say."""
        if self.mean is None:
            raise ValueError("batches must hold at least one row; got none")
        found = self.features
        return Superposition(
            found.effective_features_,
            found.effective_features_ / len(self.mean),
            found.entropy_,
            found.dead_fraction_,
            found.l0_,
            self.error / self.square if self.square else math.nan,
            self.error / self.spread if self.spread else math.nan,
            found.n_samples_,
        )


def _train(
    sae: TiedSAE, rows: Tensor, penalty: float, settings: SparseAutoencoder, generator: torch.Generator
) -> tuple[float, int]:
    """Train in place; return the loss of the best epoch and the number of epochs."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=settings.learning_rate, fused=True)
    best, waited, epochs = math.inf, 0, 0
    kept = [value.detach().clone() for value in sae.parameters()]
    for epochs in range(1, settings.max_epochs + 1):  # noqa: B007, it is returned
        batches = rows[torch.randperm(len(rows), generator=generator)].split(settings.batch_size)
        total = torch.zeros(())
        for batch in batches:
            total += _loss_and_gradient(sae, batch, penalty)
            optimizer.step()
        mean = float(total) / len(batches)
        if mean < best:
            best, waited = mean, 0
            kept = [value.detach().clone() for value in sae.parameters()]
        else:
            waited += 1
        if waited == settings.patience:
            break
    else:
        warnings.warn(
            f"the loss was still getting lower at epoch {epochs}, the last: max_epochs is too small, and an "
            "autoencoder that has not settled counts too many features",
            ConvergenceWarning,
            stacklevel=3,
        )
    for value, good in zip(sae.parameters(), kept, strict=True):
        value.data.copy_(good)
    return best, epochs


@torch.no_grad()
def _loss_and_gradient(sae: TiedSAE, x: Tensor, penalty: float) -> Tensor:
    """`TiedSAE.loss`, its gradient left in the parameters: what autograd gives, in a third of the time when small."""
    codes = sae.encode(x)
    gone = sae.decode(codes) - x
    by_output = gone * (2 / gone.numel())
    by_code = (by_output @ sae.weight.T + penalty / codes.numel()) * (codes > 0)
    sae.weight.grad = by_code.T @ x + codes.T @ by_output
    sae.bias.grad = by_code.sum(0)
    return gone.square().mean() + penalty * codes.mean()
