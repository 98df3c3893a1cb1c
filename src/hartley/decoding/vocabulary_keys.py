"""The geometry of output keys: tokens that rank high because their keys lie beside the top ones."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from hartley.decoding.in_context_navigation import TEMPLATES, Judge, TextModel, ranked
from hartley.info.checks import check_count


def cluster_vocabulary(lm_head_weight: Tensor, n_clusters: int = 1024, random_state: int = 0) -> Tensor:
    """Cluster the rows of an output layer by k-means, Euclidean: the cluster of each token, int64 ``[V]``.

    ``lm_head_weight`` is ``[V, D]``. The same ``random_state`` gives the same clusters; a minute or so on two cores for
    512 clusters of 49,152 keys of 576 numbers. Raises ``ValueError`` for another shape, and unless 1 <= ``n_clusters``
    <= V.

    >>> cluster_vocabulary(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), n_clusters=2).unique(return_counts=True)[1]
    tensor([2, 2])

    Source: Peng, An and Shang 2024, "Correlation and Navigation in the Vocabulary Key Representation Space".
    """
    if lm_head_weight.ndim != 2:
        raise ValueError(f"lm_head_weight must have shape [V, D]; got {tuple(lm_head_weight.shape)}")
    if not 1 <= n_clusters <= lm_head_weight.shape[0]:
        raise ValueError(f"n_clusters must be between 1 and the {lm_head_weight.shape[0]} keys; got {n_clusters}")
    keys = lm_head_weight.detach().float().cpu().numpy()
    # Not mini-batches: on SmolLM2's keys they left half of 512 clusters with two tokens or fewer, and crowded the rest.
    labels = KMeans(n_clusters, max_iter=100, random_state=random_state).fit(keys).labels_
    return torch.from_numpy(np.asarray(labels, dtype=np.int64))


@dataclass(frozen=True)
class Middle:
    """The tokens of the middle ranks on one side: their share, mean rank (1 = most probable) and accuracy."""

    proportion: float
    mean_rank: float
    accuracy: float  # nan where the side is empty


@dataclass(frozen=True)
class KeyReport:
    """The N likeliest first tokens, in order: which lead to a correct answer, which share a cluster with the top K."""

    tokens: list[int]
    answers: list[str]
    correct: list[bool]
    in_main: list[bool]
    k: int

    @property
    def inside(self) -> Middle:
        """Ranks K+1..N whose keys lie in a cluster of the top K."""
        return self._middle(True)

    @property
    def outside(self) -> Middle:
        """Ranks K+1..N whose keys lie in none."""
        return self._middle(False)

    def _middle(self, main: bool) -> Middle:
        places = range(self.k, len(self.tokens))
        chosen = [place for place in places if self.in_main[place] == main]
        if not chosen:
            return Middle(0.0, math.nan, math.nan)
        return Middle(
            len(chosen) / len(places),
            sum(place + 1 for place in chosen) / len(chosen),
            sum(self.correct[place] for place in chosen) / len(chosen),
        )


def spurious_key_report(
    model: TextModel,
    prompt: str,
    judge: Judge,
    n: int = 100,
    k: int = 10,
    clusters: Tensor | None = None,
    max_new_tokens: int = 64,
) -> KeyReport:
    """Complete each of the ``n`` likeliest first tokens at an open slot, and compare look-alikes of the top ``k``.

    ``prompt`` ends in an opening quote (:func:`list_prompt`); an answer ends at the closing one, within
    ``max_new_tokens``, or counts as wrong. ``clusters`` is int64 ``[V]``; by default the model's own ``keys``
    are clustered, which takes a while: pass them where several prompts share a model. Raises ``ValueError`` unless
    1 <= ``k`` < ``n`` <= the number of tokens with any probability, and for clusters of another shape; ``TypeError``
    for a model without keys and no clusters.

    Source: Peng, An and Shang 2024, "Correlation and Navigation in the Vocabulary Key Representation Space".
    """
    check_count("k", k)
    logits = model.next_logits(prompt)
    tokens = [token for _, token in zip(range(n), ranked(logits), strict=False)]
    if not k < n <= len(tokens):
        raise ValueError(f"n must be above k={k} and at most {int((logits > -torch.inf).sum())} tokens; got {n}")
    if clusters is None:
        keys: Tensor | None = getattr(model, "keys", None)
        if keys is None:
            raise TypeError(f"give clusters=, or a model that has keys; got {type(model).__name__}")
        clusters = cluster_vocabulary(keys, min(1024, keys.shape[0]))
    if clusters.shape != logits.shape:
        raise ValueError(f"clusters must have shape {tuple(logits.shape)}, one a token; got {tuple(clusters.shape)}")
    template = TEMPLATES["list"]
    answers = [template.read(text) for text in model.complete(prompt, tokens, max_new_tokens, template.stop)]
    own = [int(clusters[token]) for token in tokens]
    return KeyReport(
        tokens,
        [answer or "" for answer in answers],
        [answer is not None and judge(answer) for answer in answers],
        [cluster in own[:k] for cluster in own],
        k,
    )
