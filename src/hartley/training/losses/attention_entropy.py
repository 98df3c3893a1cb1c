"""Keep the entropy of every attention head inside a learnable band while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hartley.info.attention import attention_entropy, causal_mask, visible
from hartley.info.checks import check_count, check_fraction, check_non_negative, check_one_of

HeadReduction = Literal["mean", "sum"]


class EntropyRegularizer(nn.Module):
    """Penalise each query's attention entropy by its squared distance from its head's threshold, outside a band.

    With E the entropy in nats, E_max the most it could be and theta = w E_max: (E - theta)^2 where |E - theta| > gamma
    E_max, else 0. Averaged over layers and heads. Learn ``w`` with the model: give these parameters to the optimizer.

    Parameters
    ----------
    num_layers, num_heads
        L and H; the thresholds ``w`` are ``[L, H]``, a share of E_max each.
    gamma
        Half the width of the band, as a share of E_max; at least 0.
    coeff
        What the penalty is multiplied by. The paper's 1e-5 belongs to its sum over a batch; with "mean" try 0.01 to 1.
    init
        Where ``w`` starts, in (0, 1].
    reduction
        Over batch and queries: "mean", or the paper's "sum", which grows with both.
    normalize
        "context": E_max is ln K for every query, as in the paper, so that the first rows of a causal mask, which cannot
        reach it, are pulled all the same. "row": the logarithm of the number of keys that the query may see; queries
        that see one key are left out.

    >>> heads = EntropyRegularizer(1, 1, coeff=1.0, reduction="sum")
    >>> heads([torch.ones(4, 4).tril().div(torch.arange(1, 5)[:, None])[None, None]])  # uniform causal attention
    tensor(1.1253, grad_fn=<MulBackward0>)

    Source: Jha & Reagen 2025, "Entropy-Guided Attention for Private LLMs", algorithm 1.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        gamma: float = 0.2,
        coeff: float = 1e-5,
        init: float = 0.5,
        reduction: HeadReduction = "mean",
        normalize: Literal["context", "row"] = "context",
    ) -> None:
        super().__init__()
        check_count("num_layers", num_layers)
        check_count("num_heads", num_heads)
        check_non_negative("gamma", gamma)
        check_non_negative("coeff", coeff)
        check_fraction("init", init)
        check_one_of("reduction", reduction, get_args(HeadReduction))
        check_one_of("normalize", normalize, ("context", "row"))
        self.gamma, self.coeff, self.reduction, self.normalize = gamma, coeff, reduction, normalize
        self.thresholds = nn.Parameter(torch.full((num_layers, num_heads), float(init)))

    def forward(self, attentions: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Return the penalty of ``attentions``, one ``[B, H, Q, K]`` a layer, nats^2 times ``coeff``.

        ``mask`` is bool, broadcasting to ``[B, 1, Q, K]``: which keys a query may see (`hartley.info.causal_mask`);
        queries that see none do not count. Raises ``ValueError`` for another number of layers or heads, and as
        `hartley.info.attention_entropy` (attention dropout must be 0: dropped weights do not sum to 1).
        """
        layers, heads = self.thresholds.shape
        if len(attentions) != layers or any(layer.ndim != 4 or layer.shape[1] != heads for layer in attentions):
            shapes = [tuple(layer.shape) for layer in attentions]
            raise ValueError(f"attentions must hold {layers} layers of shape [B, {heads}, Q, K]; got {shapes}")
        seen = visible(attentions[0], mask).sum(-1)
        keys = attentions[0].shape[-1]
        by_row = self.normalize == "row"
        most = (seen if by_row else torch.full_like(seen, keys)).clamp(min=1).log()
        counts = seen > (1 if by_row else 0)
        total = self.thresholds.new_zeros(())
        for layer, weight in zip(attentions, self.thresholds, strict=True):
            apart = attention_entropy(layer, mask) - weight[:, None] * most
            total = total + apart.square().masked_fill((apart.abs() <= self.gamma * most) | ~counts, 0).sum()
        if self.reduction == "mean":
            total = total / max(1, int(counts[:, 0].sum()))
        return self.coeff * (total / (layers * heads))

    def extra_repr(self) -> str:
        """Settings, for ``print``."""
        return f"gamma={self.gamma}, coeff={self.coeff}, reduction={self.reduction!r}, normalize={self.normalize!r}"


def regularized(
    regularizer: EntropyRegularizer, loss: Callable[..., Tensor] | None = None
) -> Callable[[Any, Tensor, Any], Tensor]:
    """Return a loss with the penalty added, as transformers' ``Trainer(compute_loss_func=...)`` calls it.

    The model must return attentions: ``attn_implementation="eager"``, ``config.output_attentions = True`` and no
    attention dropout; they are taken for causal without padding. ``loss(outputs, labels, num_items_in_batch)`` is the
    loss that is added to, by default the cross-entropy of the next token. The penalty is added only while gradients
    are taken. The Trainer does not optimise ``regularizer.thresholds`` unless they are among its optimizer's
    parameters.

    Raises ``ValueError`` for outputs without attentions.

    >>> out = {"logits": torch.zeros(1, 2, 3), "attentions": (torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]),)}
    >>> regularized(EntropyRegularizer(1, 1, coeff=0.0))(out, torch.tensor([[0, 2]]), None)
    tensor(1.0986, grad_fn=<AddBackward0>)
    """
    base = loss or _next_token

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        value = base(outputs, labels, num_items_in_batch)
        if not torch.is_grad_enabled():
            return value
        attentions = outputs.get("attentions")
        if not attentions:
            raise ValueError(
                'outputs must hold attentions: load the model with attn_implementation="eager" and set '
                "config.output_attentions = True; got none"
            )
        return value + regularizer(attentions, causal_mask(torch.ones_like(labels)))

    return compute


def _next_token(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    logits, labels = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    if num_items_in_batch is None:
        return nn.functional.cross_entropy(logits.float(), labels)
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / num_items_in_batch
