"""Label-distributionally robust losses: a cross-entropy against the worst labels near uniform, robust to wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hartley.info.checks import check_count, check_logits, check_non_negative, check_one_of, check_positive, row_name
from hartley.info.distribution import working_dtype
from hartley.info.measures import entropy
from hartley.info.processes import all_processes, gather
from hartley.training.losses.rows import (
    IGNORE,
    Reduction,
    check_rows_shape,
    kept_rows,
    reduce_rows,
    refuse_second_derivatives,
    take_rows,
)

Normalization = Literal["softplus", "l1"] | None
CHUNK = {"cpu": 2**20, "cuda": 2**24}  # values worked on at once: what stays in a cache; what fills a GPU
NARROW = 0.25  # nats: below this spread 1 - exp(-spread) keeps digits that the logarithm of a sum loses
NEAR = 1e-6  # of lam0: a fixed point is found when a step is smaller


def ldr_kl_loss(
    logits: Tensor,
    target: Tensor,
    lam: float | Tensor = 1.0,
    margin: float = 0.0,
    normalize: Normalization = None,
    reduction: Reduction = "mean",
    *,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Return lam log((1/K) sum_k exp(d_k / lam)), with d_k = f_k - f_y + margin for k other than y, and d_y = 0.

    It is the most that labels drawn from p could cost, less lam KL(p || uniform). At ``lam`` 1 without margin it is
    the cross-entropy less ln K; towards 0 it becomes the largest d (Crammer and Singer's hinge), towards infinity their
    mean, which uniform noise in the labels does not bias. The gradient in f is softmax(d / lam) - onehot(y).

    Parameters
    ----------
    logits
        [..., K] scores f; -inf marks a class that is as if it were not there.
    target
        [...] integers, the class y or ``ignore_index`` for a row that does not count; or [..., K] probabilities, which
        average the loss over y.
    lam
        Above 0, one value or one for each row [...]. It only means something beside the scale of the scores:
        ``normalize`` fixes that.
    margin
        At least 0.
    normalize
        None takes the logits as they are. "softplus" makes them positive with a mean of 1 a row, "l1" divides them by
        their mean absolute value; gradients flow through both.
    reduction
        "mean" over the rows that count, "sum", or "none": [...] with 0 in the rows that do not.
    mask
        [...] bool: rows that count. One that selects nothing gives 0 with a gradient of 0.

    Returns
    -------
    In the unit of the scores (nats at ``lam`` 1), float32 (float64 where the logits are). With classes as target it can
    be differentiated once, and keeps one copy of the logits' size until then.

    Raises
    ------
    ValueError
        For shapes that do not fit, targets outside 0..K-1 or removed, probabilities that do not sum to 1, a ``lam`` or
        ``margin`` outside its range, and a row that counts with NaN, +inf or nothing but -inf.
    TypeError
        For logits that are not floating point.

    >>> ldr_kl_loss(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor(1.3090)
    >>> ldr_kl_loss(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]), lam=10.0)
    tensor(1.0333)

    Source: Zhu, Ying & Yang 2023, "Label Distributionally Robust Losses for Multi-class Classification", eq. 4.
    """
    check_non_negative("margin", margin)
    soft = target.is_floating_point()
    rows, kept = _rows(logits, None if soft else target, normalize, mask, ignore_index)
    lams = _per_row("lam", lam, rows, kept)
    if soft:
        losses = _averaged(rows, _probabilities(target, logits, kept), lams, margin, kept)
    else:
        losses = _hard(rows, take_rows(target, kept), lams, margin, kept)
    return reduce_rows(losses, kept, reduction)


