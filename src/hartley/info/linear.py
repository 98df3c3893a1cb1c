"""What a model says at each place, from hidden states or from logits: one differentiable pass, never [N, V] at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import check_count, check_named_tokens, check_positive, check_tokens, row_name
from hartley.info.processes import Group, counts_of
from hartley.info.tiles import Projected, Ready
from hartley.info.token_numbers import NOWHERE, TokenStatistics
from hartley.info.vocabulary_pass import Named, Task, statistics_of

IGNORED = -100  # torch's mark of a place without a label


class LinearTeacher(NamedTuple):
    """A teacher by its hidden states ``[..., E]`` and output layer ``weight [V, E]``, ``bias [V]``."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


class TopKTeacher(NamedTuple):
    """A teacher by its K likeliest tokens ``[..., K]``, which differ, and their log-probabilities in nats.

    What they leave of the probability is one more outcome, "any other token": the divergence is that of the K + 1
    outcomes, never above the whole one. Empty slots have a log-probability of -inf.
    """

    tokens: Tensor
    log_probs: Tensor


Teacher = Tensor | LinearTeacher | TopKTeacher


def linear_statistics(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    teacher: Teacher | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    group: Group = None,
) -> TokenStatistics:
    """Return log-probability, entropy, varentropy and more of softmax(hidden @ weight.T), without holding its logits.

    One pass over the vocabulary, ``chunk_size`` tokens at a time, forward; one more, backward. Everything is
    differentiable by ``hidden``, ``weight`` and ``bias`` (once; the backward pass cannot itself be differentiated).

    Parameters
    ----------
    hidden
        ``[..., D]``, floating point. Half precision is multiplied and summed in float32.
    weight
        ``[V, D]``: the output layer, as ``torch.nn.Linear`` has it.
    labels
        ``[...]``, integers in 0 .. V-1; -100 marks a place without one, whose ``log_prob`` is 0.
    bias
        ``[V]``; -inf removes a token.
    teacher
        For ``kl``: logits ``[..., V]``, a :class:`LinearTeacher` or a :class:`TopKTeacher`. It gets no gradient. The
        first two are tempered as the student is; log-probabilities must be of that temperature already.
    temperature
        What logits are divided by. Every number is of the tempered distribution.
    top_k
        How many likeliest tokens ``top_k_mass`` and ``top_k_entropy`` are about; 0 for none. No gradient flows through
        their choice.
    softcap
        ``c`` turns each logit z into c tanh(z / c), before the temperature.
    label_smoothing
        ``s`` in [0, 1): ``log_prob`` is (1 - s) ln p(label) + s times the mean of ln p over the vocabulary, so that
        minus it is what `torch.nn.functional.cross_entropy` gives.
    mask
        ``[...]``, bool: places left out cost nothing; all their numbers, and gradients, are 0.
    chunk_size
        Tokens looked at together, by default 2,048 to 16,384, as many as make a tile of 8 MB (on a CPU; 256 MB
        elsewhere). It changes memory and speed, and no number beyond rounding.
    group
        The processes the vocabulary is split over, in order of rank: ``weight``, ``bias`` and a teacher's share of the
        vocabulary are this process's, ``labels`` count through the whole. Hidden states and losses are the same in all
        of them.

    Returns
    -------
    :class:`TokenStatistics`, each ``[...]``, in nats.

    Raises
    ------
    ValueError
        Shapes that do not fit, which it gives; a label outside the vocabulary; a number out of its range; a place whose
        logits hold NaN, +inf or nothing but -inf, which it names.
    TypeError
        Hidden states or weights that are no floating point, labels that are no integers, a mask that is not bool.

    >>> import torch
    >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    >>> linear_statistics(hidden, weight, torch.tensor([1])).log_prob
    tensor([-0.4076])
    """
    _check_floating(hidden=hidden, weight=weight)
    if weight.ndim != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight must have shape [V, D] with at least one token; got {tuple(weight.shape)}")
    if hidden.ndim == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden must have shape [..., {weight.shape[1]}], as wide as weight {tuple(weight.shape)};"
            f" got {tuple(hidden.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},), one a token; got {tuple(bias.shape)}")
    places, size = _Places(hidden.shape[:-1], mask, hidden.device), weight.shape[0]
    task = _task(places, size, labels, teacher, temperature, top_k, softcap, label_smoothing, chunk_size, group)
    found = statistics_of(places.chosen(hidden), weight, bias, task)
    return _statistics(places, found, "the logits of hidden, weight and bias")


