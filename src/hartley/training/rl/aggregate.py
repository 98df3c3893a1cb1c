"""From one loss a token to the loss of a batch, in the modes that verl names."""

from typing import Literal, get_args

import torch
from torch import Tensor

from hartley.info.checks import check_one_of, check_positive
from hartley.info.processes import Group, total

LossAggMode = Literal["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def aggregate(
    values: Tensor,
    mask: Tensor,
    loss_agg_mode: LossAggMode = "token-mean",
    *,
    batch_size: Tensor | float | None = None,
    norm_length: int | None = None,
) -> Tensor:
    """Reduce one value a token to one of the batch, over the tokens that ``mask`` keeps.

    ``values`` and ``mask`` are ``[B, T]``; what ``mask`` drops counts nowhere, whatever it holds, and nothing kept
    gives 0. The modes: ``token-mean``; ``token-sum``; ``seq-mean-token-sum``, the mean over sequences of their sums;
    ``seq-mean-token-mean``, the mean over sequences of their means; ``seq-mean-token-sum-norm``, the mean of the sums
    divided by ``norm_length`` (T if None). A sequence of no kept token is not counted.

    ``batch_size`` is what the mean divides by where this is one part of a batch: its tokens for ``token-mean``, its
    sequences for the others, as `batch_sizes` counts them. The sum over the parts is then the value of the whole batch.
    Raises ``ValueError`` for another mode or for shapes that differ.

    >>> values, mask = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    >>> [float(aggregate(values, mask, mode)) for mode in ("token-sum", "seq-mean-token-sum", "seq-mean-token-mean")]
    [7.0, 3.5, 2.75]
    """
    check_one_of("loss_agg_mode", loss_agg_mode, get_args(LossAggMode))
    if values.shape != mask.shape or values.ndim != 2:
        raise ValueError(f"values and mask must be [B, T] alike; got {tuple(values.shape)} and {tuple(mask.shape)}")
    kept = mask.bool()
    values = torch.where(kept, values, 0)
    if loss_agg_mode == "token-sum":
        return values.sum()
    size = batch_sizes(mask, loss_agg_mode) if batch_size is None else batch_size
    size = torch.as_tensor(size, dtype=values.dtype, device=values.device).clamp(min=torch.finfo(values.dtype).tiny)
    if loss_agg_mode == "token-mean":
        return values.sum() / size
    sums = values.sum(-1)
    if loss_agg_mode == "seq-mean-token-mean":
        sums = sums / kept.sum(-1).clamp(min=1)
    if loss_agg_mode == "seq-mean-token-sum-norm":
        length = mask.shape[1] if norm_length is None else norm_length
        check_positive("norm_length", length)
        sums = sums / length
    return sums.sum() / size


def batch_sizes(mask: Tensor, loss_agg_mode: LossAggMode = "token-mean", *, group: Group = None) -> Tensor:
    """What the mean of a mode divides by: the kept tokens, or the sequences that have one; summed over ``group``.

    With micro-batches, give the mask of all of them. Under DistributedDataParallel, FSDP or DeepSpeed, which average
    gradients over the processes, divide the result by their number.

    >>> batch_sizes(torch.tensor([[1, 1, 0], [0, 0, 0]])), batch_sizes(torch.tensor([[1], [0]]), "seq-mean-token-sum")
    (tensor(2), tensor(1))
    """
    kept = mask.bool()
    return total(kept.sum() if loss_agg_mode == "token-mean" else kept.any(-1).sum(), group)
