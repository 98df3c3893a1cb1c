"""One pass over the tiles of a vocabulary forward, one backward, in which each tile is made again and never kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hartley.info.kernels.tiling import kernels_for
from hartley.info.processes import Group, every, total
from hartley.info.tiles import Projected, Ready, Source, spans
from hartley.info.token_numbers import Found, Sums, TokenStatistics, merged, numbers, slope


class Named(NamedTuple):
    """The tokens that a teacher names and their log-probabilities in nats, ``[N, K]`` each."""

    tokens: Tensor
    log_probs: Tensor


@dataclass
class Task:
    """What a pass is asked for; tokens count from this process's first."""

    size: int  # of the whole vocabulary
    offset: int = 0  # of this process's first token in it
    scale: float = 1.0  # one over the temperature
    softcap: float | None = None
    top_k: int = 0
    labels: Tensor | None = None  # [N]
    smoothing: float = 0.0
    teacher: Source | Named | None = None
    columns: int | None = None
    group: Group = None


def statistics_of(first: Tensor, weight: Tensor | None, bias: Tensor | None, task: Task) -> TokenStatistics:
    """The statistics ``[N]`` of hidden states ``[N, D]``, or of logits ``[N, V]`` where there is no weight."""
    apply: Any = _Pass.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return TokenStatistics._make(apply(first, weight, bias, task))


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, weight: Tensor | None, bias: Tensor | None, task: Task) -> Any:
        source = _source(first, weight, bias, task)
        found = _forth(source, task)
        ctx.save_for_backward(first, weight, bias)
        ctx.task, ctx.found = task, found
        ctx.set_materialize_grads(False)
        return tuple(None if x is None else x.to(source.dtype) for x in numbers(found))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        task: Task = ctx.task
        inputs: tuple[Tensor, Tensor | None, Tensor | None] = ctx.saved_tensors
        source = _source(*inputs, task)
        source.want(*ctx.needs_input_grad[:3])
        _back(source, task, ctx.found, grads)
        found = source.grads()
        if task.group is not None and isinstance(source, Projected) and found[0] is not None:
            found[0] = total(found[0], task.group)  # each has what its part of the vocabulary says
        pairs = zip(found, inputs, strict=True)
        return *(None if grad is None or x is None else grad.to(x.dtype) for grad, x in pairs), None


def _source(first: Tensor, weight: Tensor | None, bias: Tensor | None, task: Task) -> Source:
    if weight is None:
        return Ready(first, task.scale, task.softcap)
    return Projected(first, weight, bias, task.scale, task.softcap, task.columns)


def _forth(source: Source, task: Task) -> Found:
    """Look at every tile once."""
    (count, size), kernels, device = source.shape, kernels_for(source.dtype, source.device), source.device
    k = min(task.top_k, task.size)
    best = torch.full((count, k), -torch.inf, dtype=source.dtype, device=device)
    best_ids = torch.full((count, k), -1, device=device)
    listed_ids = _listed(task, count, device)
    listed = torch.full_like(listed_ids, -torch.inf, dtype=source.dtype)
    plain = torch.zeros(count, dtype=torch.float64, device=device)
    parts: list[Tensor] = []
    teacher = _TeacherSums(task.teacher, count) if isinstance(task.teacher, Projected | Ready) else None
    for columns in spans(size, source.columns):
        part = torch.empty(4, count, dtype=torch.float64, device=device)
        for rows in spans(count, source.rows):
            tile = source.tile(rows, columns)
            part[:, rows] = kernels.sums(tile)
            if listed_ids.shape[1]:
                there, ids = _here(listed_ids[rows], columns)
                listed[rows] = torch.where(there, tile.gather(1, ids), listed[rows])
            if task.smoothing:
                plain[rows] += tile.sum(-1, dtype=torch.float64)
            if k:
                values, ids = tile.topk(min(k, tile.shape[1]))
                best[rows], order = torch.cat([best[rows], values], 1).topk(k)
                best_ids[rows] = torch.cat([best_ids[rows], ids + columns.start], 1).gather(1, order)
            if teacher is not None:
                teacher.look(tile, rows, columns, kernels)
        parts.append(part)
    found = Found(merged(torch.stack(parts)), task.size, best.double(), best_ids)
    if task.labels is not None:
        found.labels, found.label_logit = task.labels, listed[:, 0].double()
        if task.smoothing:
            found.smoothing, found.plain_sum = task.smoothing, plain
    if teacher is not None:
        found.teacher, found.teacher_gap = teacher.found()
    elif isinstance(task.teacher, Named):
        found.named_ids, found.named_probs = task.teacher.tokens, task.teacher.log_probs.double().exp()
        found.named_logits = listed[:, -task.teacher.tokens.shape[1] :].double()
    return found if task.group is None else _joined(found, task)


