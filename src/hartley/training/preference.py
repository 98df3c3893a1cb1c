"""Losses of direct alignment on pairs of answers: DPO, IPO and the hinge, in the paper's and in TRL's conventions.

All take the log-probability of whole answers, summed over their tokens (nats), as `sequence_log_probs` gives them.
Delta stands for the margin [log pi(chosen) - log ref(chosen)] - [log pi(rejected) - log ref(rejected)]. The three agree
on nothing but that: DPO sees Delta alone, so both likelihoods can fall while it improves.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from hartley.info import logits_statistics
from hartley.info.checks import check_non_negative, check_one_of, check_positive

Convention = Literal["paper", "trl"]
Reduction = Literal["mean", "sum", "none"]


def sequence_log_probs(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each answer, summed over its tokens, and how many tokens that is.

    Shapes: ``logits`` [B, T, V] of any floating dtype, ``labels`` [B, T] with ``ignore_index`` on prompt and padding;
    ``logits[:, t]`` are those that predict ``labels[:, t]`` (shift them first where a model returns them unshifted).
    Returns [B] in nats (float32, or float64 for float64) and [B] of int64; an answer without tokens gives 0 and 0.
    Raises ``ValueError`` for shapes that disagree.

    >>> logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> sums, lengths = sequence_log_probs(logits, torch.tensor([[1, -100]]))
    >>> sums, lengths
    (tensor([-0.6931]), tensor([1]))
    """
    if logits.shape[:-1] != labels.shape or labels.ndim != 2:
        raise ValueError(
            f"labels must be [B, T] and logits [B, T, V]; got {tuple(labels.shape)} and {tuple(logits.shape)}"
        )
    counted = labels != ignore_index
    log_prob = logits_statistics(logits, labels.masked_fill(~counted, 0), mask=counted).log_prob
    assert log_prob is not None  # labels were given
    return log_prob.masked_fill(~counted, 0.0).sum(-1), counted.sum(-1)