class LDRKLLoss(nn.Module):
    """`ldr_kl_loss` as a module: ``LDRKLLoss(lam=10.0, normalize="softplus")(logits, target)``.

    >>> LDRKLLoss()(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor(1.3090)
    """

    def __init__(
        self,
        lam: float = 1.0,
        margin: float = 0.0,
        normalize: Normalization = None,
        reduction: Reduction = "mean",
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.lam, self.margin, self.ignore_index = lam, margin, ignore_index
        self.normalize: Normalization = normalize
        self.reduction: Reduction = reduction

    def forward(
        self, logits: Tensor, target: Tensor, mask: Tensor | None = None, reduction: Reduction | None = None
    ) -> Tensor:
        """Return the loss of the rows that count; ``reduction`` takes the place of the module's."""
        return ldr_kl_loss(
            logits,
            target,
            self.lam,
            self.margin,
            self.normalize,
            reduction or self.reduction,
            mask=mask,
            ignore_index=self.ignore_index,
        )


def aldr_kl_loss(
    logits: Tensor,
    target: Tensor,
    lam0: float = 1.0,
    alpha: float = 2.0,
    margin: float = 0.1,
    normalize: Normalization = "l1",
    reduction: Reduction = "mean",
    *,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Return the LDR-KL loss at each row's own lam, less (alpha ln K / 2 lam0) (lam - lam0)^2, which lam maximises.

    lam solves lam = lam0 (1 - KL(softmax(d / lam) || uniform) / (alpha ln K)): near ``lam0`` for a row that is unsure,
    down to lam0 (1 - 1 / alpha) for one that is certain. It is found afresh by iterating from ``lam0`` down to the
    first solution, and nothing is kept; `ALDRKLLoss` with an index takes one step a visit instead, as its authors do.

    ``alpha`` is above 1 (at 1 lam could fall to 0), ``target`` holds classes. Otherwise takes, returns and refuses what
    `ldr_kl_loss` does.

    >>> aldr_kl_loss(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]), margin=0.0, normalize=None)
    tensor(1.3296)

    Source: Zhu, Ying & Yang 2023, eq. 6.
    """
    _check_alpha(alpha)
    check_positive("lam0", lam0)
    check_non_negative("margin", margin)
    rows, kept = _rows(logits, target, normalize, mask, ignore_index)
    _check_rows(rows, kept)
    target = take_rows(target, kept).long()
    lams = best_lambdas(rows.detach(), target, lam0, alpha, margin)
    return reduce_rows(_adapted(rows, target, lams, lam0, alpha, margin, kept), kept, reduction)


class ALDRKLLoss(nn.Module):
    """The LDR-KL loss with one lam for each training example, moved a step towards its best value at each visit.

    Parameters
    ----------
    num_examples
        How many training examples there are; their lam start at ``lam0`` and live in the buffer ``lam``, so that
        ``state_dict()`` carries them.
    lam0, alpha, margin, normalize, reduction, ignore_index
        As in `aldr_kl_loss`. The step leaves the margin out of p, as the authors' code does; the loss has it.

    Where `torch.distributed` runs, every process gets the steps of all, so the buffers stay the same; all must call it
    equally often. Raises as `aldr_kl_loss`.

    >>> loss = ALDRKLLoss(4, margin=0.0, normalize=None)
    >>> loss(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]), index=torch.tensor([3]))
    tensor(1.3285)
    >>> loss.lambdas()
    tensor([1.0000, 1.0000, 1.0000, 0.8788])

    Source: Zhu, Ying & Yang 2023, algorithm 1.
    """

    lam: Tensor

    def __init__(
        self,
        num_examples: int,
        lam0: float = 1.0,
        alpha: float = 2.0,
        margin: float = 0.1,
        normalize: Normalization = "l1",
        reduction: Reduction = "mean",
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        check_count("num_examples", num_examples)
        check_positive("lam0", lam0)
        _check_alpha(alpha)
        check_non_negative("margin", margin)
        self.lam0, self.alpha, self.margin = lam0, alpha, margin
        self.normalize: Normalization = normalize
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.register_buffer("lam", torch.full((num_examples,), float(lam0)))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Return the loss of the rows that count; ``reduction`` takes the place of the module's.

        ``index`` [...] says which training example each row is. In training mode, with gradients on, their lam move
        first; otherwise they are read as they stand. Without an index (examples that are not in training) every lam is
        found afresh, as by `aldr_kl_loss`, and nothing is kept.
        """
        reduction = reduction or self.reduction
        if index is None:
            return aldr_kl_loss(
                logits,
                target,
                self.lam0,
                self.alpha,
                self.margin,
                self.normalize,
                reduction,
                mask=mask,
                ignore_index=self.ignore_index,
            )
        rows, kept = _rows(logits, target, self.normalize, mask, self.ignore_index)
        _check_rows(rows, kept)
        target, index = take_rows(target, kept), take_rows(self._checked_index(index, kept), kept)
        lams = self.lam[index]
        if self.training and torch.is_grad_enabled():
            lams = self.lam0 * (1 - from_uniform(rows.detach(), lams) / self.alpha)
            group = all_processes()
            places, values = (gather(x.to(self.lam.device), group)[0] for x in (index, lams.to(self.lam)))
            self.lam[places] = values
        losses = _adapted(rows, target, lams, self.lam0, self.alpha, self.margin, kept)
        return reduce_rows(losses, kept, reduction)

    def lambdas(self) -> Tensor:
        """A copy of every example's lam, [num_examples]: low where the model is sure, ``lam0`` where it is not."""
        return self.lam.clone()

    def _checked_index(self, index: Tensor, kept: Tensor) -> Tensor:
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"index must be integers; got {index.dtype}")
        if index.shape != kept.shape:
            raise ValueError(f"index must have the shape of target, {tuple(kept.shape)}; got {tuple(index.shape)}")
        bad = kept & ((index < 0) | (index >= len(self.lam)))
        if bool(bad.any()):
            allowed = f"0..{len(self.lam) - 1} (num_examples - 1)"
            raise ValueError(f"index must be in {allowed}; got {int(index[bad][0])}{row_name(bad)}")
        return index


