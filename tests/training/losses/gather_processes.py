"""Run as ``python gather_processes.py RANK STORE OUT``: the Sinkhorn loss of rows that two processes share."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hartley.training.losses import sinkhorn_kd_loss

ROWS = (3, 2)  # of each process that count; the second has one more, masked


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher logits of both processes together."""
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(sum(ROWS), 6, generator=generator, dtype=torch.float64) for _ in range(2))


def main(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    mine = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)
    student, teacher = (logits[mine] for logits in data())
    mask = torch.ones(len(student), dtype=torch.bool)
    if rank == 1:
        student, teacher = (torch.cat([x, torch.full((1, 6), torch.nan)]) for x in (student, teacher))
        mask = torch.tensor([True, True, False])
    student = student.clone().requires_grad_()
    found = {}
    for reduction in ("sum", "mean"):
        loss = sinkhorn_kd_loss(student, teacher, mask=mask, weight=1.0, gather=True, reduction=reduction)
        found[reduction] = loss.item()
        found[f"{reduction} gradient"] = torch.autograd.grad(loss, student)[0].tolist()
    nothing = sinkhorn_kd_loss(student, teacher, mask=mask & (rank == 0), weight=1.0, gather=True)
    found["one empty"] = nothing.item()
    found["one empty gradient"] = torch.autograd.grad(nothing, student)[0].abs().sum().item()
    Path(f"{out}.{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