def dpo_loss(
    chosen_log_probs: Tensor,
    rejected_log_probs: Tensor,
    ref_chosen_log_probs: Tensor,
    ref_rejected_log_probs: Tensor,
    *,
    beta: float = 0.1,
    nll: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return -log sigmoid(``beta`` Delta), TRL's ``loss_type="sigmoid"``, plus ``nll`` times -log pi(chosen).

    Shapes: four of [B], log-probabilities summed over each answer (nats); half precision is computed in float32.
    ``reduction``: "mean" and "sum" give a scalar, "none" [B]; no pair at all gives 0 with a gradient of 0.
    Raises ``ValueError`` for shapes that differ, ``beta`` not above 0, ``nll`` below 0 or another ``reduction``.

    >>> zero = torch.zeros(2)
    >>> dpo_loss(zero, zero, zero, zero)
    tensor(0.6931)

    Source: Rafailov et al. 2023, "Direct Preference Optimization", eq. 7; the NLL term Shi et al. 2024, section 3.
    """
    check_positive("beta", beta)
    chosen, rejected, ref_chosen, ref_rejected = _same(
        chosen_log_probs=chosen_log_probs,
        rejected_log_probs=rejected_log_probs,
        ref_chosen_log_probs=ref_chosen_log_probs,
        ref_rejected_log_probs=ref_rejected_log_probs,
    )
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return _reduce(-logsigmoid(beta * margin), chosen, nll, reduction)


def ipo_loss(
    chosen_log_probs: Tensor,
    rejected_log_probs: Tensor,
    ref_chosen_log_probs: Tensor,
    ref_rejected_log_probs: Tensor,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    *,
    tau: float = 0.1,
    convention: Convention = "paper",
    nll: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return (``tau`` Delta - 1/2)^2, whose margin aims at 1 / (2 ``tau``) and goes no further.

    ``convention="trl"`` is what TRL computes for ``loss_type="ipo"`` with ``beta=tau``: each answer's log-ratio is
    divided by its length, and the loss is (Delta - 1 / (2 ``tau``))^2, the paper's divided by ``tau``^2. It needs both
    lengths [B] (tokens). Otherwise as `dpo_loss`; ``nll`` weighs the chosen answer's log-probability, per token too
    under "trl". Raises ``ValueError`` as `dpo_loss` does, and for "trl" without lengths.

    >>> zero = torch.zeros(2)
    >>> ipo_loss(zero, zero, zero, zero)
    tensor(0.2500)
    >>> ipo_loss(torch.full((2,), 5.0), zero, zero, zero, tau=0.1)  # the target: 1 / (2 * 0.1)
    tensor(0.)

    Source: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq. 17.
    """
    check_positive("tau", tau)
    check_one_of("convention", convention, ("paper", "trl"))
    chosen, rejected, ref_chosen, ref_rejected = _same(
        chosen_log_probs=chosen_log_probs,
        rejected_log_probs=rejected_log_probs,
        ref_chosen_log_probs=ref_chosen_log_probs,
        ref_rejected_log_probs=ref_rejected_log_probs,
    )
    if convention == "paper":
        margin = (chosen - ref_chosen) - (rejected - ref_rejected)
        return _reduce((tau * margin - 0.5) ** 2, chosen, nll, reduction)
    long, short = _lengths(chosen, chosen_lengths, rejected_lengths, 'convention="trl"')
    margin = (chosen - ref_chosen) / long - (rejected - ref_rejected) / short
    return _reduce((margin - 0.5 / tau) ** 2, chosen / long, nll, reduction)


def slic_hinge_loss(
    chosen_log_probs: Tensor,
    rejected_log_probs: Tensor,
    ref_chosen_log_probs: Tensor | None = None,
    ref_rejected_log_probs: Tensor | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    *,
    gamma: float = 1.0,
    reg: float = 0.0,
    beta: float = 0.1,
    convention: Convention = "paper",
    nll: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return max(0, ``gamma`` - [log pi(chosen) - log pi(rejected)]), of log-probabilities averaged over tokens.

    The paper's form has no reference in it and needs both lengths [B]; ``reg`` adds ``reg`` log(1 + exp(1 - [log
    pi(chosen) - log ref(chosen)])), averaged over tokens too, and then needs the chosen answers' reference.
    ``convention="trl"`` is TRL's ``loss_type="hinge"`` instead: max(0, 1 - ``beta`` Delta), summed over tokens, with
    both references and neither ``gamma`` nor ``reg``. Otherwise as `dpo_loss`.
    Raises ``ValueError`` as `dpo_loss` does, and for what a convention needs and does not get.

    >>> ones, two = torch.ones(1), torch.tensor([2])
    >>> slic_hinge_loss(-ones, -2 * ones, chosen_lengths=two, rejected_lengths=two)  # the gap is half a nat a token
    tensor(0.5000)

    Source: Zhao et al. 2023, "SLiC-HF"; as in Shi et al. 2024, section 3.
    """
    check_one_of("convention", convention, ("paper", "trl"))
    check_non_negative("gamma", gamma)
    check_non_negative("reg", reg)
    check_positive("beta", beta)
    if convention == "trl":
        if ref_chosen_log_probs is None or ref_rejected_log_probs is None:
            raise ValueError('convention="trl" needs ref_chosen_log_probs and ref_rejected_log_probs; got None')
        if reg or gamma != 1.0:
            raise ValueError(f'convention="trl" has neither gamma nor reg; got gamma={gamma}, reg={reg}')
        chosen, rejected, ref_chosen, ref_rejected = _same(
            chosen_log_probs=chosen_log_probs,
            rejected_log_probs=rejected_log_probs,
            ref_chosen_log_probs=ref_chosen_log_probs,
            ref_rejected_log_probs=ref_rejected_log_probs,
        )
        margin = (chosen - ref_chosen) - (rejected - ref_rejected)
        return _reduce((1 - beta * margin).relu(), chosen, nll, reduction)
    chosen, rejected = _same(chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs)
    long, short = _lengths(chosen, chosen_lengths, rejected_lengths, 'convention="paper"')
    loss = (gamma - (chosen / long - rejected / short)).relu()
    if reg:
        if ref_chosen_log_probs is None:
            raise ValueError(f"reg={reg} needs ref_chosen_log_probs; got None")
        chosen, ref_chosen = _same(chosen_log_probs=chosen_log_probs, ref_chosen_log_probs=ref_chosen_log_probs)
        loss = loss + reg * softplus(1 - (chosen - ref_chosen) / long)
    return _reduce(loss, chosen / long, nll, reduction)


class DPOLoss(nn.Module):
    """`dpo_loss` with its settings.

    >>> DPOLoss(beta=0.5)(*torch.zeros(4, 3))
    tensor(0.6931)
    """

    def __init__(self, beta: float = 0.1, nll: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.settings = {"beta": beta, "nll": nll, "reduction": reduction}

    def forward(self, *log_probs: Tensor) -> Tensor:
        """As `dpo_loss`."""
        return dpo_loss(*log_probs, **self.settings)  # type: ignore[arg-type]


class IPOLoss(nn.Module):
    """`ipo_loss` with its settings.

    >>> IPOLoss(tau=0.5)(*torch.zeros(4, 3))
    tensor(0.2500)
    """

    def __init__(
        self, tau: float = 0.1, convention: Convention = "paper", nll: float = 0.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        self.settings = {"tau": tau, "convention": convention, "nll": nll, "reduction": reduction}

    def forward(self, *log_probs: Tensor) -> Tensor:
        """As `ipo_loss`: four log-probabilities, then the two lengths where the convention needs them."""
        return ipo_loss(*log_probs, **self.settings)  # type: ignore[arg-type]


class SLiCHingeLoss(nn.Module):
    """`slic_hinge_loss` with its settings.

    >>> SLiCHingeLoss()(*torch.zeros(2, 3), chosen_lengths=torch.ones(3), rejected_lengths=torch.ones(3))
    tensor(1.)
    """

    def __init__(
        self,
        gamma: float = 1.0,
        reg: float = 0.0,
        beta: float = 0.1,
        convention: Convention = "paper",
        nll: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.settings = {
            "gamma": gamma, "reg": reg, "beta": beta, "convention": convention, "nll": nll, "reduction": reduction,
        }  # fmt: skip

    def forward(self, *log_probs: Tensor, **more: Tensor) -> Tensor:
        """As `slic_hinge_loss`."""
        return slic_hinge_loss(*log_probs, **more, **self.settings)  # type: ignore[arg-type]


def _same(**given: Tensor) -> list[Tensor]:
    """The tensors in at least float32; ``ValueError`` unless all are [B]."""
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    if len(set(shapes.values())) > 1 or any(value.ndim != 1 for value in given.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"log-probabilities must be one a pair, [B], of one shape; got {listed}")
    return [value.to(torch.promote_types(value.dtype, torch.float32)) for value in given.values()]


def _lengths(like: Tensor, chosen: Tensor | None, rejected: Tensor | None, who: str) -> list[Tensor]:
    found: list[Tensor] = []
    for name, value in (("chosen_lengths", chosen), ("rejected_lengths", rejected)):
        if value is None:
            raise ValueError(f"{who} averages over tokens and needs {name}; got None")
        if value.shape != like.shape:
            raise ValueError(f"{name} must have shape {tuple(like.shape)}, as the pairs; got {tuple(value.shape)}")
        found.append(value.to(like.dtype).clamp(min=1))  # an answer without tokens has a log-probability of 0
    return found


def _reduce(loss: Tensor, chosen: Tensor, nll: float, reduction: str) -> Tensor:
    check_non_negative("nll", nll)
    check_one_of("reduction", reduction, ("mean", "sum", "none"))
    if nll:
        loss = loss - nll * chosen
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / max(1, loss.numel())