class _TeacherSums:
    """Its own sums, and the mean over it of how far its logits lie above the student's, tile by tile."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count
        self.parts: list[Tensor] = []
        self.gaps: list[Tensor] = []

    def look(self, tile: Tensor, rows: slice, columns: slice, kernels: Any) -> None:
        """Add one tile ``[R, C]`` of the student."""
        if rows.start == 0:
            self.parts.append(torch.empty(4, self.count, dtype=torch.float64, device=tile.device))
            self.gaps.append(torch.empty(self.count, dtype=torch.float64, device=tile.device))
        own = self.source.tile(rows, columns).to(tile.dtype)
        self.parts[-1][:, rows] = part = kernels.sums(own)
        depth = own - part[0].to(tile.dtype).nan_to_num(neginf=0.0)[:, None]
        gap = (own - tile).masked_fill(own.isneginf(), 0.0)
        held = torch.where(gap.isposinf(), gap, depth.exp_() * gap)  # what we exclude counts, however rare it is there
        self.gaps[-1][rows] = held.sum(-1, dtype=torch.float64)

    def found(self) -> tuple[Sums, Tensor]:
        """The sums of its rows, and that mean."""
        if not self.count:
            none = torch.empty(4, 0, dtype=torch.float64, device=self.source.device)
            self.parts, self.gaps = [none], [none[0]]
        parts, gaps = torch.stack(self.parts), torch.stack(self.gaps)
        sums = merged(parts)
        weight = (parts[:, 0] - sums.top).exp()
        gap = torch.where(gaps.isposinf(), gaps, (gaps * weight).masked_fill(weight == 0, 0.0)).sum(0)
        return sums, gap / (1 + sums.rest)


def _joined(found: Found, task: Task) -> Found:
    """What all processes found in their parts of the vocabulary, together; tokens still count from one's own first."""

    group = task.group

    def among(x: Tensor | None) -> Tensor | None:
        return None if x is None else every(x, group).amax(0)  # all but one have -inf

    best, order = torch.cat(list(every(found.best, group)), 1).topk(found.best.shape[1])
    best_ids = torch.cat(list(every(found.best_ids + task.offset, group)), 1).gather(1, order) - task.offset
    joined = replace(found, sums=merged(every(torch.stack(found.sums), group)), best=best, best_ids=best_ids)
    joined.label_logit, joined.named_logits = among(found.label_logit), among(found.named_logits)
    if found.plain_sum is not None:
        joined.plain_sum = every(found.plain_sum, group).sum(0)
    if found.teacher is not None and found.teacher_gap is not None:
        joined.teacher = merged(every(torch.stack(found.teacher), group))
        share = (found.teacher.logsumexp - joined.teacher.logsumexp).exp()
        joined.teacher_gap = every((share * found.teacher_gap).masked_fill(share == 0, 0.0), group).sum(0)
    return joined


def _back(source: Source, task: Task, found: Found, grads: tuple[Tensor | None, ...]) -> None:
    """Make every tile again and turn it into the slope of the loss by logit, of which the source makes gradients."""
    (count, size), kernels = source.shape, kernels_for(source.dtype, source.device)
    by_logit = slope(found, grads)
    extra, weights = by_logit.extra.to(source.dtype), by_logit.weights.to(source.dtype)
    lse, entropy = found.sums.logsumexp.to(source.dtype), found.sums.entropy.to(source.dtype)
    teacher = task.teacher if by_logit.teacher is not None else None
    for columns in spans(size, source.columns):
        for rows in spans(count, source.rows):
            tile = source.tile(rows, columns)
            out = tile if source.writable else torch.empty_like(tile)
            kernels.slope(tile, lse[rows], entropy[rows], weights[:, rows].contiguous(), out)
            if by_logit.everywhere is not None:
                out += by_logit.everywhere[rows, None].to(out.dtype)
            if extra.shape[1]:
                there, ids = _here(by_logit.ids[rows], columns)
                out.scatter_add_(1, ids, extra[rows] * there)
            if isinstance(teacher, Projected | Ready) and found.teacher is not None and by_logit.teacher is not None:
                own = teacher.tile(rows, columns) - found.teacher.logsumexp[rows, None].to(teacher.dtype)
                out -= (own.exp_() * by_logit.teacher[rows, None]).to(out.dtype)
            source.pull(rows, columns, tile, out)


def _here(ids: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which tokens lie in a span, and their places in it; any place for the others."""
    local = ids - columns.start
    width = columns.stop - columns.start
    return (local >= 0) & (local < width), local.clamp(0, width - 1)


def _listed(task: Task, count: int, device: torch.device) -> Tensor:
    """The tokens whose logits are wanted, ``[N, J]``: the label first, then those that a teacher names."""
    lists = [torch.empty(count, 0, dtype=torch.int64, device=device)]
    if task.labels is not None:
        lists.append(task.labels[:, None])
    if isinstance(task.teacher, Named):
        lists.append(task.teacher.tokens)
    return torch.cat(lists, 1)
