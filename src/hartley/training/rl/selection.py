"""Which tokens of a batch an intervention touches.

Every selection is over the tokens it is given, together with those of the other processes of ``group``. Called on one
micro-batch, it is per micro-batch, as the papers' code is. Called once on the tokens of all micro-batches (flattened
and joined) it is global, and the same however the batch was cut into micro-batches and processes: places count in the
order of the ranks, then in the order given.
"""

import math

import torch
from torch import Tensor

from hartley.info.checks import check_fraction
from hartley.info.processes import Group, counts_of, from_first, gather, total


def share_of(ratio: float, tokens: int) -> int:
    """How many tokens a ratio is: ``max(1, floor(ratio * tokens))``; none for a ratio of 0 or no tokens.

    >>> share_of(2e-4, 30_000), share_of(2e-4, 100), share_of(0.0, 100)
    (6, 1, 0)
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1]: a fraction, not a percentage; got {ratio}")
    if ratio == 0 or tokens == 0:
        return 0
    return max(1, math.floor(ratio * tokens + 1e-9))  # 0.29 of 100 tokens are 29, whatever the product rounds to


def largest(scores: Tensor, mask: Tensor, ratio: float, *, group: Group = None) -> Tensor:
    """Mark the share ``ratio`` of the kept tokens whose scores are largest, at least one; ties go to the earlier.

    ``scores`` and ``mask`` have one shape, any; so has the result (bool). Raises ``ValueError`` for a ratio outside
    [0, 1].

    >>> largest(torch.tensor([0.1, 3.0, 2.0, 9.0]), torch.tensor([1, 1, 1, 0]), 0.4)
    tensor([False,  True, False, False])
    """
    kept = mask.bool()
    wanted = share_of(ratio, int(total(kept.sum(), group)))
    marked = torch.zeros_like(kept)
    if wanted == 0:
        return marked
    best, places = scores.detach()[kept].sort(descending=True, stable=True)
    best, places = best[:wanted], places[:wanted]  # no more than these can be among the largest of all
    everyone, start = gather(best, group)
    chosen = everyone.sort(descending=True, stable=True).indices[:wanted] - start
    mine = places[chosen[(chosen >= 0) & (chosen < len(best))]]
    flags = torch.zeros(int(kept.sum()), dtype=torch.bool, device=kept.device)
    flags[mine] = True
    marked[kept] = flags
    return marked


def at_random(eligible: Tensor, count: int, *, generator: torch.Generator | None = None, group: Group = None) -> Tensor:
    """Mark ``count`` of the eligible tokens uniformly at random without replacement, or all where there are fewer.

    ``eligible`` is a bool tensor of any shape; so is the result. With a ``group`` the first process draws, from its
    ``generator`` (a CPU generator; None is torch's own), and the others follow.

    >>> at_random(torch.tensor([True, True, False]), 2, generator=torch.Generator().manual_seed(0))
    tensor([ True,  True, False])
    """
    here = int(eligible.sum())
    counts, start = counts_of(here, group, eligible.device)
    marked = torch.zeros_like(eligible)
    count = min(count, sum(counts))
    if count == 0:
        return marked
    drawn = torch.randperm(sum(counts), generator=generator)[:count].to(eligible.device)
    drawn = from_first(drawn, group) - start
    flags = torch.zeros(here, dtype=torch.bool, device=eligible.device)
    flags[drawn[(drawn >= 0) & (drawn < here)]] = True
    marked[eligible] = flags
    return marked


def quantile(values: Tensor, mask: Tensor, q: float, *, group: Group = None) -> Tensor:
    """The ``q``-quantile of the kept values (0-d), by linear interpolation; NaN where none is kept.

    >>> quantile(torch.tensor([1.0, 2.0, 4.0, 9.0]), torch.tensor([1, 1, 1, 0]), 0.75)
    tensor(3.)
    """
    everyone, _ = gather(values[mask.bool()], group)
    if len(everyone) == 0:
        return values.new_tensor(torch.nan)
    order = everyone.sort().values  # torch.quantile refuses more than 16 million
    place = q * (len(order) - 1)
    low = math.floor(place)
    return torch.lerp(order[low], order[min(low + 1, len(order) - 1)], place - low)


def top_entropy_mask(entropy: Tensor, mask: Tensor, top_entropy_quantile: float, *, group: Group = None) -> Tensor:
    """Mark the kept tokens whose entropy is among the highest share ``top_entropy_quantile``; 1 marks all kept ones.

    The threshold is the (1 - ``top_entropy_quantile``)-quantile of the entropies of the kept tokens; those on it stay.
    ``entropy`` (nats) and ``mask`` have one shape, so has the result (bool); multiply the loss of each token by it.
    TRL's option of this name takes its threshold over the micro-batch of all processes. Raises ``ValueError`` for a
    share outside (0, 1].

    >>> top_entropy_mask(torch.tensor([0.1, 2.0, 0.5, 7.0]), torch.tensor([1, 1, 1, 0]), 0.5)
    tensor([False,  True,  True, False])

    Source: Wang et al. 2025, "Beyond the 80/20 Rule", section 5; TRL's ``GRPOConfig.top_entropy_quantile``.
    """
    check_fraction("top_entropy_quantile", top_entropy_quantile)
    kept = mask.bool()
    return kept & (entropy.detach() >= quantile(entropy.detach(), mask, 1 - top_entropy_quantile, group=group))
