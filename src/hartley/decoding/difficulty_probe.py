"""A small classifier that reads from a model's hidden state how hard the question is that it has just read."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from hartley.decoding.difficulty import DIFFICULTIES
from hartley.info.checks import check_count

KIND, VERSION = "hartley difficulty probe", 1
LEARNING_RATE, BATCH = 1e-3, 64  # the rate is the paper's, the batch ours


class DifficultyProbe:
    """Two layers over the last-layer hidden state at the final prompt token: softmax(W2 relu(W1 x + b1) + b2).

    Cross-entropy, AdamW at 1e-3, ``epochs`` passes in batches of 64, on features standardised to mean 0 and variance 1.
    The model itself is never touched. ``hidden_size`` is the width between the two layers (ours: the paper does not
    state its own); the same ``random_state`` gives the same probe.

    In scikit-learn's manners: after :meth:`fit`, ``classes_`` holds the labels seen, in the order of
    ``predict_proba``'s columns; a label that was not there is never predicted. ``model_id_`` and ``template_hash_`` say
    whose hidden states it reads.

    >>> import numpy as np
    >>> x = np.repeat(np.eye(3), 20, axis=0)
    >>> probe = DifficultyProbe(hidden_size=16).fit(x, ["easy"] * 20 + ["normal"] * 20 + ["hard"] * 20)
    >>> probe.predict(np.eye(3)).tolist()
    ['easy', 'normal', 'hard']

    Source: Liu et al. 2026, "DiffAdapt", section 3.
    """

    classes_: NDArray[np.str_]
    n_features_in_: int  #: D
    temperature_: float  #: divides the scores before the softmax; 1 unless :meth:`calibrate` found another
    model_id_: str
    template_hash_: str

    def __init__(self, hidden_size: int = 256, epochs: int = 100, random_state: int = 0) -> None:
        check_count("hidden_size", hidden_size)
        check_count("epochs", epochs)
        self.hidden_size = hidden_size
        self.epochs = epochs
        self.random_state = random_state

    def fit(
        self, X: ArrayLike | Tensor, y: Sequence[str] | NDArray[Any], *, model_id: str = "", template_hash: str = ""
    ) -> DifficultyProbe:
        """Train on hidden states ``X [N, D]`` and labels ``y [N]``, each "easy", "normal" or "hard"; return itself.

        ``model_id`` and ``template_hash`` name the model and the chat template that ``X`` comes from. Raises
        ``ValueError`` for other labels, shapes that do not fit, no rows, or a number that is not finite.
        """
        x, labels = _matrix(X), np.asarray(y, dtype=np.str_)
        if labels.shape != (len(x),) or not len(x):
            raise ValueError(f"y must hold one label for each of the {len(x)} rows of X; got shape {labels.shape}")
        unknown = sorted(set(labels.tolist()) - set(DIFFICULTIES))
        if unknown:
            raise ValueError(f"y must hold {', '.join(map(repr, DIFFICULTIES))}; got {unknown[0]!r}")
        self.classes_ = np.array([name for name in DIFFICULTIES if name in labels])
        self.n_features_in_ = x.shape[1]
        self.model_id_, self.template_hash_ = model_id, template_hash
        self.temperature_ = 1.0
        self.mean_ = x.mean(0)
        spread = x.std(0, correction=0)
        self.scale_ = torch.where(spread > 0, spread, 1.0)
        self._train((x - self.mean_) / self.scale_, torch.from_numpy(np.argmax(labels[:, None] == self.classes_, 1)))
        return self

    def predict_proba(self, X: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Probabilities ``[N, C]`` of ``classes_`` for hidden states ``X [N, D]``; each row sums to 1.

        Raises ``ValueError`` for rows of another length than the probe was trained on.
        """
        return (self._scores(X) / self.temperature_).softmax(-1).numpy()

    def predict(self, X: ArrayLike | Tensor) -> NDArray[np.str_]:
        """The most probable label of each row of ``X [N, D]``, "normal" where it shares the first place."""
        scores = self._scores(X).numpy()
        best = scores == scores.max(-1, keepdims=True)
        normal = best & (self.classes_ == "normal")
        return self.classes_[np.where(normal.any(-1), normal.argmax(-1), best.argmax(-1))]

    def score(self, X: ArrayLike | Tensor, y: Sequence[str] | NDArray[Any]) -> float:
        """Share of labels predicted."""
        return float((self.predict(X) == np.asarray(y)).mean())

    def calibrate(self, X: ArrayLike | Tensor, y: Sequence[str] | NDArray[Any], folds: int = 5) -> NDArray[np.bool_]:
        """Set ``temperature_`` from predictions for rows left out of training; return which of them were right ``[N]``.

        ``X [N, D]`` and ``y [N]`` are those of :meth:`fit`, N at least 2: in each of ``folds`` turns a new probe learns
        from the rest, so the mean of the result is the cross-validated accuracy. One temperature for all scores
        minimises their cross-entropy; it changes no label, only how sure the probe says it is.

        Source: ours; Guo et al. 2017, "On Calibration of Modern Neural Networks", temperature scaling.
        """
        x, labels = _matrix(X), np.asarray(y, dtype=np.str_)
        if len(x) < 2 or labels.shape != (len(x),):
            raise ValueError(f"X and y must hold the same rows, at least 2; got {len(x)} and {labels.shape}")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.random_state))
        scores = torch.full((len(x), len(self.classes_)), -torch.inf, dtype=torch.float64)
        right = np.zeros(len(x), dtype=np.bool_)
        for fold in order.chunk(min(folds, len(x))):
            rest = torch.ones(len(x), dtype=torch.bool).index_fill_(0, fold, False)
            other = DifficultyProbe(self.hidden_size, self.epochs, self.random_state).fit(x[rest], labels[rest.numpy()])
            columns = torch.from_numpy(np.searchsorted(_place(self.classes_), _place(other.classes_)))
            scores[fold[:, None], columns] = other._scores(x[fold])
            right[fold.numpy()] = other.predict(x[fold]) == labels[fold.numpy()]
        targets = torch.from_numpy(np.argmax(labels[:, None] == self.classes_, 1))
        known = scores.gather(1, targets[:, None])[:, 0].isfinite()  # its label was among those of the rest
        self.temperature_ = _best_temperature(scores[known], targets[known])
        return right

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all: weights, standardisation, model id and template hash."""
        target = Path(path).absolute()
        facts = {
            "version": VERSION,
            "classes": self.classes_.tolist(),
            "temperature": self.temperature_,
            "model_id": self.model_id_,
            "template_hash": self.template_hash_,
            "settings": self.get_params(),
        }
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            whole = Path(scratch) / target.name
            # One entry: the library writes several in an order of its own, different each time
            whole.write_bytes(save(dict(self._tensors()), {KIND: json.dumps(facts)}))
            os.replace(whole, target)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, model_id: str | None = None, template_hash: str | None = None
    ) -> DifficultyProbe:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Give the ``model_id`` and ``template_hash`` of the model at hand to have another one's probe refused. Raises
        ``ValueError`` for that and for a file that is no probe, ``FileNotFoundError`` where there is none.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no probe at {path}")
        try:
            opened: Any = safe_open(str(path), framework="pt")
            with opened as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        if KIND not in metadata:
            raise ValueError(f"{path} is not a {KIND}; hartley probe makes one")
        try:
            facts = json.loads(metadata[KIND])
            if facts["version"] != VERSION:
                raise ValueError(f"version must be {VERSION}; got {facts['version']}")
            probe = cls._from(facts, tensors)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is a {KIND} that cannot be read: {error}") from error
        for what, mine, given in (
            ("model", probe.model_id_, model_id),
            ("chat template", probe.template_hash_, template_hash),
        ):
            if given is not None and given != mine:
                raise ValueError(
                    f"{path} was made for the {what} {mine!r} and cannot judge for {given!r}; make another"
                )
        return probe

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn asks for them."""
        return {"hidden_size": self.hidden_size, "epochs": self.epochs, "random_state": self.random_state}

    def set_params(self, **params: Any) -> DifficultyProbe:
        """Change settings; return itself."""
        self.__init__(**{**self.get_params(), **params})
        return self

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.get_params().items())
        return f"DifficultyProbe({settings})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())

    @classmethod
    def _from(cls, facts: dict[str, Any], tensors: dict[str, Tensor]) -> DifficultyProbe:
        probe = cls(**facts["settings"])
        probe.classes_ = np.array(facts["classes"], dtype=np.str_)
        probe.temperature_ = float(facts["temperature"])
        probe.model_id_, probe.template_hash_ = str(facts["model_id"]), str(facts["template_hash"])
        for name in _NAMES:
            setattr(probe, name, tensors[name])
        probe.n_features_in_ = len(probe.mean_)
        d, h, c = probe.n_features_in_, probe.hidden_size, len(probe.classes_)
        shapes = {"mean_": (d,), "scale_": (d,), "w1_": (h, d), "b1_": (h,), "w2_": (c, h), "b2_": (c,)}
        for name, tensor in probe._tensors():
            if tensor.shape != shapes[name] or not bool(tensor.isfinite().all()):
                raise ValueError(
                    f"{name} must hold finite numbers of shape {shapes[name]}; it has {tuple(tensor.shape)}"
                )
        if not c or not set(probe.classes_.tolist()) <= set(DIFFICULTIES):
            raise ValueError(f"classes must be some of {', '.join(DIFFICULTIES)}; got {probe.classes_.tolist()}")
        if not 0 < probe.temperature_ < np.inf:
            raise ValueError(f"temperature must be finite and above 0; got {probe.temperature_}")
        return probe

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(name, getattr(self, name)) for name in _NAMES]

    def _train(self, x: Tensor, targets: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.random_state)

        def uniform(*shape: int, inputs: int) -> Tensor:
            start = torch.rand(*shape, generator=generator, dtype=torch.float32) * 2 - 1
            return (start / inputs**0.5).requires_grad_()

        d, h, c = x.shape[1], self.hidden_size, len(self.classes_)
        weights = [uniform(h, d, inputs=d), uniform(h, inputs=d), uniform(c, h, inputs=h), uniform(c, inputs=h)]
        optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE)
        with torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.randperm(len(x), generator=generator)
                for at in range(0, len(x), BATCH):
                    rows = order[at : at + BATCH]
                    loss = F.cross_entropy(_network(x[rows], *weights), targets[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        self.w1_, self.b1_, self.w2_, self.b2_ = (weight.detach() for weight in weights)

    def _scores(self, X: ArrayLike | Tensor) -> Tensor:
        if not hasattr(self, "classes_"):
            raise ValueError("this probe is not trained yet; call fit first")
        x = _matrix(X)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must hold hidden states of {self.n_features_in_} numbers, as {self.model_id_ or 'its model'} has; "
                f"got {x.shape[1]}, another model's"
            )
        # In double precision a row's scores do not depend, beyond the last digits, on the rows beside it
        tensors = {name: tensor.double() for name, tensor in self._tensors()}
        x = (x.double() - tensors["mean_"]) / tensors["scale_"]
        return _network(x, *(tensors[name] for name in ("w1_", "b1_", "w2_", "b2_")))


_NAMES = ("mean_", "scale_", "w1_", "b1_", "w2_", "b2_")


def _network(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)


def _place(classes: NDArray[np.str_]) -> list[int]:
    return [DIFFICULTIES.index(name) for name in classes.tolist()]


def _best_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature, between 0.1 and 100, at which ``scores [N, C]`` predict ``targets`` with least cross-entropy."""
    if not len(scores):
        return 1.0
    grid = torch.logspace(-1, 2, 301, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(scores / temperature, targets) for temperature in grid])
    return float(grid[losses.argmin()])


def _matrix(X: ArrayLike | Tensor) -> Tensor:
    x = X.detach() if isinstance(X, Tensor) else torch.as_tensor(np.asarray(X, dtype=np.float32))
    if x.ndim != 2 or 0 in x.shape[1:]:
        raise ValueError(f"X must hold hidden states, shape [N, D]; got {tuple(x.shape)}")
    x = x.to("cpu", torch.float32)
    if not bool(x.isfinite().all()):
        raise ValueError(f"X must be finite; row {int((~x.isfinite().all(1)).nonzero()[0])} is not")
    return x
