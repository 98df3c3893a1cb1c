"""An autoencoder whose latents move linearly: learn from trajectories, predict n steps on, as scikit-learn does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from sklearn.utils.validation import validate_data as _validate_data
from torch import Tensor, nn

from hartley.info.checks import check_count, check_non_negative, check_one_of, check_positive
from hartley.representation.koopman import KoopmanTerms, gaussian_lagged_mi, koopman_loss, latent_entropy, ridge_koopman
from hartley.representation.rows import as_array

Operator = Literal["learned", "ridge"]
validate_data: Any = _validate_data  # its stub takes arrays for strings
Trajectories = ArrayLike | Tensor | Sequence[Any]
LARGEST_GRADIENT = 1.0
JITTER = 1e-6  # of the mean variance of the residuals, so that a latent without any has a finite information


class KoopmanAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn latents z with z' = z K and a decoder, so that n steps ahead are one matrix power away.

    Parameters
    ----------
    n_components
        Width d of the latents.
    operator
        "learned": K is a parameter, the identity at first. "ridge": K is solved for at each step from the batch, and
        once more from all windows at the end.
    mi_weight, consistency_weight, entropy_weight, reconstruction_weight
        Of the terms of `koopman_loss`: shared information of neighbouring latents, linearity, entropy of the latents'
        covariance, reconstruction.
    n_neighbors, temperature, ridge
        As in `koopman_loss`.
    encoder, decoder
        Modules from ``[..., D]`` to ``[..., d]`` and back, copied, not changed. None: one hidden layer of 64 tanh units
        each way.
    window
        Steps of a window; a shorter trajectory makes all windows as short as it is.
    batch_size, max_iter, learning_rate
        Windows of a step, steps, and Adam's rate, which falls to 0 along a cosine. Gradients are cut at norm 1.
    noise
        Standard deviation of what is added to the states that the encoder sees in training, in standard deviations of
        each feature; the decoder is held to the clean ones.
    device
        Where it is trained and run, as torch names it.
    random_state
        Seed of the weights, windows and noise; the global seeds are left alone.

    Attributes
    ----------
    operator_ : array [d, d]
        K, for latents as rows.
    eigenvalues_ : complex array [d]
        Of K, the largest modulus first: a modulus is the growth in a step, an angle its turn in radians.
    latent_covariance_, noise_covariance_ : array [d, d]
        Of the training latents, and of z' - z K.
    effective_dimension_ : float
        exp of `latent_entropy` of the training latents, 1 to d.
    n_iter_ : int
        Steps taken.
    history_ : dict of arrays [max_iter]
        The terms of `koopman_loss` at each step.
    mean_, scale_ : array [D]
        By which states are standardised; a constant feature has scale 1.
    encoder_, decoder_ : torch modules
        From and to standardised states.

    Raises (in ``fit``)
    -------------------
    ValueError
        For NaN, trajectories of fewer than two steps or of different widths, settings outside their range, an encoder
        of another width than ``n_components``, and a loss that is no longer finite.

    >>> times = np.arange(60)[:, None] * 0.3
    >>> circle = np.hstack([np.sin(times), np.cos(times)])
    >>> model = KoopmanAutoencoder(2, operator="ridge", max_iter=80, random_state=0)
    >>> model = model.fit(circle)
    >>> bool(abs(model.predict(circle[:1], n_steps=5) - circle[5]).max() < 0.1)
    True

    Source: Cheng et al. 2026, "Information Shapes Koopman Representation", arXiv 2510.13025.
    """

    def __init__(
        self,
        n_components: int = 8,
        *,
        operator: Operator = "learned",
        mi_weight: float = 0.02,
        consistency_weight: float = 1.0,
        entropy_weight: float = 0.02,
        reconstruction_weight: float = 0.1,
        n_neighbors: int = 3,
        temperature: float = 0.1,
        ridge: float = 0.1,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        window: int = 16,
        batch_size: int = 16,
        max_iter: int = 1500,
        learning_rate: float = 5e-3,
        noise: float = 0.0,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.operator = operator
        self.mi_weight = mi_weight
        self.consistency_weight = consistency_weight
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.ridge = ridge
        self.encoder = encoder
        self.decoder = decoder
        self.window = window
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.noise = noise
        self.device = device
        self.random_state = random_state

    def fit(self, X: Trajectories, y: None = None) -> KoopmanAutoencoder:
        """Learn from one trajectory ``[T, D]``, many of one length ``[N, T, D]``, or a list of ``[T_i, D]``."""
        self._check_settings()
        rows, lengths = self._trajectories(X)
        self.mean_, scale = rows.mean(0), rows.std(0)
        self.scale_ = np.where(scale > 1e-12 * np.abs(rows).max(0), scale, 1.0)
        states = torch.tensor((rows - self.mean_) / self.scale_, dtype=torch.float32, device=self.device)
        length = min(self.window, min(lengths))
        starts = torch.cat(
            [torch.arange(b, e - length + 1) for b, e in pairwise(np.concatenate([[0], np.cumsum(lengths)]).tolist())]
        )
        # Layers draw their first weights, and dropout its masks, from the global generator: put it back afterwards
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(check_random_state(self.random_state).randint(2**31)))
            self._build(states[:1])
            operator = self._train(states, starts, length)
        self._describe(states, starts, length, operator)
        return self

    def transform(self, X: Trajectories) -> np.ndarray:
        """The latents ``[..., d]`` of states ``[..., D]``."""
        states, shape, dtype = self._states(X)
        return self._given(self._encode(states), shape, dtype)

    def inverse_transform(self, Z: ArrayLike | Tensor) -> np.ndarray:
        """The states ``[..., D]`` of latents ``[..., d]``."""
        check_is_fitted(self)
        latents = np.asarray(as_array(Z))
        if latents.ndim == 0 or latents.shape[-1] != self.n_components:
            raise ValueError(f"Z must have {self.n_components} components; got shape {latents.shape}")
        flat = torch.tensor(latents.reshape(-1, self.n_components), dtype=torch.float32, device=self.device)
        return self._given(self._decode(flat), latents.shape[:-1], latents.dtype)

    def predict(self, X: Trajectories, n_steps: int = 1) -> np.ndarray:
        """The states ``[..., D]`` that follow ``n_steps`` after each of the states ``X [..., D]``."""
        check_count("n_steps", n_steps)
        states, shape, dtype = self._states(X)
        power = torch.tensor(np.linalg.matrix_power(self.operator_, n_steps), dtype=torch.float32, device=self.device)
        return self._given(self._decode(self._encode(states) @ power), shape, dtype)

    def simulate(self, X: Trajectories, n_steps: int) -> np.ndarray:
        """The next ``n_steps`` states ``[..., n_steps, D]`` of each of the states ``X [..., D]``; encoded only once."""
        check_count("n_steps", n_steps)
        states, shape, dtype = self._states(X)
        operator = torch.tensor(self.operator_, dtype=torch.float32, device=self.device)
        latents = [self._encode(states) @ operator]
        for _ in range(n_steps - 1):
            latents.append(latents[-1] @ operator)
        return self._given(self._decode(torch.stack(latents, 1)), (*shape, n_steps), dtype)

    def mutual_information(self, n_steps: int = 1) -> float:
        """How many nats latents ``n_steps`` apart share, for Gaussians of the covariances found in training."""
        check_is_fitted(self)
        noise = self.noise_covariance_
        noise = noise + JITTER * max(np.trace(noise) / len(noise), np.finfo(float).tiny) * np.eye(len(noise))
        return float(gaussian_lagged_mi(self.operator_, noise, self.latent_covariance_, n_steps))

    def _check_settings(self) -> None:
        check_one_of("operator", self.operator, get_args(Operator))
        for name in ("n_components", "n_neighbors", "batch_size", "max_iter"):
            check_count(name, getattr(self, name))
        check_count("window", self.window)
        if self.window < 2:
            raise ValueError(f"window must be at least 2; got {self.window}")
        for name in ("temperature", "ridge", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("mi_weight", "consistency_weight", "entropy_weight", "reconstruction_weight", "noise"):
            check_non_negative(name, getattr(self, name))

    def _trajectories(self, X: Trajectories) -> tuple[np.ndarray, list[int]]:
        """All states ``[R, D]`` one below the other, checked, and the length of each trajectory."""
        several = _arrays(X)
        rows = several[0] if len(several) == 1 else np.concatenate(several)
        rows = np.asarray(validate_data(self, rows, dtype=np.float64, ensure_min_samples=2))
        lengths = [len(rows)] if len(several) == 1 else [len(part) for part in several]
        if min(lengths) < 2:
            at = int(np.argmin(lengths))
            raise ValueError(f"X must hold trajectories of at least two steps; got {lengths[at]} in trajectory {at}")
        return rows, lengths

    def _build(self, example: Tensor) -> None:
        width, d = example.shape[1], self.n_components
        self.encoder_ = copy.deepcopy(self.encoder) if self.encoder is not None else _network(width, d)
        self.decoder_ = copy.deepcopy(self.decoder) if self.decoder is not None else _network(d, width)
        for module in (self.encoder_, self.decoder_):
            module.to(self.device).train()
        self.encoder_.eval()
        with torch.no_grad():
            found = self.encoder_(example).shape
        if found != (1, d):
            raise ValueError(f"encoder must give n_components = {d} values a state; got shape {tuple(found)} for one")
        self.encoder_.train()

    def _train(self, states: Tensor, starts: Tensor, length: int) -> Tensor | None:
        """Fit the modules; the learned K, None where it is solved for."""
        operator = None
        parameters = [*self.encoder_.parameters(), *self.decoder_.parameters()]
        if self.operator == "learned":
            operator = nn.Parameter(torch.eye(self.n_components, device=states.device))
            parameters.append(operator)
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_iter)
        history: list[list[float]] = []
        for places in self._places(starts, length):
            x = states[places]
            seen = x + self.noise * torch.randn_like(x) if self.noise else x
            terms = self._loss(self.encoder_(seen), x, operator)
            history.append(torch.stack(terms).tolist())
            if not np.isfinite(history[-1][0]):
                raise ValueError(f"learning_rate must be lower: the loss is {history[-1][0]} at step {len(history)}")
            optimizer.zero_grad()
            terms.total.backward()
            nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        self.history_ = dict(zip(KoopmanTerms._fields, np.array(history).T, strict=True))
        self.encoder_.eval()
        self.decoder_.eval()
        return operator

    def _places(self, starts: Tensor, length: int) -> Iterator[Tensor]:
        """Indices ``[B, T]`` of the states of each step's windows; every window once before any comes again."""
        done = 0
        while True:
            for chosen in starts[torch.randperm(len(starts))].split(self.batch_size):
                yield chosen[:, None] + torch.arange(length)
                done += 1
                if done == self.max_iter:
                    return

    def _loss(self, z: Tensor, x: Tensor, operator: Tensor | None) -> KoopmanTerms:
        return koopman_loss(
            z,
            x,
            self.decoder_,
            operator,
            mi_weight=self.mi_weight,
            consistency_weight=self.consistency_weight,
            entropy_weight=self.entropy_weight,
            reconstruction_weight=self.reconstruction_weight,
            n_neighbors=self.n_neighbors,
            temperature=self.temperature,
            ridge=self.ridge,
        )

    @torch.no_grad()
    def _describe(self, states: Tensor, starts: Tensor, length: int, operator: Tensor | None) -> None:
        encoded = self._encode(states)
        latents = encoded.double()
        if operator is None:
            windows = latents[starts[:, None] + torch.arange(length)]
            found = ridge_koopman(windows[:, :-1], windows[:, 1:], ridge=self.ridge)
        else:
            found = operator.detach().double()
        self.operator_ = found.cpu().numpy()
        values = np.linalg.eigvals(self.operator_)
        self.eigenvalues_ = values[np.argsort(-np.abs(values), kind="stable")]
        # A step counts as often as there are windows that hold it, and one into another trajectory not at all
        times = torch.bincount((starts[:, None] + torch.arange(length - 1)).flatten(), minlength=len(latents) - 1)
        residuals = (latents[1:] - latents[:-1] @ found).T.cpu().numpy()
        self.noise_covariance_ = np.atleast_2d(np.cov(residuals, fweights=times.numpy(), bias=True))
        self.latent_covariance_ = np.atleast_2d(np.cov(latents.cpu().numpy(), rowvar=False))
        self.effective_dimension_ = float(latent_entropy(encoded).exp())
        self.n_iter_, self._n_features_out = self.max_iter, self.n_components

    def _states(self, X: Trajectories) -> tuple[Tensor, tuple[int, ...], np.dtype[Any]]:
        """Standardised rows, the leading shape and the dtype that the answer is to have."""
        check_is_fitted(self)
        array: Any = as_array(X)
        lead: tuple[int, ...] = ()
        if isinstance(array, np.ndarray) and array.ndim > 2:
            lead, array = array.shape[:-1], array.reshape(-1, array.shape[-1])
        rows = np.asarray(validate_data(self, array, dtype=[np.float64, np.float32], reset=False))
        lead = lead or (len(rows),)
        states = torch.tensor((rows - self.mean_) / self.scale_, dtype=torch.float32, device=self.device)
        return states, lead, rows.dtype

    @torch.no_grad()
    def _encode(self, states: Tensor) -> Tensor:
        return cast(Tensor, self.encoder_(states))

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        scale, mean = (torch.tensor(v, dtype=torch.float64, device=latents.device) for v in (self.scale_, self.mean_))
        return self.decoder_(latents).double() * scale + mean

    @staticmethod
    def _given(values: Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        array = values.cpu().numpy().reshape(*shape, values.shape[-1])
        return array.astype(np.float32 if dtype == np.float32 else np.float64)


def _arrays(X: Trajectories) -> list[Any]:
    """The trajectories ``[T, D]`` of what was given."""
    X = as_array(X)
    if isinstance(X, list | tuple) and len(X) and all(np.ndim(part) == 2 for part in X):
        parts = [np.asarray(as_array(part)) for part in X]
        if len({part.shape[1] for part in parts}) > 1:
            widths = sorted({part.shape[1] for part in parts})
            raise ValueError(f"X must hold trajectories of as many features each; got {widths}")
        return parts
    return list(X) if isinstance(X, np.ndarray) and X.ndim == 3 and len(X) else [X]


def _network(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, out))
