"""Path-level top-p: keep the chains of tokens that are probable as a whole, cut where their joint mass is reached."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from hartley.info.checks import check_count, check_fraction, check_logits, check_non_negative, check_positive

Answer = TypeVar("Answer", bound=Hashable)

NextLogits = Callable[[Tensor, Tensor], Tensor]
"""A model: ``tokens [K, T]`` and ``parents [K]``, the row of the last call that each row continues, give ``[K, V]``."""

BINS, PER_NAT = 4096, 64  # candidates are binned by how far they are below the best; what is 64 nats below shares a bin


class Path(NamedTuple):
    """One chain that was generated."""

    tokens: tuple[int, ...]  #: without the prompt; with the end token if it ended
    log_prob: float  #: of the tokens under the tempered model, nats
    weight: float  #: its share of the probability of all paths returned
    finished: bool  #: whether it ended with an end token


class Step(NamedTuple):
    """The paths that go on: K' live ones, most probable first, and the finished ones that stay."""

    parents: Tensor  #: ``[K']`` the live path that each continues
    tokens: Tensor  #: ``[K']``
    log_probs: Tensor  #: ``[K']`` float64, of the whole path, nats
    stay: Tensor  #: which of the finished paths stay


@dataclass(frozen=True)
class PathTopP:
    """Settings of path-level top-p, made by :func:`path_top_p`; nothing in it changes while it runs."""

    k: int
    top_p: float
    temperature: float
    deterministic: bool
    length_penalty: float

    def step(
        self,
        logits: Tensor,
        log_probs: Tensor,
        finished: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Choose up to ``k`` paths among all one-token continuations of the live ones and the finished ones.

        ``logits [K, V]`` (or log-probabilities) say how each live path goes on, ``log_probs [K]`` how probable it is,
        ``finished [F]`` how probable each finished one is, in nats. A finished path is one candidate, itself. The joint
        probabilities of all candidates sum to 1 and are cut to the smallest set that holds ``top_p`` of it, ties by
        flat index, finished paths last; of that set ``k`` are drawn without replacement (Gumbel-top-k).
        Raises ``ValueError`` naming a row that is NaN, +inf or all -inf, and without a generator unless deterministic.
        """
        check_logits(logits)
        if finished is None:
            finished = log_probs.new_empty(0)
        if generator is None and not self.deterministic:
            raise ValueError("generator must be a torch.Generator unless deterministic=True; got None")
        next_log_probs = torch.log_softmax(logits.float() / self.temperature, -1)
        lived, ended = log_probs.double(), finished.double()
        total = torch.cat([lived, ended]).logsumexp(0)
        joint = torch.cat(
            [((lived - total).float()[:, None] + next_log_probs).flatten(), (ended - total).float()]
        )  # [K * V + F]
        chosen = self._draw(joint, generator)
        vocabulary = logits.shape[1]
        going = chosen[chosen < lived.numel() * vocabulary]
        parents, tokens = going // vocabulary, going % vocabulary
        stay = chosen[chosen >= lived.numel() * vocabulary] - lived.numel() * vocabulary
        return Step(parents, tokens, lived[parents] + next_log_probs[parents, tokens].double(), stay)

    def generate(
        self,
        next_logits: NextLogits,
        ids: Sequence[int] | Tensor,
        max_tokens: int,
        eos: int | Collection[int] = (),
        generator: torch.Generator | None = None,
    ) -> list[Path]:
        """Go on from the prompt ``ids`` by up to ``max_tokens`` tokens and return the paths, best first.

        ``next_logits(tokens [K, T], parents [K]) -> [K, V]`` is the model; ``parents`` says which row of its last call
        each row continues, for a cache. :func:`from_transformers` makes one. A path that draws an ``eos`` token is
        finished: it grows no more and stays among the candidates. The order is by ``log_prob / length **
        length_penalty``. Raises ``ValueError`` for an empty prompt.
        """
        check_count("max_tokens", max_tokens)
        prompt = torch.as_tensor(ids).flatten()
        if prompt.numel() == 0:
            raise ValueError("ids must hold at least one token; got none")
        ends = torch.tensor([eos] if isinstance(eos, int) else sorted(eos), dtype=prompt.dtype, device=prompt.device)
        live, parents = prompt[None], prompt.new_zeros(1)
        log_probs = torch.zeros(1, dtype=torch.float64, device=prompt.device)
        done: list[Any] = []
        done_log_probs = log_probs[:0]
        for _ in range(max_tokens):
            logits = next_logits(live, parents).to(prompt.device)
            parents, tokens, log_probs, stay = self.step(logits, log_probs, done_log_probs, generator)
            live = torch.cat([live[parents], tokens.to(live.dtype)[:, None]], dim=1)
            over = torch.isin(tokens, ends)
            done = [done[i] for i in _plain(stay)] + _plain(live[over])
            done_log_probs = torch.cat([done_log_probs[stay], log_probs[over]])
            live, parents, log_probs = live[~over], parents[~over], log_probs[~over]
            if len(live) == 0:
                break
        every = torch.cat([done_log_probs, log_probs])
        shares = every.softmax(0)
        paths = [
            Path(tuple(row[len(prompt) :]), log_prob, weight, place < len(done))
            for place, (row, log_prob, weight) in enumerate(
                zip(done + _plain(live), _plain(every), _plain(shares), strict=True)
            )
        ]
        return sorted(paths, key=lambda path: -path.log_prob / len(path.tokens) ** self.length_penalty)

    def _draw(self, joint: Tensor, generator: torch.Generator | None) -> Tensor:
        """Flat indices of the candidates that go on, most probable first."""
        if self.deterministic:
            best = _best(joint, self.k)
            return best[_reached(joint[best], 0.0, self.top_p)]
        chosen = _nucleus(joint, self.top_p)
        uniform = torch.rand(len(chosen), generator=generator, device=joint.device, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))
        drawn = chosen[(joint[chosen] + gumbel).topk(min(self.k, len(chosen))).indices.sort().values]
        return drawn[_best(joint[drawn], self.k)]


def path_top_p(
    k: int = 4,
    top_p: float = 0.9,
    temperature: float = 1.0,
    deterministic: bool = False,
    length_penalty: float = 0.0,
) -> PathTopP:
    """Keep ``k`` paths, drawn from the smallest set of continuations that holds ``top_p`` of their joint probability.

    Ordinary top-p cuts each step by itself; this one cuts whole paths, so a likely token on an unlikely path goes
    first. ``deterministic`` takes the most probable ones instead of drawing. One path is ordinary top-p, a ``top_p``
    near 0 is greedy, and ``top_p=1`` with ``deterministic`` is beam search. ``length_penalty`` enters the final order
    alone. Raises ``ValueError`` naming the setting and what is allowed.

    >>> logits = torch.tensor([[0.5, 0.5], [0.95, 0.05]]).log()
    >>> paths = torch.tensor([0.6, 0.4]).log()  # the joints are .30, .30, .38 and .02
    >>> step = path_top_p(k=4, top_p=0.9, deterministic=True).step(logits, paths)
    >>> list(zip(step.parents.tolist(), step.tokens.tolist()))
    [(1, 0), (0, 0), (0, 1)]

    Source: the abstract of Li and Li 2024, arXiv 2409.19790, which names accumulated path probabilities, top-p and
    beams; the rule for finished paths and the draw without replacement (Kool et al. 2019) are ours.
    """
    check_count("k", k)
    check_fraction("top_p", top_p)
    check_positive("temperature", temperature)
    check_non_negative("length_penalty", length_penalty)
    return PathTopP(k, top_p, temperature, deterministic, length_penalty)


def vote(paths: Sequence[Path], answer: Callable[[Path], Answer | None]) -> dict[Answer, float]:
    """Sum the weights of the paths by the answer each gives, the heaviest first; None is no answer.

    >>> paths = [Path((1, 7), -1.0, 0.4, True), Path((2, 8), -1.2, 0.35, True), Path((3, 8), -1.5, 0.25, True)]
    >>> vote(paths, lambda path: path.tokens[-1])
    {8: 0.6, 7: 0.4}
    """
    sums: dict[Answer, float] = {}
    for path in paths:
        if (found := answer(path)) is not None:
            sums[found] = sums.get(found, 0.0) + path.weight
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def from_transformers(model: Any) -> NextLogits:
    """A causal model of transformers as the callable that :meth:`PathTopP.generate` asks for.

    Its cache of keys and values follows the paths: rows are repeated, dropped and reordered as their parents say, and
    one token a path is computed. Tokens that do not continue the last call start a new cache.
    """
    past: Any = None
    seen: Tensor | None = None

    def next_logits(tokens: Tensor, parents: Tensor) -> Tensor:
        nonlocal past, seen
        if seen is not None and torch.equal(tokens[:, :-1], seen[parents]):
            past.batch_select_indices(parents.to(model.device))
            new = tokens[:, -1:]
        else:
            past, new = None, tokens
        seen = tokens
        with torch.inference_mode():
            out = model(input_ids=new.to(model.device), past_key_values=past, use_cache=True)
        past = out.past_key_values
        return cast(Tensor, out.logits[:, -1].float())

    return next_logits


def _best(values: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest, in falling order, ties by index (which ``topk`` leaves to chance)."""
    last = values.topk(min(k, len(values))).values[-1]
    near = (values >= last).nonzero().squeeze(1)
    return near[values[near].argsort(descending=True, stable=True)][:k]


def _nucleus(joint: Tensor, top_p: float) -> Tensor:
    """Indices, rising, of the smallest set of largest ``exp(joint)`` that holds ``top_p``, ties by index.

    Only the bin in which the mass is reached is sorted.
    """
    if top_p == 1:
        return joint.isfinite().nonzero().squeeze(1)
    bins = ((joint.max() - joint) * PER_NAT).clamp_max(BINS - 1).long()
    mass = torch.bincount(bins, joint.double().exp(), BINS)
    before = mass.cumsum(0) - mass
    edge = int(((before < top_p) & (mass > 0)).nonzero()[-1])
    kept = bins < edge
    inside = (bins == edge).nonzero().squeeze(1)
    inside = inside[joint[inside].argsort(descending=True, stable=True)]
    kept[inside[_reached(joint[inside], float(before[edge]), top_p)]] = True
    return kept.nonzero().squeeze(1)


def _reached(values: Tensor, before: float, top_p: float) -> Tensor:
    """Which of the falling log-probabilities belong to the nucleus, when those ahead of them hold ``before``."""
    mass = values.double().exp()
    ahead = before + mass.cumsum(0) - mass
    return values.isfinite() & ((ahead < top_p) | (top_p == 1))  # a sum that rounds to 1 early cuts nothing


def _plain(values: Tensor) -> list[Any]:
    return cast(list[Any], cast(Any, values).tolist())