def as_compute_loss_func(loss: LDRKLLoss | ALDRKLLoss, shift: bool = False) -> Callable[..., Tensor]:
    """Return ``loss`` as transformers' ``Trainer(compute_loss_func=...)`` calls it.

    It divides by the number of items of the whole accumulated batch, as the Trainer wants. ``shift=True`` is for causal
    language models, whose logits at t are about the label at t + 1.

    The Trainer hands a loss the labels and nothing else, so for `ALDRKLLoss` let each label be a pair ``[label,
    index]``, labels [B, 2] (``compute_metrics`` will see the pairs too). In evaluation, where no gradient is taken, the
    index is not used, since it counts another set, and labels may be plain. The Trainer does not save ``loss``: save
    ``loss.state_dict()`` yourself, and move it to the model's device.

    Raises ``ValueError`` when called without labels, in training with labels for `ALDRKLLoss` that are no pairs, and
    for a pair whose label does not count.

    >>> compute = as_compute_loss_func(LDRKLLoss())
    >>> compute({"logits": torch.tensor([[0.0, 1.0, 2.0]])}, torch.tensor([0]), num_items_in_batch=2)
    tensor(0.6545)
    """
    if shift and isinstance(loss, ALDRKLLoss):
        raise ValueError("shift must be False for ALDRKLLoss, whose lam belong to examples and not to tokens; got True")

    def compute(outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Tensor:
        if labels is None:
            raise ValueError("labels must be among the inputs of the model; got none")
        logits: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if shift:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        keywords: dict[str, Tensor] = {}
        if isinstance(loss, ALDRKLLoss):
            if labels.ndim == logits.ndim and labels.shape[-1] == 2:
                labels, index = labels.unbind(-1)
                if bool((labels == loss.ignore_index).any()):
                    raise ValueError(f"labels must all count beside an index; got {loss.ignore_index}")
                if num_items_in_batch is not None:
                    num_items_in_batch = num_items_in_batch / 2  # the Trainer counted both numbers of each pair
                if torch.is_grad_enabled():
                    keywords = {"index": index}
            elif torch.is_grad_enabled():
                raise ValueError(f"labels must be pairs [label, index], shape [B, 2]; got shape {tuple(labels.shape)}")
        if num_items_in_batch is None:
            return loss(logits, labels, reduction="mean", **keywords)
        return loss(logits, labels, reduction="sum", **keywords) / num_items_in_batch

    return compute


def normalized(scores: Tensor, how: Normalization) -> Tensor:
    """Return ``scores`` [..., K] in the scale that lam is meant for; -inf stays and does not count.

    >>> normalized(torch.tensor([-1.0, 0.0, 3.0]), "l1")
    tensor([-0.7500,  0.0000,  2.2500])

    Source: the authors' experiments; the paper does not state it.
    """
    check_one_of("normalize", how, (None, *get_args(get_args(Normalization)[0])))
    if how is None:
        return scores
    removed = scores == -torch.inf if bool((scores.detach().amin(-1) == -torch.inf).any()) else None
    if removed is not None:
        scores = scores.masked_fill(removed, 0)
    values = F.softplus(scores) if how == "softplus" else scores
    size = values if how == "softplus" else values.abs()
    if removed is None:
        size = size.mean(-1, keepdim=True)
    else:
        size = size.masked_fill(removed, 0).sum(-1, keepdim=True) / (~removed).sum(-1, keepdim=True)
    values = values / torch.where(size > 0, size, 1)
    return values if removed is None else values.masked_fill(removed, -torch.inf)


def from_uniform(scores: Tensor, lams: Tensor) -> Tensor:
    """Return KL(softmax(scores / lam) || uniform) / ln K of each row [N, K], a share in [0, 1]; 0 where K is 1."""
    shares = torch.empty(len(scores), dtype=working_dtype(scores.dtype), device=scores.device)
    for part in _parts(scores):
        chunk = scores[part].to(shares.dtype)
        total = (chunk > -torch.inf).sum(-1).to(shares.dtype).log()
        found = entropy(logits=chunk / lams[part, None].to(shares.dtype))
        shares[part] = torch.where(total > 0, 1 - found / torch.where(total > 0, total, 1), 0).clamp_(0, 1)
    return shares


def best_lambdas(scores: Tensor, target: Tensor, lam0: float, alpha: float, margin: float) -> Tensor:
    """Return the largest solution of each row's fixed point, margin included, [N]; from ``lam0`` all steps go down."""
    scores = scores.to(working_dtype(scores.dtype), copy=True)
    scores.scatter_add_(1, target[:, None], torch.full_like(scores[:, :1], -margin))
    lams = torch.full_like(scores[:, 0], lam0)
    moving = torch.arange(len(scores), device=scores.device)
    while len(moving):
        found = lam0 * (1 - from_uniform(scores[moving], lams[moving]) / alpha)
        moved = lams[moving] - found > NEAR * lam0
        lams[moving] = torch.minimum(found, lams[moving])
        moving = moving[moved]
    return lams


def _adapted(
    rows: Tensor, target: Tensor, lams: Tensor, lam0: float, alpha: float, margin: float, kept: Tensor
) -> Tensor:
    losses = _hard(rows, target, lams, margin, kept)
    classes = (rows.detach() > -torch.inf).sum(-1).to(losses.dtype)
    return losses - alpha * classes.log() / (2 * lam0) * (lams.to(losses.dtype) - lam0) ** 2


def _check_alpha(alpha: float) -> None:
    if not 1 < alpha < math.inf:
        raise ValueError(f"alpha must be finite and above 1 (at 1 a lam could fall to 0); got {alpha}")


def _rows(
    logits: Tensor, target: Tensor | None, normalize: Normalization, mask: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The rows that count [N, K], normalised, and which they are."""
    check_rows_shape("logits", logits)
    kept = kept_rows(logits, target, mask=mask, ignore_index=ignore_index, labels_name="target")
    rows = take_rows(logits, kept)
    if normalize is None:
        return rows, kept
    _check_rows(rows, kept)
    return normalized(rows.to(working_dtype(rows.dtype)), normalize), kept


def _check_rows(rows: Tensor, kept: Tensor) -> None:
    try:
        check_logits(rows)
    except ValueError:
        whole = torch.zeros(*kept.shape, rows.shape[-1], dtype=rows.dtype, device=rows.device)
        check_logits(whole.masked_scatter(kept[..., None], rows.detach()))  # again, to name the row by its own place
        raise


def _per_row(name: str, value: float | Tensor, rows: Tensor, kept: Tensor) -> Tensor:
    check_positive(name, value)
    if isinstance(value, Tensor) and value.ndim > 0:
        if value.shape != kept.shape:
            raise ValueError(f"{name} must be one value or one per row, {tuple(kept.shape)}; got {tuple(value.shape)}")
        return take_rows(value.detach(), kept).to(rows.device)
    return torch.full((len(rows),), float(value), dtype=working_dtype(rows.dtype), device=rows.device)


def _probabilities(target: Tensor, logits: Tensor, kept: Tensor) -> Tensor:
    if target.shape != logits.shape:
        raise ValueError(
            f"target must hold classes (integers) or probabilities of the shape of logits, {tuple(logits.shape)}; "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    probs = take_rows(target, kept).to(working_dtype(target.dtype))
    bad = ((probs.sum(-1) - 1).abs() > 1e-3) | (probs < 0).any(-1)
    if bool(bad.any()):
        raise ValueError(f"target must hold probabilities that sum to 1; got a sum of {float(probs[bad][0].sum()):.6g}")
    return probs


def _averaged(rows: Tensor, probs: Tensor, lams: Tensor, margin: float, kept: Tensor) -> Tensor:
    """The loss averaged over y drawn from ``probs``, from that of the likeliest class t without a margin.

    psi_y - psi_t = f_t - f_y + margin + lam log(1 - (1 - exp(-margin / lam)) p_y), with p = softmax(f / lam). Where p_y
    is large, 1 - p_y is the sum of the others instead, so that nothing cancels.
    """
    rows = rows.to(working_dtype(rows.dtype))
    removed = rows == -torch.inf
    if bool((removed & (probs > 0)).any()):
        raise ValueError("target must give no probability to a class at -inf; got some")
    lams = lams.to(rows.dtype)
    top = rows.detach().argmax(-1, keepdim=True)
    base = _hard(rows, top[:, 0], lams, 0.0, kept)
    lams = lams[:, None]
    p = (rows / lams).softmax(-1)
    shrink = torch.expm1(-margin / lams)
    others = p.scatter(-1, top, 0).sum(-1, keepdim=True)
    likely = (p > 0.5) & (shrink < -0.5)  # the likeliest class at most
    mild = torch.log1p(shrink * torch.where(likely, 0, p))
    steep = (others + (1 + shrink) * p.gather(-1, top)).clamp(min=torch.finfo(p.dtype).tiny).log()
    differences = rows.gather(-1, top) - rows.masked_fill(removed, 0) + margin + lams * torch.where(likely, steep, mild)
    return base + (probs * differences).sum(-1)


def _hard(rows: Tensor, target: Tensor, lams: Tensor, margin: float, kept: Tensor) -> Tensor:
    losses: Tensor = _LDR.apply(rows, target.long(), lams, margin)
    if not bool(losses.detach().isfinite().all()):
        _check_rows(rows, kept)
        bad = rows.detach().gather(1, target[:, None])[:, 0] == -torch.inf
        if bool(bad.any()):
            place = row_name(torch.zeros_like(kept).masked_scatter(kept, bad))
            raise ValueError(f"target must be a class that is there; got one whose logit is -inf{place}")
    return losses


def _parts(rows: Tensor) -> Iterator[slice]:
    """Slices of rows [N, K] that hold about as many values as are worked on at once."""
    step = max(1, CHUNK.get(rows.device.type, CHUNK["cuda"]) // rows.shape[1])
    return (slice(start, start + step) for start in range(0, len(rows), step))


class _LDR(torch.autograd.Function):
    """Losses [N] of rows [N, K], a few rows at a time, with one thing of the size of the rows kept: ln p."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, target: Tensor, lams: Tensor, margin: float) -> Tensor:
        target, lams = target[:, None], lams.to(working_dtype(rows.dtype))[:, None]
        losses, log_probs = torch.empty_like(lams), torch.empty_like(rows, dtype=lams.dtype)
        for part in _parts(rows):
            scaled, lam, at = _scaled(rows[part], target[part], lams[part], margin), lams[part], target[part]
            low = scaled.amin(-1, keepdim=True)
            classes = torch.full_like(lam, rows.shape[1])
            if bool((low == -torch.inf).any()):
                there = scaled > -torch.inf
                classes = there.sum(-1, keepdim=True).to(lam.dtype)
                low = torch.where(there, scaled, torch.inf).amin(-1, keepdim=True)
            torch.log_softmax(scaled, -1, out=log_probs[part])
            losses[part] = -lam * (log_probs[part].gather(1, at) + classes.log())
            own = scaled.gather(1, at)
            if bool((own - low <= NARROW).any()):  # then perhaps all are alike: their mean exponential is close to 1
                top = scaled.amax(-1, keepdim=True)
                lacking = ((scaled - top).expm1_().sum(-1, keepdim=True) + (rows.shape[1] - classes)) / classes
                losses[part] = torch.where(top - low <= NARROW, lam * (top - own + lacking.log1p()), losses[part])
        ctx.save_for_backward(target, log_probs)
        ctx.dtype = rows.dtype
        return losses[:, 0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        refuse_second_derivatives("ldr_kl_loss")
        target, log_probs = ctx.saved_tensors
        upstream = grad_outputs[0][:, None]
        grad = torch.empty_like(log_probs)
        for part in _parts(grad):
            torch.exp(log_probs[part], out=grad[part]).mul_(upstream[part])
        return grad.scatter_add_(1, target, -upstream).to(ctx.dtype), None, None, None


def _scaled(rows: Tensor, target: Tensor, lams: Tensor, margin: float) -> Tensor:
    """The scores less the margin at the label, divided by lam."""
    if not margin and bool((lams == 1).all()):
        return rows.to(lams.dtype)
    scaled = rows / lams  # what it rounds is what a float of the score's size rounds
    return scaled.scatter_add_(1, target, -margin / lams) if margin else scaled