def logits_statistics(
    logits: Tensor,
    labels: Tensor | None = None,
    *,
    teacher: Teacher | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    mask: Tensor | None = None,
    group: Group = None,
) -> TokenStatistics:
    """Return what `linear_statistics` does, for logits ``[..., V]`` that are there already.

    One pass forward, one backward, and no copy of the logits but the gradient. Half precision is read as float32; -inf
    is a removed token. Parameters, returns and errors are those of `linear_statistics`.

    >>> import torch
    >>> logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log().requires_grad_()
    >>> found = logits_statistics(logits, torch.tensor([0, 0]))
    >>> found.entropy
    tensor([1.0397, 0.0000], grad_fn=<ViewBackward0>)
    """
    _check_floating(logits=logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape [..., V] with at least one token; got {tuple(logits.shape)}")
    places, size = _Places(logits.shape[:-1], mask, logits.device), logits.shape[-1]
    task = _task(places, size, labels, teacher, temperature, top_k, softcap, label_smoothing, None, group)
    return _statistics(places, statistics_of(places.chosen(logits), None, None, task), "logits")


class _Places:
    """Those that are looked at, among the places of a leading shape."""

    def __init__(self, shape: torch.Size, mask: Tensor | None, device: torch.device) -> None:
        self.shape, self.device, self.mask, self.index = shape, device, mask, None
        if mask is not None:
            if mask.dtype != torch.bool:
                raise TypeError(f"mask must be bool; got {mask.dtype}")
            _check_places("mask", mask, shape)
            self.index = mask.flatten().nonzero().squeeze(-1)

    def chosen(self, x: Tensor) -> Tensor:
        """``[n, ...]``: what is looked at of ``x [*shape, ...]``."""
        flat = x.reshape(self.shape.numel(), *x.shape[len(self.shape) :])
        return flat if self.index is None else flat[self.index]

    def among(self, which: Tensor) -> Tensor:
        """Those of ``which`` places, bool ``[*shape]``, that are looked at."""
        return which if self.mask is None else which & self.mask

    def spread(self, x: Tensor) -> Tensor:
        """Back from ``[n]`` to the leading shape, 0 where nothing was looked at."""
        if self.index is not None:
            x = x.new_zeros(self.shape.numel()).index_put((self.index,), x)
        return x.reshape(self.shape)


def _task(
    places: _Places,
    size: int,
    labels: Tensor | None,
    teacher: Teacher | None,
    temperature: float,
    top_k: int,
    softcap: float | None,
    label_smoothing: float,
    chunk_size: int | None,
    group: Group,
) -> Task:
    """What the pass is to do, from checked arguments; ``size`` is that of this process's part of the vocabulary."""
    check_positive("temperature", temperature)
    if top_k != 0:
        check_count("top_k", top_k)
    if softcap is not None:
        check_positive("softcap", softcap)
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1); got {label_smoothing}")
    sizes, offset = counts_of(size, group, places.device)
    whole = sum(sizes)
    task = Task(whole, offset, 1 / temperature, softcap, top_k, columns=chunk_size, group=group)
    if labels is not None:
        _check_places("labels", labels, places.shape)
        check_tokens("labels", labels, whole, places.among(labels != IGNORED))
        labels = places.chosen(labels)
        task.labels = torch.where(labels == IGNORED, NOWHERE, labels.long() - offset)
        task.smoothing = label_smoothing
    if isinstance(teacher, TopKTeacher):
        task.teacher = _named(teacher, places, whole, offset)
    elif isinstance(teacher, LinearTeacher):
        hidden, weight, bias = teacher
        _check_floating(**{"teacher.hidden": hidden, "teacher.weight": weight})
        _check_places("teacher.hidden", hidden, places.shape, last=weight.shape[-1])
        _check_sizes(weight.shape[0], size)
        bias = None if bias is None else bias.detach()
        task.teacher = Projected(places.chosen(hidden.detach()), weight.detach(), bias, task.scale, softcap, chunk_size)
    elif teacher is not None:
        _check_floating(teacher=teacher)
        _check_places("teacher", teacher, places.shape, last=teacher.shape[-1])
        _check_sizes(teacher.shape[-1], size)
        task.teacher = Ready(places.chosen(teacher.detach()), task.scale, softcap)
    return task


def _named(teacher: TopKTeacher, places: _Places, size: int, offset: int) -> Named:
    tokens, log_probs = teacher
    _check_places("teacher.tokens", tokens, places.shape, last=tokens.shape[-1])
    _check_places("teacher.log_probs", log_probs, places.shape, last=tokens.shape[-1])
    check_named_tokens("teacher", tokens, log_probs, size, places.mask)
    return Named(places.chosen(tokens).long() - offset, places.chosen(log_probs.detach()))


def _statistics(places: _Places, found: TokenStatistics, what: str) -> TokenStatistics:
    """The numbers in the leading shape; places without a distribution are refused."""
    result = TokenStatistics._make(None if x is None else places.spread(x) for x in found)
    marked = {what: ~result.logsumexp.isfinite()} | ({} if result.kl is None else {"teacher": result.kl.isnan()})
    for name, bad in marked.items():
        if bool(bad.any()):
            raise ValueError(f"{name} must be finite or -inf, and not all -inf; it is not{row_name(bad)}")
    return result


def _check_floating(**given: Tensor) -> None:
    for name, x in given.items():
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {x.dtype}")


def _check_places(name: str, x: Tensor, shape: torch.Size, last: int | None = None) -> None:
    wanted = tuple(shape) if last is None else (*shape, last)
    if tuple(x.shape) != wanted:
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(x.shape)}")


def _check_sizes(teacher: int, student: int) -> None:
    if teacher != student:
        raise ValueError(
            f"teacher must have the student's vocabulary of {student} tokens; got {teacher}. Where the first"
            f" {min(teacher, student)} are the same tokens, cut the longer one; else map tokens and give a TopKTeacher"
        )
